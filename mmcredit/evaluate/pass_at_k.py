"""pass@k, avg@k and majority@k of several answers per question, with intervals over the questions."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from mmcredit.intervals import Interval, proportion, score_interval


@dataclass(frozen=True)
class Attempts:
    """All answers to one question: what was answered (None: nothing), and whether it is right."""

    answers: tuple[Hashable | None, ...]
    right: tuple[bool, ...]

    def __post_init__(self) -> None:
        if len(self.answers) != len(self.right) or not self.right:
            raise ValueError(f"a question needs as many answers as verdicts, at least one: {len(self.answers)} answers")


def pass_at_k(n: int, correct: int, k: int) -> float:
    """Chance that at least one of `k` answers is right, from `n` of which `correct` are: 1 - C(n-c,k) / C(n,k).

    Unbiased (Chen et al. 2021, arXiv 2107.03374). Computed as their product 1 - prod (1 - k/i) over n-c < i <= n, in
    which no factor overflows. Raises ValueError unless 0 <= correct <= n and 1 <= k <= n.
    """
    if not 0 <= correct <= n:
        raise ValueError(f"{correct} right answers of {n} cannot be")
    _check_k(k, n)
    if n - correct < k:
        return 1.0
    return 1.0 - math.prod(1.0 - k / i for i in range(n - correct + 1, n + 1))


def majority_at_k(attempts: Attempts, k: int) -> float:
    """Chance that the most frequent of `k` answers is right.

    Exact: the mean over all C(n,k) choices of k of the n answers. Where several answers are equally frequent, the share
    of right ones among them counts (the expected value of a fair draw). Equal answers are one candidate; None casts no
    vote, and a choice without any vote is worth 0. Differently written right answers vote apart: give a normal form as
    answer to have them vote together. Raises ValueError for a k out of range, or if one answer is both right and wrong.
    """
    n = len(attempts.right)
    _check_k(k, n)
    votes = Counter(a for a in attempts.answers if a is not None)
    right = {a for a, r in zip(attempts.answers, attempts.right, strict=True) if r and a is not None}
    both = right & {a for a, r in zip(attempts.answers, attempts.right, strict=True) if not r}
    if both:
        raise ValueError(f"the answer {next(iter(both))!r} is right in one place and wrong in another")
    if k == n:
        top = max(votes.values(), default=0)
        tied = [a for a, count in votes.items() if count == top]
        return sum(a in right for a in tied) / len(tied) if tied else 0.0
    silent = n - sum(votes.values())
    total = 0.0
    # Right answers with equally many votes have equal chances, and so have the wrong ones as opponents.
    for count, times in Counter(votes[a] for a in right).items():
        others = list(votes.values())
        others.remove(count)
        total += times * _wins(count, others, silent, k)
    return min(1.0, total)


def _wins(count: int, others: Sequence[int], silent: int, k: int) -> float:
    """Chance that an answer given `count` times leads among `k` drawn ones, a tie of t answers counting 1/t.

    For each number m of its votes in the draw, the other answers are gone through one by one: state[x, t] is the
    chance that x answers are drawn so far and t others have m votes as well, none more. Each step multiplies by a
    hypergeometric chance, so that all numbers stay within 0 and 1.
    """
    n = count + sum(others) + silent
    result = 0.0
    for m in range(1, min(count, k) + 1):
        start = _draw(count, n - count, k, m)
        if start == 0.0:
            continue
        state = np.zeros((k + 1, k // m + 1))
        state[m, 0] = start
        left = n - count
        for size in others:
            left -= size
            after = np.zeros_like(state)
            for x in range(m, k + 1):
                if not state[x].any():
                    continue
                for y in range(min(size, m, k - x) + 1):
                    chance = _draw(size, left, k - x, y)
                    if y < m:
                        after[x + y] += chance * state[x]
                    else:
                        after[x + y, 1:] += chance * state[x, :-1]
            state = after
        assert left == silent
        # What is still missing to k comes from the silent answers; where there are too few, no state was reached.
        result += float((state / np.arange(1, state.shape[1] + 1)).sum())
    return result


def _draw(size: int, left: int, k: int, y: int) -> float:
    """Hypergeometric: chance of `y` out of `size` when `k` are drawn from `size` + `left`."""
    if y > size or k - y > left or y > k:
        return 0.0
    return math.comb(size, y) * math.comb(left, k - y) / math.comb(size + left, k)


def _check_k(k: int, n: int) -> None:
    if not 1 <= k <= n:
        raise ValueError(f"k must be between 1 and the number of answers per question, got k={k} for {n} answers")


def mean_interval(values: Sequence[float], step: float | None = None) -> Interval:
    """Mean of values between 0 and 1, one per question, with its score interval over the questions (see
    `score_interval`; `step`: the smallest change of a value, None = unknown).

    It says how the figure would move with other questions of the same kind, not with other samples of the same model.
    Raises ValueError for no values, or for one outside 0..1.
    """
    if not len(values):
        raise ValueError("an interval needs at least one question")
    if all(v in (0.0, 1.0) for v in values):
        return proportion(round(sum(values)), len(values))
    low, high = score_interval(values, 0.0, 1.0, step)
    return Interval(math.fsum(values) / len(values), low, high, len(values))


def average(attempts: Sequence[Attempts]) -> Interval:
    """avg@n: the mean share of right answers per question, every question weighing the same."""
    step = 1 / max((len(a.right) for a in attempts), default=1)
    return mean_interval([sum(a.right) / len(a.right) for a in attempts], step)


def passes(attempts: Sequence[Attempts], k: int) -> Interval:
    """pass@k over all questions."""
    return mean_interval([pass_at_k(len(a.right), sum(a.right), k) for a in attempts])


def majority(attempts: Sequence[Attempts], k: int) -> Interval:
    """majority@k over all questions."""
    return mean_interval([majority_at_k(a, k) for a in attempts])


def summary(attempts: Sequence[Attempts], ks: Sequence[int]) -> dict[str, Interval]:
    """``avg@n``, and ``pass@k`` and ``majority@k`` for every k above 1: with one answer both are avg@n itself.

    Raises ValueError if there are no questions, if they have different numbers of answers, or if a k exceeds it.
    """
    counts = sorted({len(a.right) for a in attempts})
    if len(counts) != 1:
        raise ValueError(f"the questions must have equally many answers, got {counts or 'no questions'}")
    result = {f"avg@{counts[0]}": average(attempts)}
    for k in ks:
        _check_k(k, counts[0])
        if k > 1:
            result[f"pass@{k}"] = passes(attempts, k)
            result[f"majority@{k}"] = majority(attempts, k)
    return result
