"""What the responses of a group earned, as sampling strategies look at it. Shapes: B responses, P prompts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from mmcredit.rollout.batch import Batch
    from mmcredit.rollout.strategies.base import Stage

TOTAL = "total"


def deciding(batch: Batch, part: str | None, stage: Stage) -> Tensor:
    """[B] f32: the reward that decides. `part`: a name, "total", or None for the first part of the config."""
    name = stage.reward_names[0] if part is None else part
    return batch.rollouts.rewards if name == TOTAL else batch.rollouts.reward_parts[name]


def part_needed(part: str | None) -> tuple[str, ...]:
    """Reward parts that `deciding` asks for by name."""
    return () if part in (None, TOTAL) else (part,)  # type: ignore[return-value]


def span(values: Tensor, group: Tensor, num_groups: int) -> tuple[Tensor, Tensor]:
    """([P], [P]): the least and the greatest of `values` [B] in each group; +inf and -inf where it has none."""
    low = torch.full((num_groups,), torch.inf, dtype=values.dtype, device=values.device)
    high = torch.full_like(low, -torch.inf)
    return low.scatter_reduce(0, group, values, "amin"), high.scatter_reduce(0, group, values, "amax")


def advantages(rewards: Tensor, group: Tensor, num_groups: int) -> Tensor:
    """[B] f64: (R - mean)/std of each group with the population standard deviation, exactly 0 in a constant group."""
    rewards = rewards.double()
    zero = torch.zeros(num_groups, dtype=torch.float64, device=rewards.device)
    count = zero.index_add(0, group, torch.ones_like(rewards)).clamp(min=1)
    centred = rewards - (zero.index_add(0, group, rewards) / count)[group]
    std = (zero.index_add(0, group, centred**2) / count).sqrt()
    low, high = span(rewards, group, num_groups)
    # By comparison: a mean of equal floats can differ from them in the last bit.
    mixed = (low < high)[group]
    return torch.where(mixed, centred / std.clamp(min=1e-300)[group], torch.zeros_like(centred))
