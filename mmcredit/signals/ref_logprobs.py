"""Signal `ref_logprobs`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmcredit.components import register
from mmcredit.policy.passes import REFERENCE
from mmcredit.signals.base import Results, Signal, one

if TYPE_CHECKING:
    from torch import Tensor

    from mmcredit.policy.passes import Pass


@register("signal", "ref_logprobs")
class RefLogprobs(Signal):
    """[B,T]: log-prob of the token under the reference model. Pass: reference."""

    def passes(self) -> tuple[Pass, ...]:
        return one(REFERENCE, "logprobs")

    def read(self, results: Results) -> Tensor:
        return results[REFERENCE]["logprobs"]
