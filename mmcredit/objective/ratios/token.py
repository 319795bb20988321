"""The token-level importance ratio of PPO and GRPO."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from mmcredit.components import register
from mmcredit.objective.base import LossInputs, PolicyLoss, Ratio, masked

if TYPE_CHECKING:
    from torch import Tensor


def clipped_surrogate(ratio: Tensor, inputs: LossInputs) -> PolicyLoss:
    """max(-A r, -A clip(r, 1-low, 1+high)), capped at -dual * A for A < 0. `ratio` [B,T] carries the gradient."""
    advantages, mask = inputs.advantages, inputs.mask
    # clamp, unlike minimum and maximum, passes the whole gradient of a ratio that sits exactly on its bound.
    bounded = ratio.clamp(1 - inputs.clip_low, 1 + inputs.clip_high)
    plain, clipped = -advantages * ratio, -advantages * bounded
    loss = torch.maximum(plain, clipped)
    took = (clipped > plain).detach()
    dual = torch.zeros_like(mask)
    if inputs.dual is not None:
        cap = -advantages * inputs.dual
        dual = (advantages < 0) & (loss.detach() > cap) & mask
        loss = torch.where(dual, cap, loss)
    return PolicyLoss(
        loss=masked(loss, mask),
        ratio=ratio.detach(),
        clipped_low=took & (advantages < 0) & mask & ~dual,
        clipped_high=took & (advantages > 0) & mask,
        clipped_dual=dual,
    )


@register("ratio", "token")
class Token(Ratio):
    """One ratio per token, clipped per token (PPO, GRPO, DAPO).

    l_{i,t} = max(-A r, -A clip(r, 1-low, 1+high)) with r = pi(o_t) / pi_old(o_t); with `dual` c, l <= -c A for A < 0.

    Source: PPO arXiv 1707.06347 eq. 7; clip-higher arXiv 2503.14476 (DAPO); dual clip arXiv 1912.09729. The log-ratio
    is clamped to +-20 as in verl and EasyR1. Passes: none.
    """

    def __call__(self, inputs: LossInputs) -> PolicyLoss:
        return clipped_surrogate(inputs.log_ratio.exp(), inputs)
