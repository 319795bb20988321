"""Every response weighs the same, its tokens share it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmcredit.components import register
from mmcredit.objective.base import Aggregate
from mmcredit.rollouts import Credit, Rollouts

if TYPE_CHECKING:
    from torch import Tensor


@register("aggregate", "seq_mean_token_mean")
class SeqMeanTokenMean(Aggregate):
    """W = 1/(B L_i): mean over the tokens of a response, then over the responses (GRPO, GSPO, SAPO).

    Source: arXiv 2402.03300 eq. 3. B counts responses with at least one token in the loss.
    """

    def weights(self, rollouts: Rollouts, credit: Credit) -> Tensor:
        mask = credit.loss_mask
        lengths = mask.sum(1, keepdim=True)
        num_responses = (lengths > 0).sum().clamp(min=1)
        return mask.to(credit.advantages.dtype) / (lengths.clamp(min=1) * num_responses)
