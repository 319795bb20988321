"""Attention entropy: anchors first, explorers later."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field, model_validator

from mmcredit.components import Needs, register
from mmcredit.credit.base import CreditMethod, Step
from mmcredit.credit.curves import Curve, decay
from mmcredit.credit.tokens import Normalizer, ranks, restrict, token_signal
from mmcredit.rollouts import Credit, Rollouts

if TYPE_CHECKING:
    from torch import Tensor


@register("credit", "attention_entropy")
class AttentionEntropy(CreditMethod):
    """Soft weights by the rank of a token's attention entropy, from anchors (low) early to explorers (high) late.

    e in [0,1] is the signal `attention_entropy`: the entropy of the head-averaged attention of one middle layer at the
    position that predicts the token, over the log of the context length.
      u = (rank(e) + 0.5)/n within `scope`, equal values sharing their mean rank (`form: value`: u = min-max of e)
      p = progress of the run between `start` and `end`, along `curve`
      w = 1 + eta*(2p-1)*(2u-1);  A <- A*w
    With ranks the mean of w is 1 and its range [1-eta, 1+eta]; p = 1/2 changes nothing. `one_sided` weighs explorers
    (u > 1/2) alone; `self_normalised` divides by the mean of w over the batch.
    Hard modes keep the fraction `rho` of the tokens of each scope, rounded up: `anchor` the lowest e, `explorer` the
    highest, `random` any (seeded per step).

    Source: arXiv 2605.07660. The paper's weight formula, schedule and constants were not available: everything but
    the quantity, its 20 % and the direction of the schedule is our reconstruction, not the authors' formula.
    Defaults: rho .2 (paper); eta .3, linear over the whole run, ranks over the batch (ours). The loss keeps its
    denominator in soft mode; `normalizer` chooses it in hard modes.
    Passes: none of its own; the signal needs the attention scores of one layer in the clean pass.
    """

    changes = ("advantages", "loss_mask")

    mode: Literal["soft", "anchor", "explorer", "random"] = Field("soft", description="weights, or a mask")
    eta: float = Field(0.3, ge=0, lt=1, description="strength of the weights")
    scope: Literal["batch", "group", "response"] = Field("batch", description="tokens that are ranked together")
    form: Literal["rank", "value"] = Field("rank", description="u from ranks or from min-max values")
    one_sided: bool = Field(False, description="weigh only the upper half")
    self_normalised: bool = Field(False, description="divide by the mean weight")
    curve: Curve = Field("linear", description="how p rises")
    start: float = Field(0.0, ge=0, lt=1, description="share of the run at which p leaves 0")
    end: float = Field(1.0, gt=0, le=1, description="share of the run at which p reaches 1")
    rho: float = Field(0.2, gt=0, le=1, description="hard modes: share of tokens kept")
    normalizer: Normalizer = Field("kept", description="hard modes: denominator of the loss")
    seed: int = Field(0, description="random mode")
    layer: int | None = Field(None, ge=0, description="layer of the attention, from 0; none = the middle one")
    normalised: bool = Field(True, description="entropy over log(context length); else nats (a control for position)")
    first_key: bool = Field(True, description="with the first key, often a sink; else the others, renormalised")

    @model_validator(mode="after")
    def _ordered(self) -> AttentionEntropy:
        if self.end <= self.start:
            raise ValueError(f"end must be above start, got {self.end} and {self.start}")
        return self

    def needs(self) -> Needs:
        if self.mode == "random":
            return Needs()
        chosen = {"layer": self.layer, "normalised": self.normalised, "first_key": self.first_key}
        return Needs(signals=("attention_entropy",), settings={"attention_entropy": chosen})

    def __call__(self, credit: Credit, rollouts: Rollouts, step: Step) -> Credit:
        mask = credit.loss_mask
        scope = self._scopes(rollouts)[mask]
        if self.mode == "random":
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step.index)
            values = torch.rand(int(mask.sum()), generator=generator, dtype=torch.float64).to(mask.device)
        else:
            values = token_signal(rollouts, "attention_entropy", mask)[mask].double()
        if self.mode != "soft":
            rank, size = ranks(-values if self.mode == "explorer" else values, scope, average=False)
            keep = torch.zeros_like(mask)
            keep[mask] = rank < (self.rho * size - 1e-9).ceil()
            step.note("kept_tokens", keep.sum())
            return restrict(credit, keep, self.normalizer)
        p = 1 - decay(self.curve, (step.progress - self.start) / (self.end - self.start))
        side = 2 * self._place(values, scope) - 1
        weights = 1 + self.eta * (2 * p - 1) * (side.clamp(min=0) if self.one_sided else side)
        if self.self_normalised and len(weights):
            weights = weights / weights.mean()
        step.note("p", p)
        spread = torch.ones_like(credit.advantages)
        spread[mask] = weights.to(spread.dtype)
        return credit.scale(spread)

    def _scopes(self, rollouts: Rollouts) -> Tensor:
        """[B,T] int64: equal numbers are ranked together."""
        rows = torch.zeros(len(rollouts), dtype=torch.int64, device=rollouts.tokens.device)
        if self.scope == "group":
            rows = rollouts.group_index()[0]
        elif self.scope == "response":
            rows = torch.arange(len(rollouts), device=rows.device)
        return rows[:, None].expand_as(rollouts.tokens)

    def _place(self, values: Tensor, scope: Tensor) -> Tensor:
        """[N] f64: u in [0,1]."""
        if self.form == "rank":
            rank, size = ranks(values, scope)
            return (rank + 0.5) / size
        scopes = int(scope.max()) + 1 if len(scope) else 0
        low = values.new_full((scopes,), math.inf).scatter_reduce(0, scope, values, "amin")[scope]
        high = values.new_full((scopes,), -math.inf).scatter_reduce(0, scope, values, "amax")[scope]
        return torch.where(high > low, (values - low) / (high - low).clamp(min=1e-30), torch.full_like(values, 0.5))
