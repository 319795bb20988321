"""The probability-dependent clip of DCPO."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from mmcredit.components import register
from mmcredit.objective.base import Clip
from mmcredit.rollouts import Rollouts

if TYPE_CHECKING:
    from torch import Tensor


@register("clip", "dcpo")
class DCPOClip(Clip):
    """Dynamic Adaptive Clipping: rare tokens may move by large factors, frequent ones by little.

    |(r - 1) p| <= eps with p = r q, q = pi_old(o_t), solved for r:
    lo(q) = 1/2 + 1/2 sqrt(max(1 - 4 eps_low/q, 0));  hi(q) = min(1/2 + 1/2 sqrt(1 + 4 eps_high/q), r_max).

    Source: arXiv 2509.02333; numbers as get_clip_low_high of lime-RL/DCPO@01787b0f. Defaults 0.16 / 0.20 / 10: the
    paper's (the released script leaves 0.2 / 0.28). For A < 0 the loss is capped at -10 A (`dual`, the code's
    clip_ratio_c). Bounds depend on old log-probs only. Pair with credit ``dcpo`` and ``response_mean_sum``.
    Passes: none.
    """

    eps_low: float = Field(0.16, ge=0, description="how far pi may fall: |(r-1) p| at the lower bound")
    eps_high: float = Field(0.2, ge=0, description="how far pi may rise: |(r-1) p| at the upper bound")
    r_max: float = Field(10.0, gt=1, description="largest upper bound of the ratio")
    dual: float | None = Field(10.0, gt=1, description="cap c of the dual clip; none = off")

    def bounds(self, rollouts: Rollouts, old_logprobs: Tensor) -> tuple[Tensor, Tensor]:
        inverse = (-old_logprobs).exp()  # 1/q; infinite for an underflowing q, which the floor and cap below absorb
        low = 0.5 + 0.5 * (1 - 4 * self.eps_low * inverse).clamp(min=0).sqrt()
        high = (0.5 + 0.5 * (1 + 4 * self.eps_high * inverse).sqrt()).clamp(max=self.r_max)
        return 1 - low, high - 1
