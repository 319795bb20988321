"""Scores of several runs on several tasks, put together as Agarwal et al. (NeurIPS 2021, arXiv 2108.13264) do.

`scores` of a method: one [N_t] array per task, one number per run (seed).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Scores = Sequence[NDArray[np.float64]]

DRAWS = 2000


def interquartile_mean(scores: Scores) -> float:
    """Mean of the middle half of all runs of all tasks: a quarter of them, rounded down, is cut off at either end."""
    values = np.sort(np.concatenate(list(scores)))
    cut = len(values) // 4
    return float(values[cut : len(values) - cut].mean())


def probability_of_improvement(one: Scores, other: Scores) -> float:
    """How likely a run of `one` beats a run of `other` on a task drawn at random; a tie counts half.

    Mean over tasks of the Mann-Whitney statistic U / (N M).
    """
    shares = []
    for a, b in zip(one, other, strict=True):
        differences = a[:, None] - b[None, :]
        shares.append(float(((differences > 0) + 0.5 * (differences == 0)).mean()))
    return float(np.mean(shares))


def stratified_bootstrap(
    statistic: Callable[..., float], *methods: Scores, draws: int = DRAWS, seed: int = 0
) -> tuple[float, float] | None:
    """95 % percentile interval of `statistic(*methods)`: runs are drawn with replacement within each task and method.

    None where no task has two runs: one seed says nothing about seeds.
    """
    if all(len(task) < 2 for method in methods for task in method):
        return None
    rng = np.random.default_rng(seed)
    found = [
        statistic(*([task[rng.integers(len(task), size=len(task))] for task in method] for method in methods))
        for _ in range(draws)
    ]
    low, high = np.quantile(found, (0.025, 0.975))
    return float(low), float(high)
