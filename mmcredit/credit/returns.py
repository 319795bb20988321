"""Discounted sums of the rewards that follow a token."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def discounted_return(rewards: Tensor, discount: Tensor) -> Tensor:
    """[B,T]: x_t = rewards_t + discount_t * x_{t+1}, 0 after the last column; both arguments [B,T].

    Windows are doubled (1, 2, 4, ... tokens), so that T tokens take log2 T steps and no power of a discount is ever
    divided by.
    """
    total, factor, width = rewards, discount, 1
    while width < rewards.shape[1]:
        total = total + factor * torch.nn.functional.pad(total[:, width:], (0, width))
        factor = factor * torch.nn.functional.pad(factor[:, width:], (0, width))
        width *= 2
    return total
