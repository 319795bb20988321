"""The estimator of true advantages on a Markov task whose advantages are known in closed form."""

from __future__ import annotations

import numpy as np
import pytest

from mmcredit.audit.estimate import TERMINAL, Plan, Values, reliability, sample_values, token_advantages

# A walk of LENGTH steps: at height h the next step goes up with probability UP[h]; the reward is 1 at the end with
# probability WIN[h], else 0. So V(t, h) = UP[h] V(t+1, h+1) + (1 - UP[h]) V(t+1, h).
LENGTH = 6
UP = np.linspace(0.2, 0.7, LENGTH)
WIN = np.array([0.02, 0.1, 0.3, 0.5, 0.9, 0.97, 1.0])
PLACE = {(t, h): i for i, (t, h) in enumerate((t, h) for t in range(LENGTH) for h in range(t + 1))}


def closed_form():
    value = np.zeros((LENGTH + 1, LENGTH + 1))
    value[LENGTH] = WIN
    for t in reversed(range(LENGTH)):
        for h in range(t + 1):
            value[t, h] = UP[h] * value[t + 1, h + 1] + (1 - UP[h]) * value[t + 1, h]
    return np.array([value[t, h] for t, h in PLACE])


TRUE = closed_form()
BEFORE, AFTER, REWARD, TRUTH = [], [], [], []
for (t, h), place in PLACE.items():
    for step in (0, 1):
        if t + 1 < LENGTH:
            BEFORE.append(place)
            AFTER.append(PLACE[t + 1, h + step])
            REWARD.append(0.0)
            TRUTH.append(TRUE[PLACE[t + 1, h + step]] - TRUE[place])
        else:  # the last token: the response is over and its reward is 0 or 1
            for reward in (0.0, 1.0):
                BEFORE.append(place)
                AFTER.append(TERMINAL)
                REWARD.append(reward)
                TRUTH.append(reward - TRUE[place])
BEFORE, AFTER, REWARD, TRUTH = np.array(BEFORE), np.array(AFTER), np.array(REWARD), np.array(TRUTH)


def walker(seed):
    """draw() of `sample_values`: walks from each state to the end, all at once."""

    def draw(states, stream, first, count):
        rng = np.random.default_rng([seed, stream, first])
        where = np.array(list(PLACE))[states]
        time, height = (np.repeat(x[:, None], count, 1) for x in where.T)
        for step in range(LENGTH):
            up = rng.random(height.shape) < UP[np.minimum(height, LENGTH - 1)]
            height = height + (up & (time <= step))
        return (rng.random(height.shape) < WIN[height]).astype(float)

    return draw


def audits(plan, repeats=300):
    for seed in range(repeats):
        values = sample_values(len(PLACE), walker(seed), plan)
        yield values, token_advantages(values, BEFORE, AFTER, REWARD)


@pytest.mark.parametrize("plan", [Plan(16, 16), Plan(8, 64, 0.04)], ids=["fixed", "adaptive"])
def test_advantages_are_unbiased_and_intervals_cover(plan):
    found = [a for _, a in audits(plan)]
    value = np.stack([a.value for a in found])
    noise = value.std(0, ddof=1) / np.sqrt(len(found))
    assert (np.abs(value.mean(0) - TRUTH) < 4.5 * noise + 1e-12).all()
    errors = np.stack([a.error for a in found])
    # The standard error that is stated is the scatter over repetitions.
    assert np.sqrt((errors**2).mean(0)) == pytest.approx(value.std(0, ddof=1), rel=0.15)
    cover = np.mean([(a.low <= TRUTH) & (a.high >= TRUTH) for a in found])
    assert 0.92 <= cover <= 0.98


def test_a_stream_that_decided_on_its_own_length_would_be_biased():
    """What the two streams are for: stop on a flattering start, and rare successes are undervalued."""
    rng = np.random.default_rng(0)
    rare, start, more = 0.1, 8, 64
    draws = (rng.random((40_000, start + more)) < rare).astype(float)
    stopped = draws[:, :start].sum(1) == 0
    own = np.where(stopped, draws[:, :start].mean(1), draws.mean(1)).mean()
    assert own < rare - 0.03  # about 0.06

    def draw(states, stream, first, n):
        return (np.random.default_rng([stream, first]).random((len(states), n)) < rare).astype(float)

    found = sample_values(40_000, draw, Plan(16, 64, 0.06))
    assert len(np.unique(found.count)) > 1
    assert found.mean.mean() == pytest.approx(rare, abs=4 * found.error().mean() / np.sqrt(40_000) + 5e-4)


def test_more_continuations_go_where_the_error_is_large():
    def draw(states, stream, first, n):
        rng = np.random.default_rng([stream, first])
        return np.where(states[:, None] == 0, 1.0, rng.random((len(states), n)) < 0.5).astype(float)

    found = sample_values(2, draw, Plan(8, 128, 0.04))
    assert found.count[1].sum() > 2 * found.count[0].sum()
    assert found.error()[1] < 0.05
    assert found.error()[0] == 0
    assert found.error(1)[0] > 0  # eight equal rewards are no proof


def test_the_halves_are_independent_and_their_reliability_undoes_the_attenuation():
    """Spearman's correction: a method correlates less with a noisy truth; the corrected number is the true one."""
    rng = np.random.default_rng(1)
    truth = rng.normal(size=20_000)
    method = 0.6 * truth + 0.8 * rng.normal(size=truth.size)
    halves = truth[:, None] + rng.normal(size=(truth.size, 2))
    raw = np.corrcoef(method, halves.mean(1))[0, 1]
    share = reliability(halves)
    assert share == pytest.approx(1 / 1.5, abs=0.02)
    assert raw < 0.52
    assert raw / np.sqrt(share) == pytest.approx(0.6, abs=0.02)
    assert reliability(np.zeros((5, 2))) is None
    noise = []
    for values, _ in audits(Plan(8, 64, 0.04), 200):
        noise.append(values.halves - TRUE[:, None])
    stacked = np.stack(noise)
    together = (stacked[..., 0] * stacked[..., 1]).mean(0) / stacked.var((0, 2))
    assert abs(together.mean()) < 0.1


def test_exact_values_have_no_error():
    exact = Values(np.ones((len(TRUE), 2), int), np.zeros((len(TRUE), 2)), np.zeros((len(TRUE), 2)), 0, 1, TRUE)
    found = token_advantages(exact, BEFORE, AFTER, REWARD)
    assert found.value == pytest.approx(TRUTH)
    assert found.high - found.low == pytest.approx(0)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [({"least": 1}, "at least 2"), ({"least": 9, "most": 8}, "fewer"), ({"target": 0.0}, "above 0")],
)
def test_a_plan_that_cannot_be_is_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        Plan(**wrong)
