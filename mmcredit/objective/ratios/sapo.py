"""The soft gate of SAPO."""

from __future__ import annotations

import torch
from pydantic import Field

from mmcredit.components import register
from mmcredit.objective.base import LossInputs, PolicyLoss, Ratio, masked


@register("ratio", "sapo")
class SAPO(Ratio):
    """A smooth gate in place of the clip: the further the ratio is from 1, the less a token's gradient weighs (SAPO).

    f(r) = 4/tau sigmoid(tau (r - 1));  l = -f(r) A;  tau = tau_pos for A > 0, else tau_neg.
    The gradient of f is sech^2(tau (r - 1)/2): 1 at r = 1, falling on both sides.

    Source: arXiv 2511.20347; values as verl's compute_policy_loss_sapo. Defaults 1.0 / 1.05: theirs; the larger tau for
    negative advantages damps them sooner. The objective's clip is not used. Pair with ``seq_mean_token_mean``.
    The value at r = 1 is -2A/tau, not -A.
    Passes: none.
    """

    tau_pos: float = Field(1.0, gt=0, description="temperature for positive advantages")
    tau_neg: float = Field(1.05, gt=0, description="temperature for the others")

    def __call__(self, inputs: LossInputs) -> PolicyLoss:
        ratio, mask = inputs.log_ratio.exp(), inputs.mask
        tau = torch.where(inputs.advantages > 0, self.tau_pos, self.tau_neg).to(ratio.dtype)
        gate = torch.sigmoid(tau * (ratio - 1)) * 4 / tau
        nowhere = torch.zeros_like(mask)
        return PolicyLoss(masked(-gate * inputs.advantages, mask), ratio.detach(), nowhere, nowhere, nowhere)
