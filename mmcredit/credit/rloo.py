"""RLOO: the reward against the mean of the other responses."""

from __future__ import annotations

from mmcredit.components import register
from mmcredit.credit.base import CreditMethod, Step
from mmcredit.credit.groups import center, group_sizes
from mmcredit.rollouts import Credit, Rollouts, broadcast


@register("credit", "rloo")
class RLOO(CreditMethod):
    """REINFORCE Leave-One-Out: each response is compared with the mean reward of the others of its prompt.

    A_{i,t} = R_i - mean_{k != i} R_k = G/(G-1) * (R_i - mean_g R), the same on every token of the response.

    Source: arXiv 2402.14740 (estimator: Kool et al. 2019). Same numbers as verl, except that a
    group of one, which has no others, gets advantage 0 (verl: the raw reward). A constant group is exactly 0.
    Passes: none beyond the sampling itself.
    """

    starts = True
    zero_for_equal = True

    def __call__(self, credit: Credit, rollouts: Rollouts, step: Step) -> Credit:
        index, num_groups = rollouts.group_index()
        size = group_sizes(index, num_groups)[index].to(rollouts.rewards.dtype)
        advantages = center(rollouts.rewards, index, num_groups) * size / (size - 1).clamp(min=1)
        return credit.replace(advantages=broadcast(advantages, rollouts.mask))
