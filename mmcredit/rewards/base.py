"""What a reward is: a named, weighted function of response text and reference answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

from mmcredit.answers.item import RewardItem
from mmcredit.components import Component


class Reward(Component):
    """One part of the reward; the total is the sum of weight * value over the parts.

    `__call__` runs in a worker process. None means "does not apply to this item" (counted, worth 0 in the total);
    raising, hanging past `timeout`, NaN and infinity are counted and worth `on_error` / `on_timeout`.
    """

    not_applicable: ClassVar[float] = 0.0  # in `reward_parts` for None; NaN where credit must not take it for a value

    weight: float = Field(1.0, allow_inf_nan=False, description="factor of this part in the total")
    timeout: float = Field(
        10.0, gt=0, allow_inf_nan=False, description="seconds for one item; then the worker is killed"
    )
    on_error: float = Field(0.0, allow_inf_nan=False, description="value of an item that raised or was not finite")
    on_timeout: float = Field(0.0, allow_inf_nan=False, description="value of an item that took too long")
    label: str = Field("", description="name of this part in metrics and reward_parts; empty = the reward's own name")

    def whole_batch(self) -> bool:
        """True if `__call__` must see all items of a batch at once; then `timeout` and a failure are for all of them.

        By default it is called with one item at a time, so that a hang or a crash costs that item only.
        """
        return False

    def prepare(self) -> None:
        """Load what is heavy. Runs once in each worker before the first item; the time does not count as an item's."""

    def __call__(self, items: Sequence[RewardItem]) -> Sequence[float | None]:
        """A value per item."""
        raise TypeError(f"{type(self).__name__} does not implement __call__(items)")
