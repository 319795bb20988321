"""Preference loss `dpo`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from mmcredit.components import register
from mmcredit.preference.base import Preference, Side, weighted_dpo

if TYPE_CHECKING:
    from torch import Tensor


@register("preference", "dpo")
class DPO(Preference):
    """Direct preference optimisation: the log-sigmoid of a reference-adjusted margin.

        L = -log sigmoid(beta [sum_t a_t(chosen) - sum_t a_t(rejected)]),   a_t = log pi(y_t | x, y_<t) - log pi_ref(..)

    Sums over answer tokens, the end token included, without length normalisation; the mean over pairs. Rafailov et al.,
    arXiv 2305.18290, eq. 7. Passes: one with gradient over both answers behind one prompt; the reference once per pair.
    """

    beta: float = Field(0.1, gt=0, description="strength of the pull towards the reference")

    def __call__(self, chosen: Side, rejected: Side) -> tuple[Tensor, dict[str, Tensor]]:
        loss = weighted_dpo(
            chosen.logprobs, chosen.ref_logprobs, None, rejected.logprobs, rejected.ref_logprobs, None, self.beta,
            mask_w=chosen.mask, mask_l=rejected.mask,
        )  # fmt: skip
        return loss, {}
