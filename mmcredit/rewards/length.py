"""Reward: a soft penalty for responses that come near the length limit (DAPO)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from pydantic import Field, model_validator

from mmcredit.answers.item import RewardItem
from mmcredit.components import register
from mmcredit.rewards.base import Reward


@register("reward", "length")
class Length(Reward):
    r"""Soft overlong penalty: 0 up to `l_max` - `l_buf` tokens, then falling linearly to -`factor` at `l_max`.

        value = clip(-(L - (l_max - l_buf)) / l_buf * factor, -factor, 0)

    L is the number of sampled tokens of the response (`num_tokens`). Never positive: a short response earns nothing
    extra. Source: DAPO (arXiv 2503.14476), section 3.4, eq. 13, and its code (`overlong_buffer`). `l_buf` = 4096 and
    `factor` = 1 are the paper's; there `l_max` is 20480. It has no default here, since it must fit the run: it is the
    response length limit, `max_new_tokens`. Add it to a correctness reward; it is no reward of its own.
    """

    l_max: int = Field(ge=1, description="tokens at which the full penalty applies: the response length limit")
    l_buf: int = Field(4096, ge=1, description="tokens before l_max over which the penalty grows")
    factor: float = Field(1.0, ge=0, allow_inf_nan=False, description="penalty at l_max")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.l_buf > self.l_max:
            raise ValueError(f"l_buf={self.l_buf} must not exceed l_max={self.l_max}; a fifth of l_max is usual")
        return self

    def __call__(self, items: Sequence[RewardItem]) -> list[float]:
        over = [item.num_tokens - (self.l_max - self.l_buf) for item in items]
        return [-min(max(tokens / self.l_buf, 0.0), 1.0) * self.factor + 0.0 for tokens in over]
