"""The clipped geometric mean of GMPO."""

from __future__ import annotations

import torch
from pydantic import Field

from mmcredit.components import register
from mmcredit.objective.base import LossInputs, PolicyLoss, Ratio, masked
from mmcredit.objective.sequences import carry, one_sided, power_mean


@register("ratio", "gmpo")
class GMPO(Ratio):
    """Geometric mean of the tokens' ratios, each clipped in log space first (GMPO).

    d = log pi - log pi_old;  dm = sign(A) min(sign(A) d, sign(A) clamp(d, -eps, eps)), the side that takes reward away;
    ratio_i = exp(mean_t dm);  l = -A ratio_i.

    Source: arXiv 2507.20673; value and gradient as verl's compute_policy_loss_geo_mean. `eps` 0.4 is the paper's, in
    log space: the ratio of a token counts within [0.67, 1.49]. With `eps` none the clip's low and high are the
    log-space bounds (verl's reading), and a method that sets clips per token is heard. No dual cap.
    Token advantages enter as in GSPO-token. Pair with ``seq_mean_token_mean``.
    Passes: none.
    """

    eps: float | None = Field(0.4, gt=0, description="half-width of the token clip in log space; none = the clip's")

    def __call__(self, inputs: LossInputs) -> PolicyLoss:
        mask = inputs.mask
        low, high = -inputs.clip_low, inputs.clip_high
        if self.eps is not None:
            low, high = torch.full_like(low, -self.eps), torch.full_like(high, self.eps)
        clipped, below, above = one_sided(inputs.log_ratio.detach(), inputs.advantages, low, high)
        log_mean, share = power_mean(clipped, mask, 0.0)
        ratio = carry(log_mean, torch.where(below | above, 0.0, share), mask, inputs.logprobs)
        return PolicyLoss(
            loss=masked(-inputs.advantages * ratio, mask),
            ratio=ratio.detach(),
            clipped_low=below & mask,
            clipped_high=above & mask,
            clipped_dual=torch.zeros_like(mask),
        )
