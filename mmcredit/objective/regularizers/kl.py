"""KL to the reference model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from mmcredit.components import Needs, register
from mmcredit.objective.base import MAX_LOG_RATIO, Regularizer, RegularizerInputs, RegularizerLoss, masked

if TYPE_CHECKING:
    from torch import Tensor

# verl bounds the k3 value of a single token at 10: one outlier must not own the step.
MAX_K3 = 10.0


def kl_estimate(logprobs: Tensor, ref_logprobs: Tensor, estimator: str) -> Tensor:
    """[B,T]: estimate of KL(pi || ref) from the sampled tokens; with d = log pi - log ref.

    k1 = d; k2 = d^2/2; k3 = exp(-d) - 1 + d, exponent clamped to +-20 and value to 10 as in verl.
    Schulman, "Approximating KL divergence" (2020).
    """
    difference = logprobs - ref_logprobs
    if estimator == "k1":
        return difference
    if estimator == "k2":
        return difference**2 / 2
    difference = difference.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    return ((-difference).exp() - 1 + difference).clamp(max=MAX_K3)


@register("regularizer", "kl")
class KL(Regularizer):
    """coef * sum W KL(pi || ref), with the policy term's own weights W.

    `k3` (GRPO, arXiv 2402.03300 eq. 4), `k2`, `k1` estimate it from the sampled token; `exact` is the sum over the
    vocabulary, computed in chunks. As a loss, k1 has the gradient of the sampled log-prob only (zero mean) and k3's is
    biased when the sampler is not the current policy; `exact` and, to first order, `k2` have the gradient of the KL.
    `importance` multiplies each token's estimate by its ratio pi/pi_old, with the ratio's gradient: unbiased, in value
    and gradient, where the tokens come from an older policy (DeepSeek-V3.2, and TRL under bias correction).
    Passes: one forward of the reference per update (with LoRA: the same weights, adapter off).
    """

    coef: float = Field(0.01, ge=0, description="weight of the term")
    estimator: Literal["k1", "k2", "k3", "exact"] = Field("k3", description="how the divergence is computed")

    importance: bool = Field(False, description="weigh the estimates by pi/pi_old; not for exact")

    @model_validator(mode="after")
    def _of_samples(self) -> KL:
        if self.importance and self.estimator == "exact":
            raise ValueError("kl with estimator exact is no estimate from samples: importance must be false")
        return self

    def needs(self) -> Needs:
        if self.estimator == "exact":
            return Needs(passes={"ref_kl": True})
        return Needs(passes={"ref_logprobs": False})

    def __call__(self, inputs: RegularizerInputs) -> RegularizerLoss:
        mask = inputs.credit.loss_mask
        if self.estimator == "exact":
            values = masked(inputs.passes["ref_kl"], mask)
        else:
            reference = masked(inputs.passes["ref_logprobs"].detach(), mask)
            current = masked(inputs.logprobs, mask)
            values = masked(kl_estimate(current, reference, self.estimator), mask)
            if self.importance:
                known = inputs.rollouts.old_logprobs
                old = current.detach() if known is None else masked(known, mask)
                values = values * (current - old).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
        term = (inputs.weights * values).sum()
        mean = float(values.detach().sum()) / max(1, int(mask.sum()))
        return RegularizerLoss(self.coef * term, {"ref_kl": mean})
