"""Monte-Carlo values of states with standard errors, and the advantages of the tokens between them.

Every state has two streams of continuations with seeds of their own. How many a stream gets is decided by the first
ones of the *other* stream: a stream that decides on its own length is biased (a rare success that the first draws
missed is never looked for), while here each stream's mean is unbiased given its length, and so is the mean of the two.
The streams are also the two halves that a split-half reliability asks for. Shapes: S states, N tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mmcredit.intervals import Z95

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Integers = NDArray[np.int64]

TERMINAL = -1  # in place of a state: the response is over, its worth is its reward

# draw(states [n], stream, first, count) -> rewards [n,count] of the continuations first .. first+count-1
Draw = Callable[["Integers", int, int, int], "Floats"]


@dataclass(frozen=True)
class Plan:
    """How many continuations: `least` per stream everywhere, up to `most` where the standard error exceeds `target`."""

    least: int = 16
    most: int = 64
    target: float = 0.04  # standard error of a value, in units of the reward

    def __post_init__(self) -> None:
        if self.least < 2:
            raise ValueError(f"continuations per stream must be at least 2 (a variance needs two), got {self.least}")
        if self.most < self.least:
            raise ValueError(f"at most {self.most} continuations are fewer than the least, {self.least}")
        if not self.target > 0:
            raise ValueError(f"the target of the standard error must be above 0, got {self.target}")


@dataclass(frozen=True)
class Values:
    """What is known of S states."""

    count: Integers  # [S,2] continuations per stream
    total: Floats  # [S,2] sum of their rewards
    squares: Floats  # [S,2] sum of the squared rewards
    low: float  # least and greatest reward that the task pays
    high: float
    exact: Floats | None = None  # [S] values by enumeration; then the streams are empty
    missing: Floats | None = None  # [S] then: probability of the responses that were not listed

    @property
    def halves(self) -> Floats:
        """[S,2] mean of each stream."""
        if self.exact is not None:
            return np.stack([self.exact, self.exact], 1)
        return self.total / self.count

    @property
    def mean(self) -> Floats:
        """[S] mean of the two streams' means: unbiased, whatever their lengths."""
        return self.halves.mean(1)

    def error(self, pseudo: int = 0) -> Floats:
        """[S] standard error of `mean`. `pseudo` observations at either end of the range of rewards are added to the
        variance: without, eight equal rewards would claim an error of 0 (Agresti & Coull 1998 for proportions)."""
        if self.exact is not None:
            return np.zeros(len(self.exact))
        n = self.count.sum(1) + 2.0 * pseudo
        total = self.total.sum(1) + pseudo * (self.low + self.high)
        squares = self.squares.sum(1) + pseudo * (self.low**2 + self.high**2)
        variance = np.maximum(squares / n - (total / n) ** 2, 0.0)
        if not pseudo:
            variance = variance * n / np.maximum(n - 1, 1)
        # Equal weights of two streams: var/4 (1/n0 + 1/n1), on the count that the pseudo observations leave.
        shrink = self.count.sum(1) / n
        return np.sqrt(variance * shrink * (1.0 / self.count).sum(1) / 4)

    def centre(self, pseudo: int) -> Floats:
        """[S] `mean` drawn towards the middle of the range by the pseudo observations: where an interval is centred."""
        if self.exact is not None:
            return self.exact
        n = self.count.sum(1)
        return (self.mean * n + pseudo * (self.low + self.high)) / (n + 2 * pseudo)


@dataclass(frozen=True)
class Advantages:
    """True advantages of N sampled tokens, as estimated."""

    value: Floats  # [N] Q - V: unbiased
    halves: Floats  # [N,2] the same from one stream each: independent given the responses
    error: Floats  # [N] standard error
    low: Floats  # [N] 95 % interval
    high: Floats

    @property
    def significant(self) -> NDArray[np.bool_]:
        """[N] the interval excludes 0."""
        return (self.low > 0) | (self.high < 0)


