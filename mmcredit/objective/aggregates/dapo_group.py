"""Every token of a prompt weighs the same, every prompt the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmcredit.components import register
from mmcredit.credit.groups import group_sums
from mmcredit.objective.base import Aggregate
from mmcredit.rollouts import Credit, Rollouts

if TYPE_CHECKING:
    from torch import Tensor


@register("aggregate", "dapo_group")
class DAPOGroup(Aggregate):
    """W = 1/(P sum_{i in group} L_i): token mean inside each prompt's group, then the mean over prompts.

    Source: arXiv 2503.14476, the formula as the paper writes it; verl and TRL average over all tokens of the mini-batch
    instead (``token_mean``; verl issue 2776). P counts prompts with at least one token in the loss.
    """

    def weights(self, rollouts: Rollouts, credit: Credit) -> Tensor:
        index, num_groups = rollouts.group_index()
        mask = credit.loss_mask
        tokens = group_sums(mask.sum(1), index, num_groups)
        num_prompts = (tokens > 0).sum().clamp(min=1)
        return mask.to(credit.advantages.dtype) / (num_prompts * tokens.clamp(min=1))[index][:, None]
