"""The same clip bounds for every token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from pydantic import Field

from mmcredit.components import register
from mmcredit.objective.base import Clip
from mmcredit.rollouts import Rollouts

if TYPE_CHECKING:
    from torch import Tensor


@register("clip", "fixed")
class Fixed(Clip):
    """The ratio is clipped to [1-low, 1+high], the same for every token.

    Defaults 0.2 / 0.2 are PPO's and GRPO's; DAPO's clip-higher is 0.2 / 0.28 (arXiv 2503.14476). `dual` (off) bounds
    the loss of negative advantages at -dual * A; verl uses 3, the DAPO recipe 10.
    """

    low: float = Field(0.2, ge=0, description="the ratio may fall to 1 - low")
    high: float = Field(0.2, ge=0, description="the ratio may rise to 1 + high")
    dual: float | None = Field(None, gt=1, description="cap c of the dual clip; none = off")

    def bounds(self, rollouts: Rollouts, old_logprobs: Tensor) -> tuple[Tensor, Tensor]:
        like: dict[str, Any] = {"dtype": old_logprobs.dtype, "device": old_logprobs.device}
        return torch.full(old_logprobs.shape, self.low, **like), torch.full(old_logprobs.shape, self.high, **like)
