"""DWA: advantages weighed by how far the policy has moved on a token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field

from mmcredit.components import Needs, register
from mmcredit.credit.base import CreditMethod, Step
from mmcredit.credit.tokens import k3, log_ratio, response_mean, token_signal
from mmcredit.rollouts import Credit, Rollouts

if TYPE_CHECKING:
    from torch import Tensor


@register("credit", "divergence_weight")
class DivergenceWeight(CreditMethod):
    """Divergence-weighted advantage: tokens with a larger (alpha > 0) or smaller (alpha < 0) shift weigh more.

    k_t = r - 1 - log r with r = pi_theta/pi_old at the sampled token, an estimate of KL(pi_old || pi_theta);
    w_t = 1 + s*(sigmoid(alpha*k_t) - 1/2);  A <- w*A, w detached. Range of w: [1, 1 + s/2) for alpha > 0,
    (1 - s/2, 1] for alpha < 0.

    Source: arXiv 2603.22446 (Sparse but Critical), the training variant. With `against: old` (the paper) r = 1 at the
    first mini-batch after a rollout, so w = 1 there: the method acts from the second update on the same rollouts, and
    never in an on-policy run. It is computed at every mini-batch. `against: base` (ours) puts the signal `divergence`,
    measured once per rollout batch against the base model (the reference), in the place of k_t, and acts from the first
    update. `measure` chooses the divergence: exact KL(policy || base), its reverse, Jensen-Shannon or total variation.
    `self_normalised` divides by the mean of w (a control: the high variant also makes the step larger).
    Defaults: ours, the paper's alpha and s could not be found: k3 is .01 to .2 inside the clip range, so alpha = 1
    would change a weight by less than 5 %.
    Passes: `against: old` one clean pass per mini-batch; `against: base` one reference pass per rollout batch.
    """

    against: Literal["old", "base"] = Field("old", description="policy that the shift is measured against")
    alpha: float = Field(10.0, allow_inf_nan=False, description="slope; negative = small shifts weigh more")
    s: float = Field(1.0, ge=0, le=2, description="strength: weights stay within 1 +- s/2")
    self_normalised: bool = Field(False, description="divide by the mean weight of the tokens in the loss")
    measure: Literal["kl", "reverse_kl", "js", "tv"] = Field("kl", description="against base: which divergence")

    @property
    def acts_at_update(self) -> bool:
        """Only against the old policy: the shift from the base is measured before."""
        return self.against == "old"

    def needs(self) -> Needs:
        if self.against == "old":
            return Needs(old_logprobs=True)
        return Needs(signals=("divergence",), settings={"divergence": {"measure": self.measure}})

    def __call__(self, credit: Credit, rollouts: Rollouts, step: Step) -> Credit:
        if self.against == "old":
            return credit
        weights = self._weights(token_signal(rollouts, "divergence", credit.loss_mask), credit.loss_mask)
        step.note("weight_mean", response_mean(weights.flatten()[None], credit.loss_mask.flatten()[None]))
        return credit.scale(weights)

    def at_update(self, credit: Credit, rollouts: Rollouts, logprobs: Tensor, entropy: Tensor | None) -> Credit:
        """Weights for one mini-batch; `credit` is what `__call__` gave, these rows."""
        if self.against == "base" or rollouts.old_logprobs is None:  # no old log-probs: on-policy, the ratio is 1
            return credit
        shift = k3(log_ratio(logprobs, rollouts.old_logprobs, credit.loss_mask))
        return credit.scale(self._weights(shift.to(credit.advantages.dtype), credit.loss_mask))

    def _weights(self, shift: Tensor, mask: Tensor) -> Tensor:
        """[B,T]: w of each token."""
        weights = 1 + self.s * (torch.sigmoid(self.alpha * shift) - 0.5)
        if self.self_normalised and bool(mask.any()):
            weights = weights / weights[mask].mean()
        return weights
