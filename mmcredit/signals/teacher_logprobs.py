"""Signal `teacher_logprobs`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from mmcredit.components import register
from mmcredit.policy.passes import View
from mmcredit.signals.base import Results, Signal, one

if TYPE_CHECKING:
    from torch import Tensor

    from mmcredit.policy.passes import Pass


@register("signal", "teacher_logprobs")
class TeacherLogprobs(Signal):
    """[B,T]: log-prob of the same token where the prompt has a hint in it (OPD, arXiv 2603.10165).

    NaN for a response whose sample brings no hint: no teacher was run for it. Pass: teacher.
    """

    weights: Literal["policy", "reference"] = Field("policy", description="the present policy, or the reference model")

    def passes(self) -> tuple[Pass, ...]:
        return one(self._view, "logprobs")

    def read(self, results: Results) -> Tensor:
        return results[self._view]["logprobs"]

    @property
    def _view(self) -> View:
        return View("teacher", weights=self.weights)
