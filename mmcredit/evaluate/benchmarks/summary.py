"""Adding scores up: metrics over all items and per subgroup, each with a 95 % interval."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

import numpy as np

from mmcredit.evaluate.benchmarks.scoring import Scored
from mmcredit.intervals import Interval, score_interval

RESAMPLES = 2000
Formula = Callable[[np.ndarray], np.ndarray]


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole; NaN where the whole is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return part / whole


def share(totals: np.ndarray) -> np.ndarray:
    """hits / number, of totals [..., 2]; NaN where there is none."""
    return ratio(totals[..., 0], totals[..., 1])


@dataclass(frozen=True)
class Metric:
    """A figure computed from sums over units.

    A unit is what is drawn anew in the bootstrap: an item, or all items that belong together (a group of questions
    about one figure, the variants of one problem). `unit` names the unit of an item, None leaves the item out. `vector`
    turns the items of a unit into numbers [D], which are summed over the units; `formula` turns such sums [..., D] into
    the figure [...].
    """

    name: str
    vector: Callable[[Sequence[Scored]], Sequence[float]]
    unit: Callable[[Scored], Hashable | None] = lambda item: item.id
    formula: Formula = share


def _hits(items: Sequence[Scored]) -> tuple[float, float]:
    return float(sum(item.score.correct for item in items)), float(len(items))


def all_right(items: Sequence[Scored]) -> tuple[float, float]:
    """One unit of the metrics that ask for every item of a group to be right."""
    return float(all(item.score.correct for item in items)), 1.0


ACCURACY = Metric("accuracy", _hits)


@dataclass(frozen=True)
class Summary:
    """The result of a benchmark. Metric values are shares (0 to 1) unless a benchmark's page says otherwise."""

    benchmark: str
    split: str
    scoring: str
    headline: str  # the metric that papers quote
    items: int
    attempts: int
    overall: Mapping[str, Interval]
    groups: Mapping[str, Mapping[str, Mapping[str, Interval]]]  # axis -> group -> metric
    scored_by: Mapping[str, int] = field(default_factory=dict)  # responses by official, rule, judge
    rules: Mapping[str, int] = field(default_factory=dict)
    flags: Mapping[str, int] = field(default_factory=dict)  # of rows and of scores, per response
    unparsed: int = 0  # responses in which no answer was found

    @property
    def value(self) -> Interval:
        """The headline metric."""
        return self.overall[self.headline]

    def rows(self) -> Iterator[dict[str, Any]]:
        """The table, one metric of one group a row: axis, group, metric, value, low, high, n."""
        tables = {"overall": {"all": self.overall}, **self.groups}
        for axis, groups in tables.items():
            for group, metrics in groups.items():
                for name, found in metrics.items():
                    yield {"axis": axis, "group": group, "metric": name, **vars(found)}


class Judged(Protocol):
    """What adding up asks of a benchmark."""

    name: ClassVar[str]
    headline: ClassVar[str]
    split: str
    scoring: Literal["official", "rl"]

    def metrics(self) -> Sequence[Metric]:
        """What is computed over all items, and over each subgroup."""
        ...

    def axes(self) -> Mapping[str, Callable[[Scored], Iterable[str]]]:
        """By name of a subgroup table: the groups to which an item belongs."""
        ...


def summarise(benchmark: Judged, items: Sequence[Scored], seed: int = 0) -> Summary:
    """See `Benchmark.summary`."""
    if not items:
        raise ValueError(f"{benchmark.name}: no items to summarise")
    attempts = _attempts(benchmark.name, items)
    metrics = benchmark.metrics()
    groups: dict[str, dict[str, dict[str, Interval]]] = {}
    for axis, of in benchmark.axes().items():
        members: dict[str, list[Scored]] = {}
        for item in items:
            for group in dict.fromkeys(of(item)):
                members.setdefault(group, []).append(item)
        if members:
            groups[axis] = {group: _measure(members[group], metrics, seed) for group in sorted(members)}
    flags = Counter(flag for item in items for flag in (*item.meta.get("flags", ()), *item.score.flags))
    return Summary(
        benchmark=benchmark.name,
        split=benchmark.split,
        scoring=benchmark.scoring,
        headline=benchmark.headline,
        items=len(items) // attempts,
        attempts=attempts,
        overall=_measure(items, metrics, seed),
        groups=groups,
        scored_by=dict(Counter(item.score.scored_by for item in items)),
        rules=dict(Counter(item.score.rule for item in items)),
        flags=dict(flags),
        unparsed=sum(not item.score.parse_ok for item in items),
    )