def sample_values(states: int, draw: Draw, plan: Plan) -> Values:
    """Values of `states` states. The range of rewards is that of the rewards seen."""
    rows = np.arange(states)
    count = np.full((states, 2), plan.least, dtype=np.int64)
    first = [draw(rows, stream, 0, plan.least) for stream in (0, 1)]
    low = min((float(r.min()) for r in first if r.size), default=0.0)
    high = max((float(r.max()) for r in first if r.size), default=1.0)
    total = np.stack([r.sum(1) for r in first], 1)
    squares = np.stack([(r**2).sum(1) for r in first], 1)
    pilots = Values(count.copy(), total.copy(), squares.copy(), low, high)
    wanted = _wanted(pilots, plan)
    for stream in (0, 1):
        more = wanted[:, 1 - stream] - plan.least  # decided by the other stream
        for size in np.unique(more[more > 0]):
            chosen = rows[more == size]
            rewards = draw(chosen, stream, plan.least, int(size))
            low, high = min(low, float(rewards.min())), max(high, float(rewards.max()))
            count[chosen, stream] += int(size)
            total[chosen, stream] += rewards.sum(1)
            squares[chosen, stream] += (rewards**2).sum(1)
    return Values(count, total, squares, low, high)


def _wanted(pilots: Values, plan: Plan) -> Integers:
    """[S,2] continuations that each stream's first draws ask for: `least` doubled until the error is small enough."""
    n = pilots.count + 2.0
    total = pilots.total + pilots.low + pilots.high
    squares = pilots.squares + pilots.low**2 + pilots.high**2
    variance = np.maximum(squares / n - (total / n) ** 2, 0.0)
    need = variance / (2 * plan.target**2)
    steps = np.ceil(np.log2(np.maximum(need / plan.least, 1.0)))
    return np.minimum(plan.least * 2**steps, plan.most).astype(np.int64)


def token_advantages(values: Values, before: Integers, after: Integers, reward: Floats) -> Advantages:
    """Advantages of tokens that lead from state `before` [N] to state `after` [N] (TERMINAL: worth `reward` [N]).

    Intervals: difference of two means, each with one pseudo observation at either end of the range (Agresti & Caffo
    2000), or of one mean with two where the token ends the response.
    """
    over = after == TERMINAL
    behind = np.where(over, 0, after)

    def at(table: Floats, end: Floats) -> Floats:
        return np.where(over, end, table[behind])

    mean, halves = values.mean, values.halves
    value = at(mean, reward) - mean[before]
    parts = np.stack([at(halves[:, h], reward) - halves[before, h] for h in (0, 1)], 1)
    one, two = values.error(1), values.error(2)
    none = np.zeros_like(reward)
    # The states before and after a token are sampled apart, so their errors add.
    spread = np.where(over, two[before], np.sqrt(one[before] ** 2 + at(one, none) ** 2))
    start = np.where(over, values.centre(2)[before], values.centre(1)[before])
    centre = at(values.centre(1), reward) - start
    if values.missing is not None:  # what was not listed may have earned anything within the range
        bound = values.missing * (values.high - values.low)
        spread = (bound[before] + at(bound, none)) / Z95
    plain = np.sqrt(values.error()[before] ** 2 + at(values.error(), none) ** 2)
    return Advantages(value, parts, plain, centre - Z95 * spread, centre + Z95 * spread)


def reliability(halves: Floats) -> float | None:
    """Reliability of the mean of two halves [N,2] (Spearman-Brown): the share of its variance that is not noise.

    r_half is their correlation; the mean of both has 2 r / (1 + r). A correlation with a noisy truth is too low by the
    square root of it (Spearman 1904). None if a half is constant or they do not agree.
    """
    if len(halves) < 2 or not halves.std(0).all():
        return None
    r = float(np.corrcoef(halves[:, 0], halves[:, 1]).ravel()[1])
    return 2 * r / (1 + r) if r > 0 else None
