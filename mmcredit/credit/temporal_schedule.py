"""Temporal scheduling: which tokens are trained, as a function of training progress."""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field, model_validator

from mmcredit.components import Needs, register
from mmcredit.credit.base import CreditMethod, Step
from mmcredit.credit.curves import Curve, decay
from mmcredit.credit.tokens import restrict, token_signal, top_per_response
from mmcredit.rollouts import Credit, Rollouts


@register("credit", "temporal_schedule")
class TemporalSchedule(CreditMethod):
    """Not only where, but when: a criterion on tokens that is strict early in training and gone later.

    kappa falls from `kappa0` at step s0 = floor(S*min_ratio) to 0 at s1 = floor(S*max_ratio), with s counted from 1:
    u = clip((s-s0)/(s1-s0), 0, 1); linear kappa0*(1-u); gamma (kappa0*(1-u))^gamma; sigmoid of steepness 8;
    `constant` keeps kappa0 for ever (the static baselines). At kappa = 0 the credit is unchanged.

    `percentile` (TP, the main method): the first min(floor(T*kappa), T-1) of the T tokens of a response leave the loss.
    `forking`: the ceil(T*(1-kappa)) tokens of highest old-policy entropy of each response stay, the others leave.
    `entropy_advantage`: A <- A + kappa * min(a*H, |A|/kap), which softens negative and strengthens positive credit and,
    for kap >= 1, never turns a sign.

    Source: arXiv 2605.25381 and its released code. Differs: the release moves the dropped prefix into the prompt and
    scores the decoded suffix, which early on can lose the answer; here the whole response is scored and the loss mask
    does the rest. T counts the tokens of the loss mask (release: all response ids), so inserted tokens do not shift
    the cut and one token is always trained. `skip_truncated` drops truncated responses while kappa > 0: their suffix
    is a cut-off tail with reward 0 (not in the paper; off).
    Defaults: kappa0 .99, linear, 0 to .8 of the run, a .4, kap 2 (released scripts). Use with aggregate token_mean.
    Passes: none; `forking` and `entropy_advantage` read the entropy of the clean pass.
    Raises ValueError if s1 <= s0, which a very short run brings about.
    """

    changes = ("advantages", "loss_mask")

    criterion: Literal["percentile", "forking", "entropy_advantage"] = Field("percentile", description="scheduled")
    curve: Curve | Literal["constant"] = Field("linear", description="how kappa falls")
    kappa0: float = Field(0.99, ge=0, le=1, description="kappa at the start")
    min_ratio: float = Field(0.0, ge=0, le=1, description="share of the run at which kappa starts to fall")
    max_ratio: float = Field(0.8, ge=0, le=1, description="share of the run at which kappa is 0")
    gamma: float = Field(2.0, gt=0, description="exponent of the gamma curve")
    a: float = Field(0.4, ge=0, description="entropy_advantage: factor of the entropy")
    kap: float = Field(2.0, gt=0, description="entropy_advantage: the bonus is at most |A|/kap")
    skip_truncated: bool = Field(False, description="no truncated response in the loss while kappa > 0")

    @model_validator(mode="after")
    def _ordered(self) -> TemporalSchedule:
        if self.curve != "constant" and self.max_ratio <= self.min_ratio:
            raise ValueError(f"max_ratio must be above min_ratio, got {self.max_ratio} and {self.min_ratio}")
        return self

    def needs(self) -> Needs:
        return Needs(signals=() if self.criterion == "percentile" else ("entropy",))

    def kappa(self, index: int, total: int) -> float:
        """The magnitude at step `index` (from 0) of `total`."""
        if self.curve == "constant":
            return self.kappa0
        start, end = math.floor(total * self.min_ratio), math.floor(total * self.max_ratio)
        if end <= start:
            raise ValueError(
                f"temporal_schedule: of {total} steps the schedule runs from {start} to {end}; raise max_ratio "
                f"({self.max_ratio}), or the number of steps, or use curve: constant"
            )
        return decay(self.curve, (index + 1 - start) / (end - start), self.kappa0, self.gamma)

    def __call__(self, credit: Credit, rollouts: Rollouts, step: Step) -> Credit:
        kappa = self.kappa(step.index, step.total)
        before = credit.loss_mask
        if kappa > 0:
            credit = self._apply(credit, rollouts, kappa)
            if self.skip_truncated:
                credit = restrict(credit, ~rollouts.truncated[:, None] & before, "kept")
        step.note("kappa", kappa)
        step.note("trained_tokens", credit.loss_mask.sum() / before.sum().clamp(min=1))
        return credit

    def _apply(self, credit: Credit, rollouts: Rollouts, kappa: float) -> Credit:
        mask = credit.loss_mask
        length = mask.sum(1)
        if self.criterion == "percentile":
            cut = (length.double() * kappa).floor().long().clamp(max=length - 1)
            return restrict(credit, mask.cumsum(1) > cut[:, None], "kept")
        entropy = token_signal(rollouts, "entropy", mask)
        if self.criterion == "forking":
            # float32 as in the release: 100 tokens at kappa .99 are one token, not two by a rounding error of float64.
            budget = (length.float() * (1 - kappa)).ceil().long()
            return restrict(credit, top_per_response(entropy, mask, budget), "kept")
        advantages = credit.advantages
        bonus = torch.minimum(self.a * entropy, advantages.abs() / self.kap)
        return credit.replace(advantages=torch.where(mask, advantages + kappa * bonus, advantages))
