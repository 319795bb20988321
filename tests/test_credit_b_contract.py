"""What every credit method of this part must hold: identities, invariances, edge cases, state."""

import json
import math

import pytest
import torch

from mmcredit import Rollouts, assign_credit
from mmcredit.components import lookup
from mmcredit.credit import Pipeline

STARTS = {
    "hapo": [{}, {"sign": "released"}, {"tlga": False}],
    "dcpo": [{}, {"ddof": 1}],
    "r3": [{}, {"ties": "stable", "alpha": 2.0}, {"serr": "truncated"}],
    "opd": [{"base": "reward"}],
}
FOLLOWS = {
    "temporal_schedule": [{"criterion": c} for c in ("percentile", "forking", "entropy_advantage")],
    "d3s": [{}, {"scope": "intra"}, {"scope": "none", "normalizer": "all"}],
    "delta": [{}, {"iterations": 2, "neutral": "excluded"}],
    "attention_entropy": [{}, {"scope": "group", "form": "value"}, {"mode": "explorer"}],
    "divergence_weight": [{}, {"against": "base", "self_normalised": True}],
    "opd": [{}],
    "forking_tokens": [{}, {"normalizer": "kept", "rho": 0.5}],
    "negative_only": [{}, {"normalizer": "negative"}, {"below_entropy": 9.0}],
    "pgpo": [{}, {"mass": "per_batch"}, {"threshold": "quantile", "floor": 0.1}, {"tvd_estimator": "full"}],
    "vppo": [{}, {"entropy_keep": 0.2, "normalizer": "kept"}],
}
CASES = [[{name: fields}] for name, options in STARTS.items() for fields in options]
CASES += [["grpo", {name: fields}] for name, options in FOLLOWS.items() for fields in options]
LENGTHS = [7, 3, 9, 5, 1, 6, 4, 8]
TOKEN_SIGNALS = ["entropy", "blind_logprobs", "masked_logprobs", "visual_kl", "attention_entropy", "divergence"]


def name_of(case):
    return "-".join(map(str, [*case[-1], *next(iter(case[-1].values())).values()]))


def full_batch(
    lengths=LENGTHS, rewards=(1.0, 0.0, 0.3, 1.0, 0.0, 0.2, 0.0, 0.1), group=(0, 0, 0, 0, 1, 1, 1, 1), seed=0
):
    """Every signal that a method of this part can ask for; distinct values, so that there are no ties."""
    generator = torch.Generator().manual_seed(seed)
    size, width = len(lengths), 9
    mask = torch.arange(width)[None] < torch.tensor(lengths)[:, None]
    signals = {name: torch.rand(size, width, generator=generator) for name in TOKEN_SIGNALS}
    for name in ("blind_logprobs", "masked_logprobs"):
        signals[name] = -4 * signals[name]
    signals["teacher_logprobs"] = -torch.rand(size, width, generator=generator)
    signals["head_input"] = torch.randn(size, width, 5, generator=generator)
    return Rollouts(
        tokens=torch.randint(0, 50, (size, width), generator=generator),
        mask=mask,
        group=torch.tensor(group),
        rewards=torch.tensor(rewards),
        truncated=torch.arange(size) % 3 == 1,
        old_logprobs=-2 * torch.rand(size, width, generator=generator) * mask,
        signals=signals,
    )


def current(batch, seed=1):
    return batch.old_logprobs + 0.3 * torch.randn(batch.tokens.shape, generator=torch.Generator().manual_seed(seed))


def run(case, batch, logprobs=None, step=2):
    """Credit after the rollout stage and after one mini-batch."""
    pipeline = Pipeline(case)
    credit = pipeline(batch, step, 10)
    return pipeline.at_update(credit, batch, current(batch) if logprobs is None else logprobs, None)


