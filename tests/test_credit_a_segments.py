"""SPO-chain and SPO-tree: worked numbers, edge cases."""

import math

import pytest
import torch
from b0 import padded, rollouts_of

from mmcredit import assign_credit

PROBABILITIES = [0.95, 0.60, 0.99, 0.85, 0.97, 0.50, 0.92, 0.70, 0.99, 0.98]
VALUES = {0: 4 / 9, 2: 5 / 9, 4: 6 / 9, 6: 8 / 9}


def chain(probabilities, reward, values):
    """Rollouts of one response per row, with boundary values {index: V}; unused slots are -2."""
    slots = max(1, max(len(v) for v in values))
    old = padded(probabilities, fill=1.0).log()
    signals = {
        "boundary_index": padded([list(v) for v in values], slots, fill=-2).long(),
        "boundary_value": padded([list(v.values()) for v in values], slots, fill=math.nan).float(),
    }
    return rollouts_of(reward, [len(p) for p in probabilities], old_logprobs=old, signals=signals)


@pytest.mark.parametrize(
    ("boundaries", "expected"),
    [
        ([0, 2, 4, 6], [0, 1 / 9, 0, 1 / 9, 0, 2 / 9, 0, 1 / 9, 0, 0]),
        ([0, 4], [0, 2 / 9, 0, 2 / 9, 0, 3 / 9, 0, 3 / 9, 0, 0]),
        ([0], [0, 5 / 9, 0, 5 / 9, 0, 5 / 9, 0, 5 / 9, 0, 0]),
        ([6, 0, 4, 2], [0, 1 / 9, 0, 1 / 9, 0, 2 / 9, 0, 1 / 9, 0, 0]),  # any order
    ],
)
def test_chain_worked_example(boundaries, expected):
    rollouts = chain([PROBABILITIES], [1.0], [{k: VALUES[k] for k in boundaries}])
    credit = assign_credit(rollouts, [{"spo_chain": {"whiten": "none"}}])
    assert torch.allclose(credit.advantages, torch.tensor([expected]), atol=1e-5)
    assert credit.loss_mask.nonzero()[:, 1].tolist() == [1, 3, 5, 7]


def test_chain_whitening():
    rollouts = chain([PROBABILITIES], [1.0], [VALUES])
    advantages = assign_credit(rollouts, ["spo_chain"]).advantages
    # mean .138889, variance .003086: -.5, -.5, 1.5, -.5 up to the 1e-8 in the root
    assert torch.allclose(advantages[0, [1, 3, 5, 7]], torch.tensor([-0.5, -0.5, 1.5, -0.5]), atol=1e-5)
    scaled = assign_credit(rollouts, [{"spo_chain": {"whiten": "std"}}]).advantages
    assert torch.allclose(scaled[0, [1, 3, 5, 7]], torch.tensor([2.0, 2.0, 4.0, 2.0]), atol=1e-4)


def test_chain_short_examples():
    plain = [{"spo_chain": {"whiten": "none"}}]
    rollouts = chain([[0.5, 0.95, 0.6, 0.99], [0.95, 0.99]], [0.0, 1.0], [{-1: 0.5, 1: 0.75}, {}])
    credit = assign_credit(rollouts, plain)
    assert torch.allclose(credit.advantages, torch.tensor([[0.25, 0, -0.75, 0], [0, 0, 0, 0]]), atol=1e-5)
    assert credit.loss_mask[1].sum() == 0
    one = assign_credit(chain([[0.3], [0.95]], [1.0, 1.0], [{-1: 0.25}, {}]), plain)
    assert torch.allclose(one.advantages, torch.tensor([[0.75], [0.0]]), atol=1e-5)


def test_chain_without_values_or_with_one_value_is_zero_and_counted():
    rollouts = chain([[0.5, 0.4], [0.95, 0.99]], [1.0, 1.0], [{}, {}])
    credit = assign_credit(rollouts, ["spo_chain"])
    assert bool((credit.advantages == 0).all())
    assert not bool(credit.loss_mask.any())
    assert credit.trace[0].notes["dropped_without_value"] == 2.0
    partly = assign_credit(chain([[0.5, 0.4]], [1.0], [{0: 0.5}]), [{"spo_chain": {"whiten": "none"}}])
    assert partly.loss_mask.tolist() == [[False, True]]
    assert partly.trace[0].notes["dropped_without_value"] == 1.0
    alone = assign_credit(chain([[0.5]], [1.0], [{-1: 0.5}]), ["spo_chain"])
    assert alone.advantages.tolist() == [[0.0]]  # one token has no spread to whiten over
    equal = assign_credit(chain([[0.5, 0.4]], [1.0], [{-1: 1.0, 0: 1.0}]), ["spo_chain"])
    assert bool((equal.advantages == 0).all())


