"""Signal `masked_logprobs`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmcredit.components import register
from mmcredit.policy.passes import MASKED
from mmcredit.signals.base import Results, Signal, one

if TYPE_CHECKING:
    from torch import Tensor

    from mmcredit.policy.passes import Pass


@register("signal", "masked_logprobs")
class MaskedLogprobs(Signal):
    """[B,T]: log-prob of the same token with random squares of the image black (VPPO, PAPO). Pass: masked."""

    def passes(self) -> tuple[Pass, ...]:
        return one(MASKED, "logprobs")

    def read(self, results: Results) -> Tensor:
        return results[MASKED]["logprobs"]