def assert_same(one, other, exact=False):
    close = torch.equal if exact else lambda a, b: torch.allclose(a, b, atol=1e-5)
    assert torch.equal(one.loss_mask, other.loss_mask)
    assert close(one.advantages, other.advantages)
    for name in ("clip_low", "clip_high"):
        a, b = getattr(one, name), getattr(other, name)
        assert (a is None) == (b is None)
        if a is not None:
            assert close(torch.where(one.loss_mask, a, 0), torch.where(one.loss_mask, b, 0))


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_padding_content_is_irrelevant(case):
    batch = full_batch()

    def junk(x, fill):
        mask = batch.mask if x.ndim == 2 else batch.mask[:, :, None]
        return torch.where(mask, x, torch.full_like(x, fill))

    for fill in (math.nan, 1e9):
        dirty = batch.replace(
            old_logprobs=junk(batch.old_logprobs, fill),
            signals={name: junk(x, fill) for name, x in batch.signals.items()},
        )
        after = run(case, dirty, junk(current(batch), fill))
        assert_same(run(case, batch), after, exact=True)
        assert bool((after.advantages[~batch.mask] == 0).all())


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_more_padding_is_irrelevant(case):
    batch = full_batch()

    def widen(x):
        extra = torch.zeros(len(batch), 4, *x.shape[2:], dtype=x.dtype)
        return torch.cat([x, extra], 1)

    wide = Rollouts(
        tokens=widen(batch.tokens),
        mask=widen(batch.mask),
        group=batch.group,
        rewards=batch.rewards,
        truncated=batch.truncated,
        old_logprobs=widen(batch.old_logprobs),
        signals={name: widen(x) for name, x in batch.signals.items()},
    )
    one, other = run(case, batch), run(case, wide, widen(current(batch)))
    assert torch.equal(other.loss_mask[:, :9], one.loss_mask)
    assert torch.allclose(other.advantages[:, :9], one.advantages, atol=1e-6)


@pytest.mark.parametrize("case", [c for c in CASES if "stable" not in name_of(c)], ids=name_of)
def test_response_order_is_irrelevant(case):
    batch = full_batch()
    order = torch.randperm(8, generator=torch.Generator().manual_seed(4))
    assert_same(run(case, batch).select(order), run(case, batch.select(order), current(batch)[order]))


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_a_mini_batch_of_the_batch_is_enough_at_update(case):
    batch = full_batch()
    pipeline = Pipeline(case)
    credit = pipeline(batch, 2, 10)
    whole = pipeline.at_update(credit, batch, current(batch), None)
    for rows in ([0, 1, 2, 3], [4, 5, 6, 7]):
        part = pipeline.at_update(credit.select(rows), batch.select(rows), current(batch)[rows], None)
        assert_same(whole.select(rows), part, exact=True)


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_hard_batches_give_a_defined_result(case):
    hard = {
        "group of one": {"group": tuple(range(8))},
        "constant groups": {"rewards": (1.0,) * 4 + (0.0,) * 4},
        "one group of equal rewards .1": {"rewards": (0.1,) * 8, "group": (0,) * 8},
        "empty responses": {"lengths": [0, 3, 0, 5, 0, 0, 0, 2]},
        "nothing but empty responses": {"lengths": [0] * 8},
        "one token each": {"lengths": [1] * 8},
    }
    for options in hard.values():
        batch = full_batch(**options)
        credit = run(case, batch)  # Credit itself refuses what is not finite
        assert bool((credit.advantages[~batch.mask] == 0).all())
    truncated = full_batch().replace(truncated=torch.ones(8, dtype=torch.bool))
    run(case, truncated)
    run(case, full_batch().select([]))


@pytest.mark.parametrize("case", [c for c in CASES if c[-1].keys().isdisjoint({"opd", "r3"})], ids=name_of)
def test_constant_groups_earn_nothing(case):
    for options in ({"rewards": (0.1,) * 4 + (0.7,) * 4}, {"group": tuple(range(8))}):
        credit = run(case, full_batch(**options))
        assert bool((credit.advantages == 0).all())


