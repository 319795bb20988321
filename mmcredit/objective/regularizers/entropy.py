"""Entropy bonus."""

from __future__ import annotations

from pydantic import Field

from mmcredit.components import Needs, register
from mmcredit.objective.base import Regularizer, RegularizerInputs, RegularizerLoss, masked


@register("regularizer", "entropy")
class Entropy(Regularizer):
    """-coef * sum W H: rewards the entropy (nats, full softmax, sampling temperature) of the policy at each token.

    A negative coefficient punishes it. The entropy carries its gradient; W are the policy term's own weights.
    Source: arXiv 1602.01783 section 4. Passes: none (computed in the update's own forward).
    """

    coef: float = Field(0.001, description="weight of the bonus")

    def needs(self) -> Needs:
        return Needs(passes={"entropy": True})

    def __call__(self, inputs: RegularizerInputs) -> RegularizerLoss:
        values = masked(inputs.passes["entropy"], inputs.credit.loss_mask)
        return RegularizerLoss(-self.coef * (inputs.weights * values).sum(), {})
