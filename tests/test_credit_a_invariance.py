"""What no method may depend on: padding content and width, order of responses, names of groups; what it declares."""

import pytest
import torch

from mmcredit import Rollouts, assign_credit
from mmcredit.components import build
from mmcredit.credit import Pipeline

METHODS = [
    "rloo",
    "reinforce_pp",
    {"reinforce_pp": {"gamma": 0.9, "beta": 0.1}},
    "reinforce_pp_baseline",
    "tempo",
    "erpo",
    {"erpo": {"bucket": "cum_entropy", "mode": "gated_mean1", "constant_groups": "anchor", "whiten": True}},
    "ucas",
    {"ucas": {"agg": "mean"}},
    "spae",
    {"spae": {"zero_constant_groups": False}},
    "spo_chain",
    {"spo_chain": {"whiten": "std"}},
    "spo_tree",
    {"spo_tree": {"advantage": "grpo", "whiten": "none"}},
]
SIZE, WIDTH, STEPS = 12, 9, 4


def batch(seed=0):
    """Three groups (one constant, one with an empty response) and a group of one, with every signal."""
    g = torch.Generator().manual_seed(seed)
    lengths = torch.randint(2, WIDTH + 1, (SIZE,), generator=g)
    lengths[3] = 0
    mask = torch.arange(WIDTH)[None] < lengths[:, None]
    group = torch.tensor([7, 7, 7, 7, 2, 2, 2, 2, 5, 5, 5, 9])
    rewards = torch.rand(SIZE, generator=g)
    rewards[4:8] = 0.7
    old = -torch.rand(SIZE, WIDTH, generator=g)
    boundary = torch.stack([torch.randperm(2, generator=g) - 1 for _ in range(SIZE)])
    boundary[3] = -2
    signals = {
        "entropy": torch.rand(SIZE, WIDTH, generator=g),
        "ref_logprobs": -torch.rand(SIZE, WIDTH, generator=g),
        "self_certainty": 10 * torch.rand(SIZE, WIDTH, generator=g),
        "sampled_logit": 20 * torch.rand(SIZE, WIDTH, generator=g),
        "step_id": torch.where(mask, torch.arange(WIDTH)[None] // 2 - 1, -1).clamp(max=STEPS),
        "step_accuracy": torch.rand(SIZE, STEPS, generator=g),
        "step_confidence": torch.rand(SIZE, STEPS, generator=g),
        "boundary_index": boundary,
        "boundary_value": torch.rand(SIZE, 2, generator=g),
        "parent_value": torch.rand(SIZE, generator=g),
        "child_value": torch.rand(SIZE, generator=g),
        "sibling_std": torch.rand(SIZE, generator=g) + 0.1,
    }
    tokens = torch.randint(0, 2, (SIZE, WIDTH), generator=g)
    return Rollouts(tokens, mask, group, rewards, old_logprobs=old, signals=signals)


PER_TOKEN = ("entropy", "ref_logprobs", "self_certainty", "sampled_logit", "step_id")


def junk(rollouts, width=WIDTH):
    """The same rollouts, wider, with rubbish wherever the policy did not sample."""

    def fill(x, value):
        x = torch.nn.functional.pad(x, (0, width - WIDTH))
        return torch.where(torch.nn.functional.pad(rollouts.mask, (0, width - WIDTH)), x, value)

    signals = dict(rollouts.signals)
    for name in PER_TOKEN:
        signals[name] = fill(signals[name], 99 if name == "step_id" else torch.nan)
    return rollouts.replace(
        tokens=fill(rollouts.tokens, 12345),
        mask=fill(rollouts.mask, False),
        valid=fill(rollouts.mask, False),
        truncated=rollouts.truncated,
        old_logprobs=fill(rollouts.old_logprobs, torch.nan),
        signals=signals,
    )


@pytest.mark.parametrize("method", METHODS)
def test_padding_content_and_width(method):
    rollouts = batch()
    plain = assign_credit(rollouts, [method])
    for width in (WIDTH, WIDTH + 4):
        filled = assign_credit(junk(rollouts, width), [method])
        assert torch.equal(filled.advantages[:, :WIDTH], plain.advantages)
        assert torch.equal(filled.loss_mask[:, :WIDTH], plain.loss_mask)
        assert not bool(filled.loss_mask[:, WIDTH:].any())


@pytest.mark.parametrize("method", METHODS)
def test_order_of_responses_and_names_of_groups(method):
    rollouts = batch()
    plain = assign_credit(rollouts, [method])
    order = torch.randperm(SIZE, generator=torch.Generator().manual_seed(1))
    shuffled = rollouts.select(order)
    shuffled = shuffled.replace(group=100 - 3 * shuffled.group)
    after = assign_credit(shuffled, [method])
    assert torch.allclose(after.advantages, plain.advantages[order], atol=1e-5)
    assert torch.equal(after.loss_mask, plain.loss_mask[order])


@pytest.mark.parametrize("method", METHODS)
def test_groups_of_one_constant_groups_and_empty_responses_are_defined(method):
    rollouts = batch()
    credit = assign_credit(rollouts, [method])
    assert bool(credit.advantages.isfinite().all())
    assert credit.advantages.abs().sum() > 0
    name = method if isinstance(method, str) else next(iter(method))
    if name not in ("reinforce_pp", "spo_chain", "spo_tree"):  # these compare with no group
        assert bool((credit.advantages[-1] == 0).all())
    empty = rollouts.replace(mask=torch.zeros_like(rollouts.mask), valid=torch.zeros_like(rollouts.mask))
    if name == "spo_chain":
        empty = empty.with_signals({"boundary_index": torch.full((SIZE, 2), -2)})
    assert bool((assign_credit(empty, [method]).advantages == 0).all())
    nobody = rollouts.select([])
    assert assign_credit(nobody, [method]).advantages.shape == (0, WIDTH)


@pytest.mark.parametrize("method", METHODS)
def test_declared_needs_are_exactly_what_is_read(method):
    rollouts = batch()
    needs = Pipeline([method]).needs()
    only = rollouts.replace(
        signals={name: rollouts.signals[name] for name in needs.signals},
        old_logprobs=rollouts.old_logprobs if needs.old_logprobs else None,
    )
    assert torch.equal(assign_credit(only, [method]).advantages, assign_credit(rollouts, [method]).advantages)
    for name in needs.signals:
        missing = only.replace(signals={k: v for k, v in only.signals.items() if k != name})
        with pytest.raises(ValueError, match=name):
            assign_credit(missing, [method])
    if needs.old_logprobs:
        with pytest.raises(ValueError, match="old_logprobs"):
            assign_credit(only.replace(old_logprobs=None), [method])


@pytest.mark.parametrize("method", METHODS)
def test_a_method_is_its_spec(method):
    built = build("credit", method)
    assert build("credit", built.spec()) == built
    assert built.starts
    assert len(built.__doc__.splitlines()) > 5


@pytest.mark.parametrize("method", METHODS)
def test_float64_rollouts_give_float64_credit(method):
    rollouts = batch()
    double = rollouts.replace(rewards=rollouts.rewards.double())
    credit = assign_credit(double, [method])
    assert credit.advantages.dtype == torch.float64
    assert torch.allclose(credit.advantages.float(), assign_credit(rollouts, [method]).advantages, atol=1e-4)
