"""Dr. GRPO: group-centred advantages without the standard deviation."""

from __future__ import annotations

from mmcredit.components import register
from mmcredit.credit.base import CreditMethod, Step
from mmcredit.credit.groups import center
from mmcredit.rollouts import Credit, Rollouts, broadcast


@register("credit", "dr_grpo")
class DrGRPO(CreditMethod):
    """GRPO Done Right: the reward minus the mean of its group, without dividing by the standard deviation.

    A_{i,t} = R_i - mean_g R. Dividing by the standard deviation weights prompts by how settled they are; dividing the
    loss by each response's length favours long wrong answers. Pair it with ``aggregate: dr_grpo`` (a constant length)
    for the paper's second half.

    Source: arXiv 2503.20783, section 3. No difference from the paper. A group of one gets advantage 0.
    Passes: none beyond the sampling itself.
    """

    starts = True
    zero_for_equal = True

    def __call__(self, credit: Credit, rollouts: Rollouts, step: Step) -> Credit:
        index, num_groups = rollouts.group_index()
        return credit.replace(advantages=broadcast(center(rollouts.rewards, index, num_groups), rollouts.mask))
