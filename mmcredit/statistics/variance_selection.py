"""Which of the sampled responses are worth training on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def max_variance_subset(values: Tensor, count: int) -> Tensor:
    """[count] int64, ascending: indices of the `count` of `values` [M] whose population variance is largest.

    The best subset is always some of the largest and some of the smallest values; sorting once and trying every split
    with prefix sums is O(M log M). Everything if count >= M, nothing if count <= 0. Among equal values the earlier
    index is taken from the top end, the later from the bottom end; among equal variances the split with fewer values
    from the top. Source: D3S, arXiv 2509.22115; PODS (max-variance rollouts).
    """
    total = values.numel()
    if count <= 0:
        return torch.empty(0, dtype=torch.int64, device=values.device)
    if count >= total:
        return torch.arange(total, device=values.device)
    order = values.argsort(descending=True, stable=True)
    ordered = values[order].double()
    # Variance does not depend on the origin; around the mean the prefix sums of squares lose no digits.
    ordered = ordered - ordered.mean()
    zero = ordered.new_zeros(1)
    first, second = torch.cat([zero, ordered.cumsum(0)]), torch.cat([zero, ordered.square().cumsum(0)])
    top = torch.arange(count + 1, device=values.device)
    skipped = total - count
    sums = first[top] + first[-1] - first[top + skipped]
    squares = second[top] + second[-1] - second[top + skipped]
    variance = squares / count - (sums / count) ** 2
    # With binary rewards ties are the rule; without the margin a rounding error would decide them.
    best = int((variance >= variance.max() - 1e-12 * squares.max()).int().argmax())
    return torch.cat([order[:best], order[total - (count - best) :]]).sort().values
