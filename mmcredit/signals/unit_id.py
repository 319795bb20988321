"""Signal `unit_id`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import Field

from mmcredit.components import register
from mmcredit.policy.offsets import TokenOffsets
from mmcredit.policy.units import units_of
from mmcredit.signals.base import TokenSignal

if TYPE_CHECKING:
    from torch import Tensor

    from mmcredit.rollouts import Rollouts


@register("signal", "unit_id")
class UnitId(TokenSignal):
    """[B,T] int64: the word, number or identifier that a token is a piece of, -1 for none. Pass: none.

    Made of the sampled ids, byte by byte, never of a second tokenisation.
    """

    by: Literal["word", "number", "identifier", "token"] = Field("word", description="what a unit is")

    def make(self, rollouts: Rollouts, tokenizer: Any) -> Tensor:
        offsets = TokenOffsets(tokenizer)
        out = torch.full(rollouts.tokens.shape, -1, dtype=torch.int64)
        for row, valid in enumerate(rollouts.valid.cpu()):
            ids = rollouts.tokens[row].cpu()[valid].tolist()
            if ids:
                found = offsets.sampled(ids)
                out[row, valid] = torch.tensor(units_of(found.text, found.spans, self.by))
        return out.to(rollouts.tokens.device)
