"""Signal `self_certainty`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmcredit.components import register
from mmcredit.policy.passes import CLEAN
from mmcredit.signals.base import Results, Signal, one

if TYPE_CHECKING:
    from torch import Tensor

    from mmcredit.policy.passes import Pass


@register("signal", "self_certainty")
class SelfCertainty(Signal):
    """[B,T]: mean over the vocabulary of -log(V p), the divergence of the softmax from uniform (UCAS). Pass: clean."""

    def passes(self) -> tuple[Pass, ...]:
        return one(CLEAN, "self_certainty")

    def read(self, results: Results) -> Tensor:
        return results[CLEAN]["self_certainty"]
