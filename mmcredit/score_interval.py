"""The score interval of a mean of bounded values: Wilson's of a share and Tango's of a paired difference in one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

Z95 = 1.959964
_HALVINGS = 60


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
