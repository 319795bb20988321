"""Signal `sampled_logit`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmcredit.components import register
from mmcredit.policy.passes import CLEAN
from mmcredit.signals.base import Results, Signal, one

if TYPE_CHECKING:
    from torch import Tensor

    from mmcredit.policy.passes import Pass


@register("signal", "sampled_logit")
class SampledLogit(Signal):
    """[B,T]: raw logit of the sampled token, without temperature (UCAS). Pass: clean."""

    def passes(self) -> tuple[Pass, ...]:
        return one(CLEAN, "sampled_logit")

    def read(self, results: Results) -> Tensor:
        return results[CLEAN]["sampled_logit"]
