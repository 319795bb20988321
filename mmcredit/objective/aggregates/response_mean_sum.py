"""Token mean inside each response, plain sum over responses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmcredit.components import register
from mmcredit.objective.base import Aggregate
from mmcredit.rollouts import Credit, Rollouts

if TYPE_CHECKING:
    from torch import Tensor


@register("aggregate", "response_mean_sum")
class ResponseMeanSum(Aggregate):
    """W = 1/L_i: "only token mean" (OTM), with no division by the number of responses.

    Source: arXiv 2509.02333 (DCPO). The released code runs a token mean instead. For a fixed number of responses B it
    is B times ``seq_mean_token_mean``: only the step size differs, which Adam hardly sees but gradient clipping does.
    """

    def weights(self, rollouts: Rollouts, credit: Credit) -> Tensor:
        mask = credit.loss_mask
        return mask.to(credit.advantages.dtype) / mask.sum(1, keepdim=True).clamp(min=1)