def _attempts(name: str, items: Sequence[Scored]) -> int:
    """The number of attempts, which all items must have, numbered from 0."""
    seen: dict[str, set[int]] = {}
    for item in items:
        if item.attempt in seen.setdefault(item.id, set()):
            raise ValueError(f"{name}: item {item.id} has attempt {item.attempt} twice")
        seen[item.id].add(item.attempt)
    counts = {len(attempts) for attempts in seen.values()}
    wanted = set(range(max(counts)))
    for id, attempts in seen.items():
        if attempts != wanted:
            raise ValueError(f"{name}: item {id} has attempts {sorted(attempts)}; others have {sorted(wanted)}")
    return max(counts)


def _measure(items: Sequence[Scored], metrics: Sequence[Metric], seed: int) -> dict[str, Interval]:
    found = {metric.name: interval(_totals(items, metric), metric.formula, seed) for metric in metrics}
    return {name: value for name, value in found.items() if value is not None}


def _totals(items: Sequence[Scored], metric: Metric) -> np.ndarray | None:
    """The vectors [K,U,D] of K attempts and U units; None without a unit."""
    units: dict[Hashable, dict[int, list[Scored]]] = {}
    for item in items:
        unit = metric.unit(item)
        if unit is not None:
            units.setdefault(unit, {}).setdefault(item.attempt, []).append(item)
    if not units:
        return None
    attempts = sorted({attempt for unit in units.values() for attempt in unit})
    for unit, found in units.items():
        if len(found) != len(attempts):
            raise ValueError(
                f"{unit!r} has attempts {sorted(found)}, others {attempts}: its items differ in their meta"
            )
    vectors = [[metric.vector(found[attempt]) for found in units.values()] for attempt in attempts]
    return np.asarray(vectors, dtype=np.float64)


def interval(vectors: np.ndarray | None, formula: Formula = share, seed: int = 0) -> Interval | None:
    """The figure of vectors [K,U,D], averaged over the K attempts, with a 95 % interval over the U units.

    A share of hits (each unit 0 to 1 out of 1) has the score interval of the units' means (Wilson's for K = 1). All
    else has percentiles of seeded bootstrap resamples of the units; a resample without a value (no positive in it) is
    left out. None if there is no value.
    """
    if vectors is None:
        return None
    k, n, _ = vectors.shape
    values = formula(vectors.sum(axis=1))  # [K]
    if not np.isfinite(values).any():
        return None
    value = float(np.nanmean(values))
    plain = formula is share and bool((vectors[..., 1] == 1).all())
    if plain:
        return Interval(value, *score_interval(vectors[..., 0].mean(axis=0), 0.0, 1.0, 1 / k), n)
    # Units with equal vectors are interchangeable: how often each kind is drawn is one multinomial draw.
    kinds, counts = np.unique(vectors.transpose(1, 0, 2).reshape(n, -1), axis=0, return_counts=True)
    random = np.random.RandomState(seed)
    figures = np.empty(RESAMPLES)
    block = max(1, 4_000_000 // len(kinds))
    for start in range(0, RESAMPLES, block):
        rows = min(block, RESAMPLES - start)
        weights = random.multinomial(n, counts / n, size=rows).astype(np.float64)  # [R, kinds]
        drawn = formula((weights @ kinds).reshape(rows, k, -1))  # [R,K]
        known = np.isfinite(drawn)
        with np.errstate(invalid="ignore"):
            figures[start : start + rows] = np.where(known, drawn, 0.0).sum(axis=1) / known.sum(axis=1)
    figures = figures[np.isfinite(figures)]
    low, high = (float(x) for x in np.percentile(figures, [2.5, 97.5]))
    return Interval(value, low, high, n)