def test_chain_refuses_bad_boundaries():
    rollouts = chain([[0.5, 0.4]], [1.0], [{0: 0.5}])
    for index, value, message in ((2, 0.5, "index 2"), (-3, 0.5, "index -3"), (0, math.nan, "value nan")):
        signals = {"boundary_index": torch.tensor([[index]]), "boundary_value": torch.tensor([[value]])}
        with pytest.raises(ValueError, match=message):
            assign_credit(rollouts.with_signals(signals), ["spo_chain"])
    with pytest.raises(ValueError, match="same shape"):
        assign_credit(rollouts.with_signals({"boundary_value": torch.zeros(1, 2)}), ["spo_chain"])
    with pytest.raises(ValueError, match="old_logprobs"):
        assign_credit(rollouts.replace(old_logprobs=None), ["spo_chain"])
    with pytest.raises(ValueError, match="old_logprobs must be finite"):
        assign_credit(rollouts.replace(old_logprobs=torch.full((1, 2), torch.nan)), ["spo_chain"])


# Three children a, b, c of the root with three leaves each: rewards (1,0,1), (1,1,1), (0,0,0).
PARENT = [5 / 9] * 3 + [2 / 3] * 3 + [1.0] * 3 + [0.0] * 3
CHILD = [2 / 3, 1.0, 0.0] + [1.0, 0.0, 1.0] + [1.0] * 3 + [0.0] * 3
DEVIATION = [0.415740] * 3 + [0.471405] * 3 + [0.0] * 6


def tree():
    signals = {
        "parent_value": torch.tensor(PARENT),
        "child_value": torch.tensor(CHILD),
        "sibling_std": torch.tensor(DEVIATION),
    }
    old = torch.tensor([[0.5, 0.95, 0.3]] * 12).log()
    return rollouts_of([0.0] * 12, [3] * 12, old_logprobs=old, signals=signals)


@pytest.mark.parametrize(
    ("advantage", "expected"),
    [
        ("rloo", [0.1111, 0.4444, -0.5556, 0.3333, -0.6667, 0.3333]),
        ("grpo", [0.2673, 1.0690, -1.3363, 0.7071, -1.4142, 0.7071]),
    ],
)
def test_tree_worked_example(advantage, expected):
    credit = assign_credit(tree(), [{"spo_tree": {"advantage": advantage, "whiten": "none"}}])
    assert torch.allclose(credit.advantages[:6, 0], torch.tensor(expected), atol=5e-5)
    assert torch.equal(credit.advantages[:, 0], credit.advantages[:, 2])
    assert bool((credit.advantages[:, 1] == 0).all())
    assert bool((credit.advantages[6:] == 0).all())
    assert credit.loss_mask[:6, [0, 2]].all()
    assert not bool(credit.loss_mask[6:].any())
    assert not bool(credit.loss_mask[:, 1].any())
    assert credit.trace[0].notes["dropped_zero_edges"] == 6.0


def test_tree_whitening_leaves_out_zero_edges():
    plain = assign_credit(tree(), [{"spo_tree": {"whiten": "none"}}])
    white = assign_credit(tree(), ["spo_tree"])
    inside = plain.advantages[plain.loss_mask]
    expected = (inside - inside.mean()) / (inside.var() + 1e-8).sqrt()
    assert torch.allclose(white.advantages[white.loss_mask], expected, atol=1e-5)


def test_tree_edges_that_differ_by_rounding_are_zero():
    rollouts = tree()
    values = rollouts.signal("parent_value")
    rounded = rollouts.with_signals({"child_value": values + 6e-8, "sibling_std": torch.zeros(12)})
    for advantage in ("rloo", "grpo"):
        credit = assign_credit(rounded, [{"spo_tree": {"advantage": advantage}}])
        assert bool((credit.advantages == 0).all())
        assert not bool(credit.loss_mask.any())


def test_tree_needs_and_bad_values():
    rollouts = tree()
    assign_credit(
        rollouts.replace(signals={k: v for k, v in rollouts.signals.items() if k != "sibling_std"}), ["spo_tree"]
    )
    values = rollouts.signal("child_value").clone()
    values[3] = torch.nan
    with pytest.raises(ValueError, match="edge 3"):
        assign_credit(rollouts.with_signals({"child_value": values}), ["spo_tree"])
    with pytest.raises(ValueError, match="parent_value"):
        assign_credit(rollouts.with_signals({"parent_value": torch.zeros(12, 1)}), ["spo_tree"])
