"""Intervals for the numbers a run states."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

Z95 = 1.959964


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval and the number of items behind it."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{100 * self.value:.1f}% [{100 * self.low:.1f}, {100 * self.high:.1f}] (n={self.n})"


def proportion(correct: int, n: int) -> Interval:
    """Wilson score interval of a share of right answers (Wilson 1927). Raises ValueError for n = 0."""
    if n <= 0:
        raise ValueError("an accuracy needs at least one item")
    share = correct / n
    scale = 1 + Z95**2 / n
    middle = (share + Z95**2 / (2 * n)) / scale
    half = Z95 * math.sqrt(share * (1 - share) / n + Z95**2 / (4 * n * n)) / scale
    return Interval(share, max(0.0, middle - half), min(1.0, middle + half), n)


def paired_gain(before: Sequence[float], after: Sequence[float]) -> Interval:
    """Mean of after - before over the same items, with a normal interval of the paired differences.

    Pairing removes the spread between easy and hard items, which both runs share. Raises ValueError for lists that
    differ in length or are empty.
    """
    if len(before) != len(after) or not before:
        raise ValueError(f"a paired gain needs the same items twice, got {len(before)} and {len(after)}")
    n = len(before)
    differences = [b - a for a, b in zip(before, after, strict=True)]
    mean = sum(differences) / n
    variance = sum((d - mean) ** 2 for d in differences) / max(1, n - 1)
    half = Z95 * math.sqrt(variance / n)
    return Interval(mean, mean - half, mean + half, n)
