"""Measures on held-out examples: means of ratios, with intervals, and their paired change."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mmcredit.intervals import Z95, Interval


@dataclass(frozen=True)
class Measured:
    """Per example what a measure sums, and its weight: the measure is sum(values) / sum(weights).

    The loss per token has summed log-probs as values and token counts as weights; a share has 0 or 1, and weights 1.
    """

    values: tuple[float, ...]
    weights: tuple[float, ...]

    def interval(self) -> Interval:
        """The ratio with its 95 % interval (linearised: the examples are the units that are drawn)."""
        return ratio(self.values, self.weights)

    def change(self, before: Measured) -> Interval:
        """This minus `before`, over the same examples, with the interval of the paired differences."""
        if len(before.values) != len(self.values):
            raise ValueError(f"paired measures need the same examples, got {len(before.values)} and {len(self.values)}")
        return ratio([a - b for a, b in zip(self.values, before.values, strict=True)], self.weights)


def ratio(values: Sequence[float], weights: Sequence[float]) -> Interval:
    """sum(values) / sum(weights) with a 95 % interval. Raises ValueError without examples or weight."""
    n, total = len(values), sum(weights)
    if not n or total <= 0:
        raise ValueError("a measure needs at least one example with a weight")
    value = sum(values) / total
    if n == 1:
        return Interval(value, -math.inf, math.inf, 1)
    rest = [(v - value * w) * n / total for v, w in zip(values, weights, strict=True)]
    half = Z95 * math.sqrt(sum(r * r for r in rest) / (n - 1) / n)
    return Interval(value, value - half, value + half, n)
