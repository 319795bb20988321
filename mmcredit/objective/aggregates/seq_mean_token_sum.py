"""Token losses summed over a response, averaged over responses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmcredit.components import register
from mmcredit.objective.base import Aggregate
from mmcredit.rollouts import Credit, Rollouts

if TYPE_CHECKING:
    from torch import Tensor


@register("aggregate", "seq_mean_token_sum")
class SeqMeanTokenSum(Aggregate):
    """W = 1/B: sum over the tokens of a response, mean over the responses (early GRPO variants, REINFORCE).

    B counts responses with at least one token in the loss.
    """

    def weights(self, rollouts: Rollouts, credit: Credit) -> Tensor:
        mask = credit.loss_mask
        return mask.to(credit.advantages.dtype) / (mask.any(1)).sum().clamp(min=1)
