"""Statistics over the responses of one prompt, computed on the whole batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def group_sums(values: Tensor, index: Tensor, num_groups: int) -> Tensor:
    """[P]: sum of `values` [B] over each group. Order of addition is the row order: deterministic on the CPU."""
    return torch.zeros(num_groups, dtype=values.dtype, device=values.device).index_add_(0, index, values)


def group_mean(values: Tensor, index: Tensor, num_groups: int) -> Tensor:
    """[P]: mean of `values` [B] over each group (0 for a group without members)."""
    counts = group_sums(torch.ones_like(values), index, num_groups)
    return group_sums(values, index, num_groups) / counts.clamp(min=1)


def group_std(values: Tensor, index: Tensor, num_groups: int, ddof: int) -> Tensor:
    """[P]: standard deviation with divisor n - ddof; 0 where n <= ddof.

    Two passes, the mean first: with rewards of equal value the deviations, and so the result, are exactly 0.
    """
    counts = group_sums(torch.ones_like(values), index, num_groups)
    centred = center(values, index, num_groups)
    return (group_sums(centred**2, index, num_groups) / (counts - ddof).clamp(min=1)).sqrt()


def center(values: Tensor, index: Tensor, num_groups: int) -> Tensor:
    """[B]: value minus the mean of its group, exactly 0 in a group whose values are all equal.

    A mean of equal floats can differ from them in the last bit; divided by a tiny standard deviation that bit would
    become a real advantage. Such groups are set to 0 by comparison, not by subtraction.
    """
    mean = group_mean(values, index, num_groups)
    low = torch.full((num_groups,), torch.inf, dtype=values.dtype, device=values.device)
    low = low.scatter_reduce(0, index, values, "amin")
    high = torch.full((num_groups,), -torch.inf, dtype=values.dtype, device=values.device)
    high = high.scatter_reduce(0, index, values, "amax")
    return torch.where((low == high)[index], torch.zeros_like(values), values - mean[index])


def group_sizes(index: Tensor, num_groups: int) -> Tensor:
    """[P] int64: responses of each group."""
    return torch.bincount(index, minlength=num_groups)


def normalize(rewards: Tensor, index: Tensor, num_groups: int, ddof: int = 1, eps: float = 1e-6) -> Tensor:
    """[B]: GRPO's advantage (R - mean) / (std + eps), exactly 0 in a constant group and in a group of one."""
    centred = center(rewards, index, num_groups)
    std = group_std(rewards, index, num_groups, ddof)[index]
    return torch.where(std > 0, centred / (std + eps), torch.zeros_like(centred))


def constant_groups(values: Tensor, index: Tensor, num_groups: int) -> Tensor:
    """[P] bool: all members have the same value (a group of one, too)."""
    low = torch.full((num_groups,), torch.inf, dtype=values.dtype, device=values.device)
    high = torch.full((num_groups,), -torch.inf, dtype=values.dtype, device=values.device)
    return low.scatter_reduce(0, index, values, "amin") == high.scatter_reduce(0, index, values, "amax")


def token_moments(values: Tensor, mask: Tensor, segment: Tensor, num_segments: int) -> tuple[Tensor, Tensor]:
    """[S] f64 mean and population standard deviation of the masked tokens of each segment.

    `values`, `mask` and `segment` (int64 numbers 0..S-1) are [B,T]. Two passes, the mean first. 0 and 0 for a segment
    without tokens.
    """
    chosen, where = values[mask].double(), segment[mask]
    counts = torch.bincount(where, minlength=num_segments).clamp(min=1)
    empty = torch.zeros(num_segments, dtype=torch.float64, device=values.device)
    mean = empty.index_add(0, where, chosen) / counts
    variance = empty.index_add(0, where, (chosen - mean[where]) ** 2) / counts
    return mean, variance.sqrt()
