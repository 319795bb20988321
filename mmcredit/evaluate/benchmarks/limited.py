"""A few questions of a benchmark, without tearing apart what its metrics look at together."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

from mmcredit.evaluate.benchmarks.scoring import Score, Scored

if TYPE_CHECKING:
    from mmcredit.data.benchmarks.samples import BenchmarkSamples
    from mmcredit.evaluate.benchmarks.base import Benchmark


def limited(benchmark: Benchmark, samples: BenchmarkSamples, order: Sequence[int], limit: int) -> list[int]:
    """Places of at most `limit` samples, ascending: whole groups in the order of their first sample in `order`, a group
    that no longer fits left out.

    A group holds the samples that share a unit of some metric: the variants of a problem (DynaMath), a problem with its
    steps (We-Math), the questions about a figure (HallusionBench). Raises ValueError where no group fits.
    """
    groups = _groups(benchmark, samples)
    chosen: list[int] = []
    for group in dict.fromkeys(groups[place] for place in order):
        if len(chosen) + len(group) <= limit:
            chosen += group
    if not chosen:
        raise ValueError(
            f"--limit {limit}: {benchmark.name} asks its questions in groups, the smallest of "
            f"{min(map(len, groups))}; set --limit to at least that"
        )
    return sorted(chosen)


def _groups(benchmark: Benchmark, samples: BenchmarkSamples) -> list[tuple[int, ...]]:
    """By place of a sample: the places of its group."""
    nothing = Score(False, None, "")
    members: list[list[int]] = [[place] for place in range(len(samples))]
    first: dict[Hashable, int] = {}
    for place in range(len(samples)):
        item = Scored(samples.id(place), nothing, samples.meta(place))
        for metric in benchmark.metrics():
            unit = metric.unit(item)
            if unit is None:
                continue
            mine, other = members[place], members[first.setdefault((metric.name, unit), place)]
            if mine is not other:
                other.extend(mine)
                for moved in mine:
                    members[moved] = other
    return [tuple(group) for group in members]
