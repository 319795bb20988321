"""Every token weighs the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmcredit.components import register
from mmcredit.objective.base import Aggregate
from mmcredit.rollouts import Credit, Rollouts

if TYPE_CHECKING:
    from torch import Tensor


@register("aggregate", "token_mean")
class TokenMean(Aggregate):
    """W = 1/N, N the tokens in the loss of the whole mini-batch (DAPO as verl and TRL run it, CISPO).

    Source: arXiv 2503.14476 section 3.3; the paper's own formula normalises per prompt: see `dapo_group`.
    """

    def weights(self, rollouts: Rollouts, credit: Credit) -> Tensor:
        mask = credit.loss_mask
        return mask.to(credit.advantages.dtype) / mask.sum().clamp(min=1)
