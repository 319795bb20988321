"""Unit pooling: another method's weights, averaged over words, numbers or other units."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field, field_validator

from mmcredit.components import Needs, build, register
from mmcredit.credit.base import CreditMethod, Step
from mmcredit.rollouts import Credit, Rollouts


def pool(values: torch.Tensor, unit: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """[B,T]: every value replaced by the mean of its unit; unit [B,T] int64, equal numbers in a row are one unit, -1 is
    none (the value stays). 0 where mask is False. The sum over a unit's masked tokens is kept; a unit of one token
    keeps its bits."""
    inside = mask & (unit >= 0)
    width = int(unit.max()) + 1 if unit.numel() and bool(inside.any()) else 1
    index = torch.where(inside, unit, width)
    size = (*values.shape[:1], width + 1)
    sums = torch.zeros(size, dtype=values.dtype, device=values.device)
    sums = sums.scatter_add(1, index, torch.where(inside, values, torch.zeros_like(values)))
    counts = torch.zeros(size, dtype=values.dtype, device=values.device).scatter_add(1, index, inside.to(values.dtype))
    mean = (sums / counts.clamp(min=1)).gather(1, index)
    alone = counts.gather(1, index) <= 1
    return torch.where(mask, torch.where(inside & ~alone, mean, values), torch.zeros_like(values))


@register("credit", "pooled")
class Pooled(CreditMethod):
    """What a method changes about the tokens of a unit is averaged over the unit and given to all of its tokens.

    A word, a number or an identifier is cut into tokens by the tokenizer's habits; a score of its pieces says less than
    one of the whole. The advantages after `method` become, per unit u of a response,

        A_t = mean over the tokens of u of A,   t in u

    so that the sum over a unit, and over a response, is that of `method`. Units come from the signal `unit_id` [B,T]
    (equal numbers = one unit, -1 = none), which the run makes of the sampled ids: `by: word` a run of letters or digits
    with the space before it, `number` runs of digits with their point or comma, `identifier` words with underscores and
    digits, `token` every token alone, which changes nothing, to the bit. A unit is pooled over its tokens in the loss.

        credit: [grpo, {pooled: {method: forking_tokens, by: word}}]

    Merging the sub-tokens of one identifier by averaging: "On the Effect of Token Merging on Pre-trained Models for
    Code"; here scores are merged and not states. `method` none pools the credit so far. Passes: those of `method`.
    """

    changes = ("advantages", "loss_mask")

    method: str | dict[str, Any] | None = Field(
        None, description="method whose credit is pooled; none: what came before"
    )
    by: Literal["word", "number", "identifier", "token"] = Field("word", description="what a unit is")

    @field_validator("method")
    @classmethod
    def _known(cls, method: str | dict[str, Any] | None) -> str | dict[str, Any] | None:
        if method is not None:
            own = build("credit", method)
            if own.starts or own.name == "pooled":  # type: ignore[attr-defined]
                raise ValueError(f"{own.name!r} cannot be pooled; name a method that reshapes advantages")
            if hasattr(own, "at_update") or own.state_dict():  # type: ignore[attr-defined]
                raise ValueError(f"{own.name!r} acts at updates or has memory across steps, and cannot be pooled")
        return method

    def needs(self) -> Needs:
        needs = Needs(signals=("unit_id",), settings={"unit_id": {"by": self.by}})
        return needs if self.method is None else needs | build("credit", self.method).needs()

    def __call__(self, credit: Credit, rollouts: Rollouts, step: Step) -> Credit:
        if self.method is not None:
            inner: Any = build("credit", self.method)
            credit = inner(credit, rollouts, step)
        unit = rollouts.signal("unit_id")
        mask = credit.loss_mask
        if unit.shape != mask.shape or unit.dtype != torch.int64:
            raise ValueError(f"signals['unit_id'] must be int64 of shape {list(mask.shape)}, got {unit.dtype}")
        after = pool(credit.advantages, unit, mask)
        step.note("units", sum(len(row[keep & (row >= 0)].unique()) for row, keep in zip(unit, mask, strict=True)))
        return credit.replace(advantages=torch.where(mask, after, credit.advantages))
