"""Which responses count as right, for terms that are conditioned on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from torch import Tensor

    from mmcredit.rollouts import Rollouts


class Success(BaseModel):
    """A part of the reward above a threshold.

    Not the total reward: a wrong answer in the right format would pass. NaN is no success.
    """

    model_config = ConfigDict(extra="forbid")

    key: str | None = Field(
        None, description="part of the reward; null = `accuracy` if there is one, else the first part, else the total"
    )
    threshold: float = Field(0.5, description="a response is right above it")

    @property
    def parts(self) -> tuple[str, ...]:
        """What a run must give for it."""
        return () if self.key is None else (self.key,)

    def __call__(self, rollouts: Rollouts) -> Tensor:
        """[B] bool. Raises ValueError for a part that is not there."""
        parts = rollouts.reward_parts
        if self.key is not None and self.key not in parts:
            raise ValueError(f"success.key is {self.key!r}, but the reward has the parts {sorted(parts) or 'none'}")
        key = self.key or ("accuracy" if "accuracy" in parts else next(iter(parts), None))
        return (rollouts.rewards if key is None else parts[key]) > self.threshold
