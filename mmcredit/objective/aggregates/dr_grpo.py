"""Token losses divided by a constant length."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from mmcredit.components import register
from mmcredit.objective.base import Aggregate
from mmcredit.rollouts import Credit, Rollouts

if TYPE_CHECKING:
    from torch import Tensor


@register("aggregate", "dr_grpo")
class DrGRPOAggregate(Aggregate):
    """W = 1/(B L_max): a constant divisor, so that a response's length does not change the weight of its tokens.

    Source: arXiv 2503.20783 section 3. L_max is the response length limit; a run fills it in from
    `rollout.max_new_tokens`. Left out in a direct call, it is the padded width T of the batch. B counts responses
    with at least one token in the loss.
    """

    max_length: int | None = Field(None, ge=1, description="L_max; none = the run's response limit")

    def weights(self, rollouts: Rollouts, credit: Credit) -> Tensor:
        mask = credit.loss_mask
        length = self.max_length or mask.shape[1]
        return mask.to(credit.advantages.dtype) / (mask.any(1).sum().clamp(min=1) * max(1, length))
