"""Reward: fewer visual tokens."""

from __future__ import annotations

from collections.abc import Sequence

from mmcredit.answers.item import RewardItem
from mmcredit.components import register
from mmcredit.rewards.base import Reward


@register("reward", "keep_ratio")
class KeepRatio(Reward):
    """Minus the share of the prompt's visual tokens that the language model saw: -kept / total.

    `weight` is the price eta; without this reward it is 0. The position paper "Token reduction should go beyond
    efficiency" asks for such a term and gives no formula. The share belongs to the prompt: responses that share it pay
    alike, so a group-relative credit (`grpo`, `rloo`) does not move. It counts where budgets differ inside a group, in
    credits with a baseline over the batch (`reinforce_pp`), and in the logged total. Not applicable without media.
    """

    def __call__(self, items: Sequence[RewardItem]) -> list[float | None]:
        return [None if item.visual_share is None else -item.visual_share for item in items]
