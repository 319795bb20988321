"""The power-mean ratio of HölderPO."""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field, model_validator

from mmcredit.components import register
from mmcredit.objective.base import LossInputs, PolicyLoss, Ratio, masked
from mmcredit.objective.ratios.token import clipped_surrogate
from mmcredit.objective.sequences import carry, one_sided, power_mean

Schedule = Literal[
    "constant", "linear", "linear_dec", "sin", "cos", "quad", "quad_dec", "cubic", "cubic_dec"
]  # fmt: skip


@register("ratio", "holder")
class Holder(Ratio):
    """One ratio per response, the power mean of order p of its tokens' ratios; p moves during the run (HölderPO).

    rho_i = ((1/L_i) sum_t r_t^p)^(1/p), geometric for |p| < 1e-6;  l = max(-A rho, -A clip(rho, 1-low, 1+high)).
    Gradient: rho sum_t W_t grad log pi_t, W_t = r_t^p / sum_k r_k^p. p > 0 leans on tokens that rose, p < 0 on tokens
    that fell. p = 0 is GSPO's ratio. `variant`: ``sequence`` (above); ``holder_token``: each token's ratio is clipped
    on the side its advantage asks for, then averaged, with no clip of the mean (p = 1 is GRPO's token clip under
    seq_mean_token_mean); ``sequence_w_clip``: each log-ratio is clamped to +-log(1+high), then ``sequence``.
    Schedules, with x the share of the run done: linear, sin, quad, cubic rise from p_min to p_max; linear_dec, cos,
    quad_dec, cubic_dec fall. Giving `p` means constant.

    Source: arXiv 2605.12058 eqs. 1-3, 11, section 3.4; code YihangChen9/HolderPO@1d27a37. Defaults 2 -> -2, linear_dec:
    the paper's for math (1 -> -1 for ALFWorld). Pair with clip 0.2, ``seq_mean_token_mean`` (others weigh a response
    by its length) and grpo. The schedule ends with the run, where the script ended it after 500 steps.
    Token advantages, which the paper does not define, enter as in GSPO-token: each weighs its token's part of the
    gradient. With one update per rollout batch r = 1, and p changes nothing.
    Differs from the code: log-sum-exp in float64, so neither overflow nor cancellation near p = 0.
    Passes: none.
    """

    p: float | None = Field(None, description="fixed order; none = follow the schedule")
    schedule: Schedule = Field("linear_dec", description="how p moves from one end to the other")
    p_min: float = Field(-2.0, description="lower end of the schedule")
    p_max: float = Field(2.0, description="upper end of the schedule")
    variant: Literal["sequence", "holder_token", "sequence_w_clip"] = Field("sequence", description="where it clips")

    @model_validator(mode="after")
    def _one_source_of_p(self) -> Holder:
        if self.p is not None and "schedule" not in self.model_fields_set:
            self.schedule = "constant"
        if (self.p is None) == (self.schedule == "constant"):
            raise ValueError(
                f"p and schedule disagree: p is {self.p}, schedule is {self.schedule!r}; a fixed p is constant"
            )
        if self.p_min > self.p_max:
            raise ValueError(f"p_min {self.p_min} is above p_max {self.p_max}; choose a falling schedule instead")
        return self

    def order(self, progress: float) -> float:
        """p at `progress`, the share of the run done; beyond 1 it stays where it ended."""
        if self.p is not None:
            return self.p
        x = min(1.0, max(0.0, progress))
        middle, half = (self.p_min + self.p_max) / 2, (self.p_max - self.p_min) / 2
        # Each shape runs from -1 to 1; the falling ones are mirrored about the middle.
        shapes = {
            "linear": 2 * x - 1,
            "sin": -math.cos(math.pi * x),
            "quad": 2 * x**2 - 1,
            "cubic": (2 * x - 1) ** 3,
        }
        name = {"cos": "sin_dec"}.get(self.schedule, self.schedule)
        falls = name.endswith("_dec")
        return middle + half * (-1 if falls else 1) * shapes[name.removesuffix("_dec")]

    def __call__(self, inputs: LossInputs) -> PolicyLoss:
        p, d, mask = self.order(inputs.progress), inputs.log_ratio.detach(), inputs.mask
        if self.variant == "sequence":
            log_mean, share = power_mean(d, mask, p)
            return clipped_surrogate(carry(log_mean, share, mask, inputs.logprobs), inputs)
        if self.variant == "sequence_w_clip":
            low, high = -inputs.clip_low.log1p(), inputs.clip_high.log1p()
            log_mean, share = power_mean(torch.minimum(torch.maximum(d, low), high), mask, p)
            share = torch.where((d < low) | (d > high), 0.0, share)
            return clipped_surrogate(carry(log_mean, share, mask, inputs.logprobs), inputs)
        low, high = (1 - inputs.clip_low).clamp(min=0).log(), inputs.clip_high.log1p()
        clipped, below, above = one_sided(d, inputs.advantages, low, high)
        log_mean, share = power_mean(clipped, mask, p)
        ratio = carry(log_mean, torch.where(below | above, 0.0, share), mask, inputs.logprobs)
        return PolicyLoss(
            loss=masked(-inputs.advantages * ratio, mask),
            ratio=ratio.detach(),
            clipped_low=below & mask,
            clipped_high=above & mask,
            clipped_dual=torch.zeros_like(mask),
        )