NEUTRAL = [
    {"d3s": dict.fromkeys(["n_init", "n_final", "k_init", "k_final"], 100)},
    {"delta": {"lambda_min": 1.0, "lambda_max": 1.0}},
    {"attention_entropy": {"eta": 0.0}},
    {"attention_entropy": {"mode": "anchor", "rho": 1.0}},
    {"divergence_weight": {"s": 0.0}},
    {"divergence_weight": {"alpha": 0.0}},
    {"opd": {"w_opd": 0.0}},
    {"forking_tokens": {"rho": 1.0}},
    {"negative_only": {"beta": 1.0}},
    {"pgpo": {"tau": 0.0, "beta": 0.0}},
    {"vppo": {"keep": 1.0, "bmin": 1.0}},
    {"temporal_schedule": {"kappa0": 0.0}},
]


@pytest.mark.parametrize("method", NEUTRAL, ids=str)
def test_switched_off_is_grpo_bit_for_bit(method):
    batch = full_batch()
    assert_same(run(["grpo", method], batch), run(["grpo"], batch), exact=True)


@pytest.mark.parametrize(
    ("method", "grpo"),
    [
        ({"hapo": {"tlga": False, "redistribute": False, "adaptive_clip": False}}, {}),
        ({"dcpo": {}}, {"ddof": 0, "eps": 0.0}),
        ({"dcpo": {"ddof": 1}}, {"ddof": 1, "eps": 0.0}),
        ({"r3": {"serr": "off", "alpha": 2.0}}, {"ddof": 0, "eps": 1e-6}),
    ],
)
def test_plain_start_is_grpo_bit_for_bit(method, grpo):
    batch = full_batch()
    assert_same(run([method], batch), run([{"grpo": grpo}], batch), exact=True)


@pytest.mark.parametrize("name", [*STARTS, *FOLLOWS])
def test_missing_signals_are_named(name):
    bare = full_batch().replace(signals={})
    options = (STARTS if name in STARTS and name != "opd" else FOLLOWS)[name]
    for fields in options:
        case = [{name: fields}] if name in STARTS and name != "opd" else ["grpo", {name: fields}]
        needs = Pipeline(case).needs()
        if needs.signals:
            with pytest.raises(ValueError, match=f"signal {needs.signals[0]!r} is missing"):
                assign_credit(bare, case, 2, 10)
        else:
            assign_credit(bare, case, 2, 10)


@pytest.mark.parametrize("name", ["hapo", "dcpo"])
def test_state_survives_a_resume_bit_for_bit(name):
    straight, batches = Pipeline([name]), [full_batch(seed=s, rewards=tuple(torch.rand(8).tolist())) for s in range(4)]
    state = None
    for step, batch in enumerate(batches):
        resumed = Pipeline([name])
        if state is not None:
            resumed.load_state_dict(json.loads(json.dumps(state)))
        one, other = straight(batch, step, 4), resumed(batch, step, 4)
        assert_same(one, other, exact=True)
        assert_same(
            straight.at_update(one, batch, current(batch), None),
            resumed.at_update(other, batch, current(batch), None),
            exact=True,
        )
        state = resumed.state_dict()
        assert state == straight.state_dict()
    # Killed between the rollout stage and the update: the scale of the batch is in the state.
    resumed = Pipeline([name])
    resumed.load_state_dict(json.loads(json.dumps(state)))
    assert_same(
        straight.at_update(one, batch, current(batch), None),
        resumed.at_update(one, batch, current(batch), None),
        exact=True,
    )


@pytest.mark.parametrize("name", [*STARTS, *FOLLOWS])
def test_inputs_are_not_changed(name):
    batch = full_batch()
    before = {key: x.clone() for key, x in batch.signals.items()}
    fields = (FOLLOWS if name in FOLLOWS else STARTS)[name][0]
    run(["grpo", {name: fields}] if name in FOLLOWS else [{name: fields}], batch)
    for key, x in before.items():
        assert torch.equal(batch.signals[key], x)
    assert "Source: arXiv" in lookup("credit", name).__doc__
    assert "Passes:" in lookup("credit", name).__doc__
