"""Positive and negative tokens averaged apart, weighed by responses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from pydantic import Field

from mmcredit.components import register
from mmcredit.objective.base import Aggregate
from mmcredit.rollouts import Credit, Rollouts

if TYPE_CHECKING:
    from torch import Tensor


@register("aggregate", "balanced")
class Balanced(Aggregate):
    """Balanced Aggregation: token means of the positive and of the negative side of a group, weighed by how many
    responses each side has, so that long wrong answers do not outvote short right ones.

    W_{i,t} = share_s / N_s / P, s the sign of the token's advantage, N_s the group's tokens of that sign, share_s =
    (1/G) sum_i (share of response i's tokens with sign s). With one advantage per response: 1/(G mean length of the
    side) / P. The weights of a group sum to 1/P.

    Source: arXiv 2605.04077, equation by way of digests; no code was released. Not in the paper and chosen here: token
    advantages of mixed sign (above); tokens with advantage 0 form a third side, which moves no policy loss but gives a
    KL term its weight; a response masked out of the loss stays in G, and its share vanishes. P counts every group with
    a token in the loss; `count_constant` false leaves out those without any advantage.
    A group must lie in one optimizer mini-batch: what is cut off is not seen. Sequence ratios are used in token form.
    """

    count_constant: bool = Field(True, description="groups without advantage count in the mean over prompts")

    def weights(self, rollouts: Rollouts, credit: Credit) -> Tensor:
        index, num_groups = rollouts.group_index()
        mask, dtype = credit.loss_mask, credit.advantages.dtype
        positive, negative = mask & (credit.advantages > 0), mask & (credit.advantages < 0)
        sides = torch.stack([positive.sum(1), negative.sum(1), (mask & ~positive & ~negative).sum(1)], 1).to(dtype)
        share = sides / sides.sum(1, keepdim=True).clamp(min=1)
        by_group = torch.zeros(num_groups, 3, dtype=dtype, device=mask.device)
        tokens = by_group.index_add(0, index, sides)
        size = torch.bincount(index, minlength=num_groups).clamp(min=1)[:, None]
        weight = by_group.index_add(0, index, share) / (size * tokens.clamp(min=1))
        counted = tokens.sum(1) > 0 if self.count_constant else tokens[:, :2].sum(1) > 0
        weight = weight / counted.sum().clamp(min=1)
        if not self.count_constant:
            weight = torch.where(counted[:, None], weight, torch.zeros_like(weight))
        row = weight[index][:, :, None]
        zero = torch.zeros((), dtype=dtype, device=mask.device)
        return torch.where(positive, row[:, 0], torch.where(negative, row[:, 1], torch.where(mask, row[:, 2], zero)))
