"""Intervals for the numbers a run states."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

Z95 = 1.959964
_HALVINGS = 60


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


def paired_gain(before: Sequence[float | None], after: Sequence[float | None], answers: int = 1) -> Interval:
    """Mean of after - before over the same items (values within 0..1), with the score interval of the differences.

    Pairing removes the spread between easy and hard items, which both runs share. For right or wrong answers it is the
    interval of Tango (1998) for paired proportions: where no answer changed in 200, -1.9 to +1.9 points and not none.
    Values that are shares of several `answers` move in smaller steps and scatter less: see `score_interval`. An item
    that is None (not applicable, not usable) on one side is left out. Raises ValueError for lists that differ in length
    or have no item in common.
    """
    if len(before) != len(after) or not before:
        raise ValueError(f"a paired gain needs the same items twice, got {len(before)} and {len(after)}")
    differences = [b - a for a, b in zip(before, after, strict=True) if a is not None and b is not None]
    n = len(differences)
    if not n:
        raise ValueError("a paired gain needs an item that both sides could judge")
    low, high = score_interval(differences, -1.0, 1.0, None if answers == 1 else 1 / answers)
    return Interval(sum(differences) / n, low, high, n)


def score_interval(
    values: Sequence[float], least: float, most: float, step: float | None = None, z: float = Z95
) -> tuple[float, float]:
    """The bounds of all means d that a score test does not reject: n (m - d)^2 <= z^2 s^2(d), m the mean of `values`.

    s^2(d) is the variance under the hypothesis that the mean is d: that of the likeliest distribution with this mean on
    the range of the values, widened by one `step` to both sides (the smallest change of a value; default: the whole
    range [`least`, `most`]). It gives each value the weight 1 / (n (1 + t (x - d))) (empirical likelihood, Owen 1988)
    and, where no such weights reach d, the rest to the end of the range. Since the hypothesis and not the sample says
    how wide values scatter, equal values do not make an interval without width.

    Values that are 0 or 1 in [0, 1] give Wilson's interval (1927); differences -1, 0, 1 in [-1, 1] that of Tango for
    paired proportions (Statistics in Medicine 17, 891-908, 1998), whose restricted estimate is the same distribution.
    For shares of k answers (step 1/k) it is their generalisation; `tests/test_score_interval.py` measures its coverage.
    Raises ValueError for no values or one outside the range.
    """
    array = np.asarray(values, dtype=np.float64)
    if not len(array):
        raise ValueError("an interval needs at least one item")
    if not ((array >= least) & (array <= most)).all():
        raise ValueError(f"values must lie between {least:g} and {most:g}, got {array.min()} to {array.max()}")
    found, counts = np.unique(array, return_counts=True)
    shares = counts / len(array)
    if step is not None:
        least, most = max(least, float(found[0]) - step), min(most, float(found[-1]) + step)
    high = _upper(found, shares, len(array), most, z)
    low = -_upper(-found[::-1], shares[::-1], len(array), -least, z)
    return max(least, low), min(most, high)


def _upper(values: NDArray[np.float64], shares: NDArray[np.float64], n: int, end: float, z: float) -> float:
    """The largest mean that is not rejected; `values` [U] ascending with their `shares` [U]."""
    mean = float(values @ shares)
    inside, outside = mean, end
    for _ in range(_HALVINGS):
        middle = (inside + outside) / 2
        if not inside < middle < outside:
            break
        if n * (mean - middle) ** 2 <= z * z * _variance(values, shares, middle, end):
            inside = middle
        else:
            outside = middle
    return inside


def _variance(values: NDArray[np.float64], shares: NDArray[np.float64], mean: float, end: float) -> float:
    """Variance of the likeliest distribution whose mean is `mean`, which lies between that of the values and `end`."""
    apart = values - mean
    # t <= 0 tilts towards large values. Below `least` the end of the range itself would get a negative weight.
    least = -1.0 / (end - mean)
    if values[-1] < end and (shares * apart / (1 + least * apart)).sum() < 0:
        weights = shares / (1 + least * apart)
        rest = 1.0 - weights.sum()
        return float((weights * apart**2).sum() + rest * (end - mean) ** 2)
    low, high = least, 0.0
    for _ in range(_HALVINGS):
        t = (low + high) / 2
        if not low < t < high:
            break
        if (shares * apart / (1 + t * apart)).sum() > 0:
            low = t
        else:
            high = t
    weights = shares / (1 + high * apart)
    return float((weights * apart**2).sum() / weights.sum())
