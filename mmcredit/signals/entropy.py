"""Signal `entropy`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmcredit.components import register
from mmcredit.policy.passes import CLEAN
from mmcredit.signals.base import Results, Signal, one

if TYPE_CHECKING:
    from torch import Tensor

    from mmcredit.policy.passes import Pass


@register("signal", "entropy")
class EntropySignal(Signal):
    """[B,T]: entropy of the full softmax that produced the token, nats, at sampling temperature. Pass: clean."""

    def passes(self) -> tuple[Pass, ...]:
        return one(CLEAN, "entropy")

    def read(self, results: Results) -> Tensor:
        return results[CLEAN]["entropy"]
