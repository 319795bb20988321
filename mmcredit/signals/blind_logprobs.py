"""Signal `blind_logprobs`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmcredit.components import register
from mmcredit.policy.passes import BLIND
from mmcredit.signals.base import Results, Signal, one

if TYPE_CHECKING:
    from torch import Tensor

    from mmcredit.policy.passes import Pass


@register("signal", "blind_logprobs")
class BlindLogprobs(Signal):
    """[B,T]: log-prob of the same token with every visual token hidden (PGPO, arXiv 2604.01840). Pass: blind."""

    def passes(self) -> tuple[Pass, ...]:
        return one(BLIND, "logprobs")

    def read(self, results: Results) -> Tensor:
        return results[BLIND]["logprobs"]
