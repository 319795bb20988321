"""Entropy bonus."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mmcredit.components import Needs, register
from mmcredit.objective.base import Regularizer, RegularizerInputs, RegularizerLoss, masked


@register("regularizer", "entropy")
class Entropy(Regularizer):
    """-coef * sum W H: rewards the entropy (nats, full softmax, sampling temperature) of the policy at each token.

    A negative coefficient punishes it. The entropy carries its gradient; W are the policy term's own weights.
    `estimator` "sampled" puts -log p of the sampled token in its place, as VPPO's and PAPO's releases do under the name
    of entropy: unbiased in value, but its on-policy gradient is zero in expectation, unlike the entropy's.
    Source: arXiv 1602.01783 section 4. Passes: none (computed in the update's own forward).
    """

    coef: float = Field(0.001, description="weight of the bonus")
    estimator: Literal["full", "sampled"] = Field("full", description="entropy of the softmax, or -log p of the token")

    def needs(self) -> Needs:
        return Needs(passes={"entropy": True}) if self.estimator == "full" else Needs()

    def __call__(self, inputs: RegularizerInputs) -> RegularizerLoss:
        values = inputs.passes["entropy"] if self.estimator == "full" else -inputs.logprobs
        values = masked(values, inputs.credit.loss_mask)
        return RegularizerLoss(-self.coef * (inputs.weights * values).sum(), {})
