"""Signal `attention_entropy`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from mmcredit.components import register
from mmcredit.policy.passes import CLEAN
from mmcredit.signals.base import Results, Signal, one

if TYPE_CHECKING:
    from torch import Tensor

    from mmcredit.policy.passes import Pass


@register("signal", "attention_entropy")
class AttentionEntropy(Signal):
    """[B,T]: entropy of the head-averaged attention of one layer where the token is predicted, over log(visible keys).

    In [0, 1]; heads are averaged before the entropy (arXiv 2605.07660). Computed while the clean pass runs, from the
    queries and keys of that layer alone. Pass: clean.
    """

    layer: int | None = Field(None, ge=0, description="from 0; none = floor(layers / 2), or the nearest softmax layer")
    normalised: bool = Field(True, description="divide by log(visible keys); else nats")
    first_key: bool = Field(True, description="with the first key, often a sink; else the others, renormalised")

    def passes(self) -> tuple[Pass, ...]:
        return one(CLEAN, self._output)

    def read(self, results: Results) -> Tensor:
        return results[CLEAN][self._output]

    @property
    def _output(self) -> str:
        layer = "" if self.layer is None else f":{self.layer}"
        return f"attention_entropy{layer}{'' if self.normalised else ':nats'}{'' if self.first_key else ':no_first'}"
