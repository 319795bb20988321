"""pass@k, avg@k, majority@k: worked numbers, brute force over all choices, and what must hold for any counts."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmcredit.evaluate.pass_at_k import (
    Attempts,
    average,
    majority,
    majority_at_k,
    mean_interval,
    pass_at_k,
    passes,
    summary,
)


def attempts(answers: list[object], right: set[object]) -> Attempts:
    return Attempts(tuple(answers), tuple(a in right for a in answers))  # type: ignore[arg-type]


# --- pass@k


def test_pass_at_k_worked_numbers() -> None:
    assert pass_at_k(10, 0, 5) == 0.0
    assert pass_at_k(10, 10, 1) == 1.0
    assert pass_at_k(10, 3, 1) == pytest.approx(0.3, abs=1e-15)
    assert pass_at_k(10, 3, 2) == pytest.approx(1 - 21 / 45, abs=1e-15)
    assert pass_at_k(4, 1, 4) == 1.0
    assert pass_at_k(5, 2, 4) == 1.0  # 4 of 5 must include one of the 2


def test_pass_at_k_stays_exact_where_binomials_overflow() -> None:
    n, c, k = 20_000, 7, 3000
    exact = 1 - Fraction(math.comb(n - c, k), math.comb(n, k))
    assert pass_at_k(n, c, k) == pytest.approx(float(exact), rel=1e-12)


@given(st.integers(1, 60).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
@settings(max_examples=200, deadline=None)
def test_pass_at_k_is_the_definition_and_monotone(case: tuple[int, int, int]) -> None:
    n, c, k = case
    assert pass_at_k(n, c, k) == pytest.approx(1 - math.comb(n - c, k) / math.comb(n, k), abs=1e-12)
    assert pass_at_k(n, c, 1) == pytest.approx(c / n, abs=1e-12)
    curve = [pass_at_k(n, c, j) for j in range(1, n + 1)]
    assert all(b >= a - 1e-12 for a, b in itertools.pairwise(curve))
    assert curve[-1] == float(c > 0)


def test_pass_at_k_is_unbiased_and_the_plain_estimate_is_not() -> None:
    """Expected value over c ~ Binomial(n, p) is 1 - (1-p)^k for ours, and too small for 1 - (1-c/n)^k."""
    n, p, k = 8, 0.2, 4
    weights = [math.comb(n, c) * p**c * (1 - p) ** (n - c) for c in range(n + 1)]
    truth = 1 - (1 - p) ** k
    assert sum(w * pass_at_k(n, c, k) for c, w in enumerate(weights)) == pytest.approx(truth, abs=1e-12)
    assert sum(w * (1 - (1 - c / n) ** k) for c, w in enumerate(weights)) < truth - 0.02


@pytest.mark.parametrize(("n", "c", "k"), [(4, 5, 1), (4, -1, 1), (4, 1, 0), (4, 1, 5), (0, 0, 1)])
def test_impossible_counts_are_refused(n: int, c: int, k: int) -> None:
    with pytest.raises(ValueError, match=r"cannot be|k must be between"):
        pass_at_k(n, c, k)


# --- majority@k


def test_majority_worked_numbers() -> None:
    assert majority_at_k(attempts(["7", "7", "3"], {"7"}), 3) == 1.0
    assert majority_at_k(attempts(["7", "7", "3"], {"3"}), 3) == 0.0
    assert majority_at_k(attempts(["7", "3"], {"7"}), 2) == 0.5  # a tie of two
    assert majority_at_k(attempts(["7", "3", "5"], {"7"}), 3) == pytest.approx(1 / 3)
    assert majority_at_k(attempts(["7", "7.0", "3", "3"], {"7", "7.0"}), 4) == 0.0  # written apart, voting apart
    assert majority_at_k(attempts([None, None, "7"], {"7"}), 3) == 1.0  # no answer casts no vote
    assert majority_at_k(attempts([None, None], set()), 2) == 0.0
    # 2 of (7, 7, 3): one pair of 7s, two ties worth a half each.
    assert majority_at_k(attempts(["7", "7", "3"], {"7"}), 2) == pytest.approx((1 + 0.5 + 0.5) / 3)


def by_brute_force(item: Attempts, k: int) -> float:
    right = {a for a, r in zip(item.answers, item.right, strict=True) if r}
    values = []
    for chosen in itertools.combinations(item.answers, k):
        votes = Counter(a for a in chosen if a is not None)
        top = max(votes.values(), default=0)
        tied = [a for a, count in votes.items() if count == top]
        values.append(sum(a in right for a in tied) / len(tied) if tied else 0.0)
    return sum(values) / len(values)


@given(
    st.lists(st.sampled_from(["a", "b", "c", "d", None]), min_size=1, max_size=8),
    st.sets(st.sampled_from(["a", "b", "c", "d"])),
)
@settings(max_examples=120, deadline=None)
def test_majority_is_the_mean_over_all_choices(answers: list[str | None], right: set[str]) -> None:
    item = attempts(answers, right)  # type: ignore[arg-type]
    for k in range(1, len(answers) + 1):
        assert majority_at_k(item, k) == pytest.approx(by_brute_force(item, k), abs=1e-12)
    assert majority_at_k(item, 1) == pytest.approx(sum(item.right) / len(item.right), abs=1e-12)


def test_majority_of_64_answers() -> None:
    """A right answer given in 40 of 64: the vote of more is better, and nothing overflows."""
    item = attempts(["r"] * 40 + [f"w{i % 6}" for i in range(24)], {"r"})
    curve = [majority_at_k(item, k) for k in (1, 4, 16, 64)]
    assert curve[0] == pytest.approx(40 / 64)
    assert curve == sorted(curve)
    assert curve[-1] == 1.0


def test_contradicting_verdicts_and_ragged_items_are_refused() -> None:
    with pytest.raises(ValueError, match="'7' is right in one place and wrong in another"):
        majority_at_k(Attempts(("7", "7"), (True, False)), 2)
    with pytest.raises(ValueError, match="as many answers as verdicts"):
        Attempts(("7",), (True, False))
    with pytest.raises(ValueError, match="as many answers as verdicts"):
        Attempts((), ())


# --- intervals and the summary


def test_interval_is_close_to_the_normal_one() -> None:
    values = np.random.RandomState(0).random_sample(400).tolist()
    found = mean_interval(values)
    half = 1.959964 * np.std(values, ddof=1) / math.sqrt(400)
    assert found.value == pytest.approx(np.mean(values))
    assert found.low == pytest.approx(found.value - half, abs=0.002)
    assert found.high == pytest.approx(found.value + half, abs=0.002)


def test_interval_covers_the_truth_as_often_as_it_says() -> None:
    random = np.random.RandomState(1)
    hits = 0
    for _ in range(300):  # 4 answers each to 20 questions that are nearly all right
        shares = random.binomial(4, random.beta(5, 0.2, 20)) / 4
        found = mean_interval(shares.tolist(), 1 / 4)
        hits += found.low <= 5 / 5.2 <= found.high
    assert 0.92 <= hits / 300 <= 0.99


def test_interval_without_spread_claims_no_certainty() -> None:
    none, every, half = mean_interval([0.0] * 20), mean_interval([1.0] * 20), mean_interval([0.5] * 5)
    assert (none.value, none.low) == (0.0, 0.0)
    assert none.high == pytest.approx(0.161, abs=0.001)  # Wilson for 0 of 20
    assert (every.value, every.high) == (1.0, 1.0)
    assert every.low == pytest.approx(0.839, abs=0.001)
    assert half.low < 0.3
    assert half.high > 0.7
    assert half.n == 5
    with pytest.raises(ValueError, match="at least one question"):
        mean_interval([])
    with pytest.raises(ValueError, match="between 0 and 1"):
        mean_interval([0.2, 1.2])
    with pytest.raises(ValueError, match="between 0 and 1"):
        mean_interval([0.2, math.nan])


def test_summary_of_two_questions() -> None:
    items = [attempts(["7", "7", "3", None], {"7"}), attempts(["1", "2", "2", "2"], {"1"})]
    found = summary(items, (1, 4))
    assert list(found) == ["avg@4", "pass@4", "majority@4"]  # with one answer both are avg@4 itself
    assert found["avg@4"].value == pytest.approx((2 / 4 + 1 / 4) / 2)
    assert found["pass@4"].value == 1.0
    assert found["majority@4"].value == pytest.approx(0.5)
    assert (average(items), passes(items, 4), majority(items, 4)) == (
        found["avg@4"],
        found["pass@4"],
        found["majority@4"],
    )
    with pytest.raises(ValueError, match="equally many answers"):
        summary([items[0], attempts(["1"], set())], (1,))
    with pytest.raises(ValueError, match="no questions"):
        summary([], (1,))
    with pytest.raises(ValueError, match="k must be between 1"):
        summary(items, (5,))
