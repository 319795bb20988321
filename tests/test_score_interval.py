"""The score interval: published numbers, its special cases, edges, and how often it covers the truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmcredit.intervals import Z95, paired_gain, proportion, score_interval


def differences(only_after: int, only_before: int, n: int) -> list[float]:
    return [1.0] * only_after + [-1.0] * only_before + [0.0] * (n - only_after - only_before)


@pytest.mark.parametrize(
    ("table", "low", "high"),
    [
        # Fagerland, Lydersen & Laake, Statistical Analysis of Contingency Tables (2017), chapter 8, Tango's interval:
        ((1, 7, 21), -0.517, -0.026),  # airway hyper-responsiveness, Bentur et al. 2009
        ((6, 16, 161), -0.1240, -0.0054),  # complete response, Cavo et al. 2012
    ],
)
def test_published_intervals_of_paired_proportions(table, low, high):
    found = score_interval(differences(*table), -1, 1)
    assert found == pytest.approx((low, high), abs=5e-4 if table[2] == 21 else 5e-5)


def tango(b: int, c: int, n: int) -> tuple[float, float]:
    """Tango 1998 with the restricted estimate in closed form: the root of a quadratic."""

    def statistic(delta: float) -> float:
        p = -b - c + (2 * n - b + c) * delta
        q21 = (math.sqrt(max(0.0, p * p + 8 * n * c * delta * (1 - delta))) - p) / (4 * n)
        variance = n * (2 * q21 + delta * (1 - delta))
        return abs(b - c - n * delta) / math.sqrt(variance) if variance > 0 else math.inf

    def edge(inside: float, outside: float) -> float:
        for _ in range(100):
            middle = (inside + outside) / 2
            inside, outside = (middle, outside) if statistic(middle) <= Z95 else (inside, middle)
        return inside

    return edge((b - c) / n, -1.0), edge((b - c) / n, 1.0)


@given(st.integers(1, 60).flatmap(lambda n: st.tuples(st.integers(0, n), st.integers(0, n), st.just(n))))
@settings(max_examples=80, deadline=None)
def test_right_or_wrong_gives_tango_and_wilson(case):
    b, c, n = case
    if b + c <= n and abs(b - c) < n:
        assert score_interval(differences(b, c, n), -1, 1) == pytest.approx(tango(b, c, n), abs=1e-9)
    wilson = proportion(b, n)
    assert score_interval([1.0] * b + [0.0] * (n - b), 0, 1) == pytest.approx((wilson.low, wilson.high), abs=1e-9)


def test_no_change_is_not_certainty():
    gain = paired_gain([0.0] * 200, [0.0] * 200)
    assert (gain.value, gain.n) == (0.0, 200)
    assert gain.low == pytest.approx(-(Z95**2) / (200 + Z95**2), abs=1e-9)
    assert gain.high == -gain.low
    one = paired_gain([0.25], [0.25])
    assert one.low < -0.7 < 0.7 < one.high
    every = paired_gain([0.0] * 10, [1.0] * 10)
    assert every.high == 1.0
    assert 0.4 < every.low < 0.6
    assert paired_gain([0.0] * 2000, [0.0] * 2000).high < gain.high / 9


shares = st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), min_size=1, max_size=30)


@given(shares, st.randoms(use_true_random=False))
@settings(max_examples=80, deadline=None)
def test_what_holds_for_any_shares(before, random):
    after = [random.choice([0.0, 0.25, 0.5, 0.75, 1.0]) for _ in before]
    gain, back = paired_gain(before, after), paired_gain(after, before)
    assert -1 <= gain.low <= gain.value <= gain.high <= 1
    assert (gain.low, gain.high) == pytest.approx((-back.high, -back.low), abs=1e-9)
    assert gain.high > gain.low
    order = sorted(range(len(before)), key=lambda _: random.random())
    shuffled = paired_gain([before[i] for i in order], [after[i] for i in order])
    assert (shuffled.low, shuffled.high) == pytest.approx((gain.low, gain.high), abs=1e-9)


def test_many_questions_give_the_normal_interval():
    random = np.random.RandomState(0)
    values = np.clip(random.normal(0.1, 0.2, 4000), -1, 1)
    half = Z95 * values.std(ddof=1) / math.sqrt(len(values))
    assert score_interval(values.tolist(), -1, 1) == pytest.approx(
        (values.mean() - half, values.mean() + half), abs=half / 50
    )


@pytest.mark.parametrize(
    ("n", "a", "b", "lift", "answers", "least"),
    [(60, 1, 1, 0.1, 1, 0.92), (60, 1, 1, 0.1, 4, 0.92), (30, 3, 0.3, 0.3, 4, 0.92), (200, 0.1, 3, 0.05, 8, 0.92)],
)
def test_coverage(n, a, b, lift, answers, least):
    """Questions of Beta-distributed difficulty, `answers` answers each, before and after a lift of the chances.

    Over the runs the interval must hold the true gain about 95 times of 100; near an edge (the last two cases: nearly
    all right, nearly none) the normal interval of the paired differences does so in 70 to 90 of 100.
    """
    random = np.random.RandomState(1)
    truth, hits, runs = lift * b / (a + b), 0, 300
    for _ in range(runs):
        chance = random.beta(a, b, n)
        before = random.binomial(answers, chance) / answers
        after = random.binomial(answers, chance + lift * (1 - chance)) / answers
        gain = paired_gain(before.tolist(), after.tolist())
        hits += gain.low <= truth <= gain.high
    assert hits / runs >= least


def test_values_out_of_range_are_refused():
    with pytest.raises(ValueError, match="at least one item"):
        score_interval([], 0, 1)
    with pytest.raises(ValueError, match="must lie between -1 and 1, got 0.0 to 1.5"):
        score_interval([0.0, 1.5], -1, 1)
    with pytest.raises(ValueError, match="must lie between"):
        score_interval([math.nan], -1, 1)
    with pytest.raises(ValueError, match="same items twice, got 1 and 2"):
        paired_gain([1.0], [1.0, 0.0])
