"""Signal `view_logprobs`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from pydantic import Field

from mmcredit.components import register
from mmcredit.policy.passes import Pass, corrupted
from mmcredit.signals.base import Results, Signal

if TYPE_CHECKING:
    from torch import Tensor


@register("signal", "view_logprobs")
class ViewLogprobs(Signal):
    """[K,B,T]: log-prob of the same token under K corrupted views of the image (ROMA). Passes: corrupted, K of them."""

    views: int = Field(2, ge=1, description="K")

    def passes(self) -> tuple[Pass, ...]:
        return tuple(Pass(corrupted(k), frozenset({"logprobs"})) for k in range(self.views))

    def read(self, results: Results) -> Tensor:
        return torch.stack([results[corrupted(k)]["logprobs"] for k in range(self.views)])
