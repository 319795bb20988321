"""Distillation from a teacher that sees a hint, over whole distributions instead of the sampled token."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, model_validator

from mmcredit.components import Needs, register
from mmcredit.objective.base import Regularizer, RegularizerInputs, RegularizerLoss, masked
from mmcredit.views.teacher import TeacherView


@register("regularizer", "teacher_kl")
class TeacherKL(Regularizer):
    """coef * sum W KL(pi || teacher), the teacher seeing the prompt with a hint; W are the policy term's weights.

    The divergence is taken over the teacher's `k` most likely tokens and one bin for all others, whose log-mass is
    log(1 - exp(logsumexp of the k)) with that logsumexp at most -1e-7 (`k` none: over the whole vocabulary; the binned
    value is never above it). The gradient flows through the policy alone. A token without a teacher (its sample brings
    no hint) has term 0 and stays in the denominator; their share is logged.

    Source: the Top-K option of OpenClaw-RL, arXiv 2603.10165 and its released code, where it takes the place of the
    advantage; beside a credit method the two terms add up. `teacher` self is the present policy (its own hinted
    distribution, held constant), reference the reference model; the release queries a frozen checkpoint, once per
    rollout. Hints as for the credit method `opd`.
    Defaults: k 50 (released code); coef 1.
    Passes: one teacher pass per update, without gradient.
    """

    coef: float = Field(1.0, ge=0, description="weight of the term")
    k: int | None = Field(50, ge=1, description="tokens of the teacher that are told apart; none = all")
    teacher: Literal["self", "reference"] = Field("self", description="who is shown the hint")
    hint: str | None = Field("hint", description="key of the sample's meta that holds the hint")
    answer: str | None = Field(None, description="hint of samples that bring none, with {answer} in it; none = no hint")
    min_characters: int = Field(11, ge=1, description="shorter hints are none")

    @model_validator(mode="after")
    def _view(self) -> TeacherKL:
        self.view()
        return self

    def view(self) -> TeacherView:
        """What the teacher is shown. Raises ValueError for an `answer` without a place for it."""
        return TeacherView(hint=self.hint, answer=self.answer, min_characters=self.min_characters)

    def needs(self) -> Needs:
        weights = "policy" if self.teacher == "self" else "reference"
        return Needs(
            passes={"teacher_kl": True},
            views={"teacher": self.view()},
            settings={"teacher_kl": {"k": self.k, "weights": weights}},
        )

    def __call__(self, inputs: RegularizerInputs) -> RegularizerLoss:
        mask = inputs.credit.loss_mask
        found = inputs.passes["teacher_kl"]
        taught = mask & torch.isfinite(found.detach())
        values = masked(found, taught)
        metrics = {
            "teacher_kl": float(values.detach().sum()) / max(1, int(taught.sum())),
            "teacher_missing": float((mask & ~taught).sum()) / max(1, int(mask.sum())),
        }
        return RegularizerLoss(self.coef * (inputs.weights * values).sum(), metrics)
