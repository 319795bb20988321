"""REINFORCE++-baseline: group-centred rewards, whitened over the batch."""

from __future__ import annotations

from pydantic import Field

from mmcredit.components import register
from mmcredit.credit.base import CreditMethod, Step
from mmcredit.credit.groups import center, group_sizes
from mmcredit.credit.whitening import whiten
from mmcredit.rollouts import Credit, Rollouts, broadcast


@register("credit", "reinforce_pp_baseline")
class ReinforcePPBaseline(CreditMethod):
    """REINFORCE++-baseline: the reward minus the mean of its group, then whitened over all tokens of the batch.

    A_{i,t} = R_i - mean_g R;  then A <- (A - mean) / sqrt(var + 1e-8), mean and unbiased variance over every sampled
    token of the batch. One scale for all prompts instead of each group's own standard deviation.

    Source: arXiv 2501.03262 (the baseline variant); numbers as verl's. The authors put a k2 KL term in the loss:
    ``regularizers: [{kl: {estimator: k2}}]``.
    Differs from verl: a group of one has no baseline; it gets 0 and stays out of the statistics (verl: raw reward).
    As published, whitening re-centres over tokens, so that a constant group is not 0 when long and short responses
    have different rewards; a batch of only constant groups is exactly 0.
    Passes: none beyond the sampling itself.
    """

    starts = True

    eps: float = Field(1e-8, ge=0, description="added to the variance when whitening")

    def __call__(self, credit: Credit, rollouts: Rollouts, step: Step) -> Credit:
        index, num_groups = rollouts.group_index()
        mask = rollouts.mask & (group_sizes(index, num_groups)[index] > 1)[:, None]
        advantages = broadcast(center(rollouts.rewards, index, num_groups), mask)
        return credit.replace(advantages=whiten(advantages, mask, eps=self.eps))
