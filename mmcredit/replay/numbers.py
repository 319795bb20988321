"""How two credits of the same tokens compare."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Shares:
    """Of all tokens that the policy sampled, in [0, 1]. `reference` is GRPO's credit."""

    nonzero: float  # have credit
    flips: float  # have the opposite sign of the reference: both nonzero
    silenced: float  # have none where the reference has some
    added: float  # have some where the reference has none


def shares(values: Tensor, reference: Tensor) -> Shares:
    """`values`, `reference`: [N] credit of the same tokens. All 0 without tokens."""
    count = max(1, values.numel())
    one, other = torch.sign(values), torch.sign(reference)

    def share(where: Tensor) -> float:
        return int(where.sum()) / count

    return Shares(
        nonzero=share(one != 0),
        flips=share(one * other < 0),
        silenced=share((one == 0) & (other != 0)),
        added=share((one != 0) & (other == 0)),
    )


def cosine(a: Tensor, b: Tensor) -> float | None:
    """a.b / (|a| |b|) of two [N] vectors, in float64; None if one of them is 0. Zero stays a point of reference: a
    token without credit counts as neither agreeing nor disagreeing."""
    a, b = a.double(), b.double()
    sizes = a.norm() * b.norm()
    return None if not float(sizes) else float((a @ b / sizes).clamp(-1, 1))


def rank_correlation(a: Tensor, b: Tensor) -> float | None:
    """Spearman's rank correlation of two [N] vectors, equal values sharing their mean rank; None if one is constant."""
    return cosine(_centred_ranks(a), _centred_ranks(b))


def _centred_ranks(values: Tensor) -> Tensor:
    """[N] float64 ranks minus their mean; exactly 0 for a constant vector."""
    _, place, counts = torch.unique(values, return_inverse=True, return_counts=True)
    if counts.numel() < 2:
        return torch.zeros(values.shape, dtype=torch.float64, device=values.device)
    last = counts.cumsum(0).double()
    return (last - (counts.double() - 1) / 2)[place] - (values.numel() + 1) / 2


def matrix(columns: Sequence[Tensor], measure: Callable[[Tensor, Tensor], float | None]) -> list[list[float | None]]:
    """`measure` of every pair of columns, symmetric."""
    size = len(columns)
    table: list[list[float | None]] = [[None] * size for _ in columns]
    for i in range(size):
        for j in range(i, size):
            table[i][j] = table[j][i] = measure(columns[i], columns[j])
    return table
