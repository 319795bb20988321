"""GRPO: group-normalised advantages."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from mmcredit.components import register
from mmcredit.credit.base import CreditMethod, Step
from mmcredit.credit.groups import center, group_std
from mmcredit.rollouts import Credit, Rollouts, broadcast


@register("credit", "grpo")
class GRPO(CreditMethod):
    """Group Relative Policy Optimization: every token of a response carries the response's group-normalised reward.

    A_{i,t} = (R_i - mean_g R) / (std_g R + eps), over the G responses of one prompt.

    Source: arXiv 2402.03300 (DeepSeekMath), section 4.1. The paper does not state the divisor of the standard
    deviation; `ddof` 1 with `eps` 1e-6 are verl's and TRL's choice, D3S and DCPO use the population form (`ddof` 0).
    Differs from verl: a group of one gets advantage 0 (verl: the raw reward). A constant group is exactly 0.
    Passes: none beyond the sampling itself.
    """

    starts = True
    zero_for_equal = True

    ddof: Literal[0, 1] = Field(1, description="divisor n - ddof of the group's standard deviation")
    eps: float = Field(1e-6, ge=0, description="added to the standard deviation")

    def __call__(self, credit: Credit, rollouts: Rollouts, step: Step) -> Credit:
        index, num_groups = rollouts.group_index()
        centred = center(rollouts.rewards, index, num_groups)
        std = group_std(rollouts.rewards, index, num_groups, self.ddof)[index]
        advantages = torch.where(std > 0, centred / (std + self.eps), torch.zeros_like(centred))
        return credit.replace(advantages=broadcast(advantages, rollouts.mask))
