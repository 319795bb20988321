"""Hindsight-guided on-policy distillation: a teacher that knows a hint says which tokens it would have raised."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, model_validator

from mmcredit.components import Needs, register
from mmcredit.credit.base import CreditMethod, Step
from mmcredit.credit.tokens import old_logprobs
from mmcredit.rollouts import Credit, Rollouts, broadcast
from mmcredit.views.teacher import TeacherView


@register("credit", "opd")
class OPD(CreditMethod):
    """A_k = w_opd * (T_k - old_k) + w_rl * r: token-level distillation plus an outcome term.

    T_k is the teacher's log-prob of response token k: the teacher sees the same conversation with a hint in the last
    user message and is forced on the response's own ids. T - old is not normalised and, unless `a_max` is set, not
    clipped. r is the credit of the method before this one (`base: advantages`, the default: `[grpo, opd]`), or, with
    `base: reward`, the raw reward of the response, no group and no normalisation, as in the paper: `opd` then stands
    first and alone. w_rl 0 is distillation only.

    A token without a teacher (NaN in the signal `teacher_logprobs`: no hint for this response, or an answer of the
    teacher that failed or stopped short) gets no distillation term; all such tokens are counted. With `base: reward` a
    token that has neither a teacher nor an outcome leaves the loss, as such samples are never formed in the paper.

    The hint stands in the sample: its meta under the key `hint`, or, with `answer` (such as "The answer is {answer}."),
    a sentence made of the reference answer; it is shown below the last user message. `below` distils only responses of
    a lower reward (ours: hints for failed attempts).

    Source: arXiv 2603.10165 (OpenClaw-RL) and its released code (personal-agent mode, OPD and combined). Differs:
    the release pads a failed teacher answer with log-prob 0, which is probability 1 and a large spurious advantage,
    and puts the sampler's log-prob in place of a missing teacher, which lets engine mismatch in. `teacher` self is
    the policy before the update (the paper's words; then T - old isolates the hint), reference the reference model (the
    release queries a frozen checkpoint). Hints come from data, not from a judge who reads the next turn. Token-mean
    loss, clip .2/.28, no KL.
    Defaults: both weights 1, no cap, hints of more than 10 characters (released code).
    Passes: one teacher pass per response with a hint; the old log-probs.
    """

    w_opd: float = Field(1.0, ge=0, description="weight of the distillation term")
    w_rl: float = Field(1.0, ge=0, description="weight of the outcome term")
    base: Literal["advantages", "reward"] = Field("advantages", description="outcome term: credit so far or raw reward")
    a_max: float | None = Field(None, gt=0, description="cap of |A|; none = no cap")
    below: float | None = Field(None, description="distil only responses whose reward is below it; none = all")
    teacher: Literal["self", "reference"] = Field("self", description="who is shown the hint")
    hint: str | None = Field("hint", description="key of the sample's meta that holds the hint")
    answer: str | None = Field(None, description="hint of samples that bring none, with {answer} in it; none = no hint")
    min_characters: int = Field(11, ge=1, description="shorter hints are none")

    @model_validator(mode="after")
    def _view(self) -> OPD:
        self.view()
        return self

    def view(self) -> TeacherView:
        """What the teacher is shown. Raises ValueError for an `answer` without a place for it."""
        return TeacherView(hint=self.hint, answer=self.answer, min_characters=self.min_characters)

    @property
    def starts(self) -> bool:  # type: ignore[override]
        """With `base: reward` it turns rewards into advantages itself."""
        return self.base == "reward"

    def needs(self) -> Needs:
        weights = "policy" if self.teacher == "self" else "reference"
        return Needs(
            signals=("teacher_logprobs",),
            old_logprobs=True,
            views={"teacher": self.view()},
            settings={"teacher_logprobs": {"weights": weights}},
        )

    def __call__(self, credit: Credit, rollouts: Rollouts, step: Step) -> Credit:
        mask = credit.loss_mask
        teacher = rollouts.signal("teacher_logprobs")
        if teacher.shape != mask.shape:
            raise ValueError(f"signal 'teacher_logprobs' must have shape {list(mask.shape)}, got {list(teacher.shape)}")
        taught = mask & torch.isfinite(teacher)
        step.note("tokens_without_teacher", (mask & ~taught).sum())
        if self.below is not None:
            taught = taught & (rollouts.rewards < self.below)[:, None]
        outcome = broadcast(rollouts.rewards, mask) if self.base == "reward" else credit.advantages
        gap = teacher.to(outcome.dtype) - old_logprobs(rollouts, self.name)
        outcome = self.w_rl * outcome
        advantages = torch.where(taught, self.w_opd * gap + outcome, outcome)
        if self.a_max is not None:
            advantages = advantages.clamp(-self.a_max, self.a_max)
        if self.base == "reward":
            keep = mask & (taught | (outcome != 0))
            step.note("tokens_without_signal", (mask & ~keep).sum())
            credit = credit.replace(loss_mask=keep)
        return credit.replace(advantages=advantages)
