"""Truncated importance weights of CISPO."""

from __future__ import annotations

import torch
from pydantic import Field, model_validator

from mmcredit.components import register
from mmcredit.objective.base import LossInputs, PolicyLoss, Ratio, masked


@register("ratio", "cispo")
class CISPO(Ratio):
    """REINFORCE with a truncated, detached importance weight: every token keeps a gradient (CISPO).

    l = -sg[clamp(r, w_min, w_max)] A log pi.

    Source: arXiv 2506.13585 (MiniMax-M1). `w_min` and `w_max` are absolute bounds of the weight, not half-widths;
    the objective's clip is not used. Default: above only, at 5, as in TRL, ms-swift and ScaleRL (arXiv 2510.13786);
    verl clamps to [1-low, 1+high]: write w_min 0.8, w_max 1.28. The value of the loss holds log pi and means nothing;
    compare gradients. Pair with ``token_mean``.
    Passes: none.
    """

    w_min: float | None = Field(None, ge=0, description="least weight; none = no bound")
    w_max: float | None = Field(5.0, gt=0, description="largest weight; none = no bound")

    @model_validator(mode="after")
    def _ordered(self) -> CISPO:
        if self.w_min is not None and self.w_max is not None and self.w_min > self.w_max:
            raise ValueError(f"w_min {self.w_min} is above w_max {self.w_max}; both are absolute weights")
        return self

    def __call__(self, inputs: LossInputs) -> PolicyLoss:
        ratio, mask = inputs.log_ratio.detach().exp(), inputs.mask
        nowhere = torch.zeros_like(mask)
        weight = ratio if self.w_min is None and self.w_max is None else ratio.clamp(self.w_min, self.w_max)
        return PolicyLoss(
            loss=masked(-weight * inputs.advantages * inputs.logprobs, mask),
            ratio=ratio,
            clipped_low=nowhere if self.w_min is None else (ratio < self.w_min) & mask,
            clipped_high=nowhere if self.w_max is None else (ratio > self.w_max) & mask,
            clipped_dual=nowhere,
        )
