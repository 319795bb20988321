"""Intervals for the numbers a run states."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mmcredit.score_interval import Z95, score_interval


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


def paired_gain(before: Sequence[float], after: Sequence[float], answers: int = 1) -> Interval:
    """Mean of after - before over the same items (values within 0..1), with the score interval of the differences.

    Pairing removes the spread between easy and hard items, which both runs share. For right or wrong answers it is the
    interval of Tango (1998) for paired proportions: where no answer changed in 200, -1.9 to +1.9 points and not none.
    Values that are shares of several `answers` move in smaller steps and scatter less: see `score_interval`. Raises
    ValueError for lists that differ in length or are empty.
    """
    if len(before) != len(after) or not before:
        raise ValueError(f"a paired gain needs the same items twice, got {len(before)} and {len(after)}")
    n = len(before)
    differences = [b - a for a, b in zip(before, after, strict=True)]
    low, high = score_interval(differences, -1.0, 1.0, 1 / answers)
    return Interval(sum(differences) / n, low, high, n)
