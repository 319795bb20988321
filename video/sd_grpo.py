"""SD-GRPO: retrieval and reasoning are rewarded apart, each on its own tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from pydantic import Field, field_validator, model_validator

from mmcredit.components import Needs, build, register
from mmcredit.credit.base import CreditMethod, Step
from mmcredit.rollouts import Credit, Rollouts
from mmcredit.yaml_values import Kind
from video.retrieval import STATUSES
from video.segment_statistics import Norm, group_advantages, retrieval_segment, reward_parts

if TYPE_CHECKING:
    from torch import Tensor

UNREAD = STATUSES.index("decode_error") + 1


@register("credit", "sd_grpo")
class SDGRPO(CreditMethod):
    """Segment-decoupled GRPO: a wrong answer does not punish good retrieval, a right one does not reward bad retrieval.

    S = sampled tokens up to and including `</fps>`, R = the sampled tokens after it (all, if nothing was asked):
      A^x_i = (R_x,i - mean_g R_x) / (std_g R_x + eps)  for x in retrieval, reasoning, over the group
      A_{i,t} = A^retrieval_i on S, A^reasoning_i on R, 0 on inserted tokens
    R_x is the sum of weight * reward part over `retrieval` (`reasoning`). A group whose R_x are equal has A^x = 0, and
    so has a group of one. NaN in a retrieval part takes that response out of the statistics of S (a prompt without a
    labelled window, a window that could not be decoded); its R trains. `normalize_then_sum` first normalises each part
    over the group, then sums, then normalises the sum. `by: tempo` (rloo, ...) has another method turn each R_x into
    advantages, so that a method that starts from rewards works inside the segments; methods behind this one reshape.

    Source: arXiv 2605.26680 (DynFrame), figure 2; the release computes one advantage per response instead, which is
    `level: trajectory`. eps 1e-4 and `ddof` 1 are the release's. The paper's objective is `aggregate:
    seq_mean_token_mean` with clip .3 and `kl: {coef: 0.02}`. What the figure leaves open is a switch, defaults first.
    Differs from the figure: `mean: segment` gives each segment a mean of its own by scaling A with |M|/|S| and |M|/|R|,
    which leaves the KL term with the shared mean.
    Passes: none. A strategy must give `segments` (1 on S, 2 on R); the switches `malformed: no_retrieval`, `several:
    last` and `thought: both` read the signal `retrieval_call`, `no_retrieval: thought` reads `thought`; the strategy
    `retrieval_segments` gives all of them.
    """

    starts = True
    changes = ("advantages", "loss_mask")

    retrieval: dict[str, float] = Field({"retrieval": 1.0}, min_length=1, description="reward parts of S, with weights")
    reasoning: dict[str, float] = Field({"reasoning": 1.0}, min_length=1, description="reward parts of R, with weights")
    level: Literal["segment", "trajectory"] = Field(
        "segment", description="an advantage per segment, or one of all parts together on all tokens (the release)"
    )
    normalize_then_sum: bool = Field(False, description="normalise each part, sum, normalise again; else the sum only")
    no_retrieval: Literal["zero", "thought", "drop"] = Field(
        "zero",
        description="a response without a call: counts in the statistics of S; its tokens up to </think> also get "
        "A^retrieval in place of A^reasoning; left out of the statistics",
    )
    malformed: Literal["split", "no_retrieval"] = Field(
        "split", description="a call that breaks the grammar: S ends there all the same, or nothing was asked"
    )
    several: Literal["first", "last"] = Field("first", description="the call that ends S where there are several")
    thought: Literal["segment", "both"] = Field(
        "segment", description="tokens of S before <span>: A^retrieval, or A^retrieval + A^reasoning"
    )
    truncated: Literal["keep", "mask"] = Field("keep", description="responses cut by the length limit: in the loss?")
    by: Annotated[str | dict[str, Any] | None, Kind("credit")] = Field(
        None, description="credit method that turns a segment's reward into advantages (tempo, rloo); none = as above"
    )
    mean: Literal["shared", "segment"] = Field(
        "shared", description="token mean over the response or over each segment"
    )
    ddof: Literal[0, 1] = Field(1, description="divisor n - ddof of the group's standard deviation")
    eps: float = Field(1e-4, ge=0, description="added to the standard deviation")

    @field_validator("reasoning", "retrieval")
    @classmethod
    def _weights_count(cls, parts: dict[str, float]) -> dict[str, float]:
        if not any(parts.values()):
            raise ValueError("at least one part needs a weight that is not 0")
        return parts

    @model_validator(mode="after")
    def _method_is_usable(self) -> SDGRPO:
        if self.by is not None:
            self._method()
        return self

    def needs(self) -> Needs:
        split = self.level == "segment"
        calls = split and (self.malformed == "no_retrieval" or self.several == "last" or self.thought == "both")
        signals = ["retrieval_call"] * calls + ["thought"] * (split and self.no_retrieval == "thought")
        parts = tuple(dict.fromkeys((*self.retrieval, *self.reasoning)))
        own = Needs(segments=split, reward_parts=parts, signals=tuple(signals))
        return own if self.by is None else own | self._method().needs()

    def __call__(self, credit: Credit, rollouts: Rollouts, step: Step) -> Credit:
        kept = rollouts.mask if self.truncated == "keep" else rollouts.mask & ~rollouts.truncated[:, None]
        if self.level == "trajectory":
            parts = {**self.retrieval, **self.reasoning}
            values = {name: value.nan_to_num(0.0) for name, value in reward_parts(parts, rollouts).items()}
            advantages = self._advantages(values, parts, rollouts, torch.ones_like(rollouts.truncated), step)
        else:
            advantages = self._by_segment(rollouts, step)
        return credit.replace(advantages=torch.where(kept, advantages, torch.zeros_like(advantages)), loss_mask=kept)

    def _by_segment(self, rollouts: Rollouts, step: Step) -> Tensor:
        """[B,T]: A^retrieval on S, A^reasoning on R."""
        first = retrieval_segment(rollouts, self.several, self.malformed)
        called = first.any(1)
        values = reward_parts(self.retrieval, rollouts)
        known = torch.stack(list(values.values())).isfinite().all(0)
        if (calls := rollouts.signals.get("retrieval_call")) is not None:
            known = known & ~(rollouts.mask & (calls == UNREAD)).any(1)
        counted = known & called if self.no_retrieval == "drop" else known
        asked = self._advantages(values, self.retrieval, rollouts, counted, step)
        everyone = torch.ones_like(known)
        said = self._advantages(reward_parts(self.reasoning, rollouts), self.reasoning, rollouts, everyone, step)
        advantages = torch.where(first, asked, said)
        if self.thought == "both":
            advantages = torch.where(first & (rollouts.signal("retrieval_call") == 0), asked + said, advantages)
        if self.no_retrieval == "thought":
            advantages = torch.where(rollouts.signal("thought") & ~called[:, None], asked, advantages)
        if self.mean == "segment":
            lengths, own = rollouts.mask.sum(1, keepdim=True), first.sum(1, keepdim=True)
            advantages = advantages * lengths / torch.where(first, own, lengths - own).clamp(min=1)
        step.note("retrieved_share", called.float().mean())
        step.note("retrieval_unknown", (~known).sum())
        step.note("retrieval_zero_share", 1 - asked.any(1).float().mean())
        step.note("reasoning_zero_share", 1 - said.any(1).float().mean())
        return advantages

    def _advantages(
        self, values: Mapping[str, Tensor], weights: Mapping[str, float], rollouts: Rollouts, rows: Tensor, step: Step
    ) -> Tensor:
        """[B,T]: what the weighted sum of the parts earns over the responses in `rows` [B]; 0 for the others."""
        norm = Norm(self.normalize_then_sum, self.ddof, self.eps)
        return group_advantages(values, weights, rollouts, rows, norm, self._method() if self.by else None, step)

    def _method(self) -> CreditMethod:
        """The method `by`. Raises ValueError for one that does not turn rewards into advantages."""
        assert self.by is not None
        method = build("credit", self.by)
        assert isinstance(method, CreditMethod)
        if not method.starts or method.name == self.name or hasattr(method, "at_update"):
            raise ValueError(f"by: {method.name!r} does not turn rewards into advantages alone: grpo, rloo, tempo do")
        return method
