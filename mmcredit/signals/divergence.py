"""Signal `divergence`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from mmcredit.components import register
from mmcredit.policy.passes import CLEAN, REFERENCE, Pass
from mmcredit.signals.base import Results, Signal

if TYPE_CHECKING:
    from torch import Tensor


@register("signal", "divergence")
class Divergence(Signal):
    """[B,T]: how far the next-token distribution is from the reference model's, exact over the vocabulary, nats.

    With P the policy and Q the reference: `kl` KL(P || Q), `reverse_kl` KL(Q || P), `js` Jensen-Shannon, `tv` total
    variation. `top_p` < 1 cuts both distributions before `js`, as Sparse but Critical does with 0.7 (arXiv 2603.22446;
    there at temperature 1, here at the sampling temperature). Passes: clean, reference.
    """

    measure: Literal["kl", "reverse_kl", "js", "tv"] = Field("kl", description="the divergence")
    top_p: float = Field(1.0, gt=0, le=1, description="js: mass kept of each distribution")

    @model_validator(mode="after")
    def _only_js(self) -> Divergence:
        if self.top_p < 1 and self.measure != "js":
            raise ValueError(f"top_p {self.top_p} goes with measure js alone, got measure {self.measure}")
        return self

    def passes(self) -> tuple[Pass, ...]:
        return Pass(CLEAN, frozenset({self._output})), Pass(REFERENCE, frozenset())

    def read(self, results: Results) -> Tensor:
        return results[CLEAN][self._output]

    @property
    def _output(self) -> str:
        return f"{self.measure}_to:reference" + (f":{self.top_p:g}" if self.top_p < 1 else "")
