"""Signal `head_input`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmcredit.components import register
from mmcredit.policy.passes import CLEAN
from mmcredit.signals.base import Results, Signal, one

if TYPE_CHECKING:
    from torch import Tensor

    from mmcredit.policy.passes import Pass


@register("signal", "head_input")
class HeadInput(Signal):
    """[B,T,d]: input of the LM head at the position that predicts the token (DelTA). Pass: clean."""

    def passes(self) -> tuple[Pass, ...]:
        return one(CLEAN, "head_input")

    def read(self, results: Results) -> Tensor:
        return results[CLEAN]["head_input"]
