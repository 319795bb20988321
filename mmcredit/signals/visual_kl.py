"""Signal `visual_kl`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmcredit.components import register
from mmcredit.policy.passes import BLIND, CLEAN, Pass
from mmcredit.signals.base import Results, Signal

if TYPE_CHECKING:
    from torch import Tensor


@register("signal", "visual_kl")
class VisualKL(Signal):
    """[B,T]: exact KL(seen || blind) over the vocabulary, nats (PGPO eq. 1, arXiv 2604.01840). Passes: clean, blind."""

    def passes(self) -> tuple[Pass, ...]:
        return Pass(CLEAN, frozenset({"kl_to:blind"})), Pass(BLIND, frozenset())

    def read(self, results: Results) -> Tensor:
        return results[CLEAN]["kl_to:blind"]
