"""The correction for sampler and trainer that disagree: worked numbers, missing values, config errors."""

import math

import pytest
import torch
from b0 import LENGTHS, NEW, OLD, b0, broadcast_credit, gradient_of, new_logprobs, padded

from mmcredit import Objective
from mmcredit.objective.mismatch import Mismatch

SIGNS = [1.0, -1.0, -1.0, 1.0]


def rows(*values):
    return padded([[float(v) for v in row] for row in values], 4)


SAMPLER = rows([0, 0.9, -0.1], [-0.05, -0.8], [0.02, 0.1, -0.02, 0], [0, 0]) + torch.tensor(OLD).log()


@pytest.mark.parametrize(
    ("mismatch", "expected"),
    [
        (None, 0.0774326),
        ({"kind": "token_tis", "cap": 2.0}, 0.1847457),
        ("token_tis", 0.1847457),
        ({"kind": "sequence_tis", "cap": 2.0}, 0.38140474),
        ({"kind": "sequence_mask", "cap": 2.0}, 0.04403101),
        ({"kind": "token_mask", "floor": 0.5, "cap": 2.0}, 0.07717606),
    ],
)
def test_mismatch_of_b0(mismatch, expected):
    rollouts = b0(sampler_logprobs=SAMPLER)
    objective = Objective(clip={"low": 0.2, "high": 0.28}, mismatch=mismatch)
    out, _ = gradient_of(objective, rollouts, broadcast_credit(rollouts, SIGNS))
    assert out.loss.item() == pytest.approx(expected, abs=1e-5)
    assert objective.needs().sampler_logprobs == (mismatch is not None)


def test_mismatch_weights_of_b0():
    rollouts = b0(sampler_logprobs=SAMPLER)
    weights = Mismatch(kind="token_tis", cap=9.0)(new_logprobs(), rollouts, rollouts.mask).weights
    expected = rows([1, 0.40657, 1.105171], [1.051271, 2.225541], [0.980199, 0.904837, 1.020201, 1], [1, 1])
    assert torch.allclose(weights[rollouts.mask], expected[rollouts.mask], atol=1e-5)
    weights = Mismatch(kind="sequence_tis", cap=9.0)(new_logprobs(), rollouts, rollouts.mask).weights
    assert torch.allclose(weights[:, 0], torch.tensor([0.449329, 2.339647, 0.904837, 1.0]), atol=1e-5)
    # Geometric means .765928, 1.52959, .97531, 1
    for floor, cap, kept in ((0.7, 1.6, [1, 1, 1, 1]), (0.766, 1.6, [0, 1, 1, 1]), (0.975, 1.529, [0, 0, 1, 1])):
        mask = Mismatch(kind="geometric_mask", floor=floor, cap=cap)(new_logprobs(), rollouts, rollouts.mask)
        assert mask.weights[:, 0].tolist() == kept
    assert mask.metrics["mismatch_outside_fraction"] == pytest.approx(5 / 11)


def test_mismatch_without_sampler_logprobs_is_one_and_counted():
    plain, _ = gradient_of(Objective(), b0(), broadcast_credit(b0(), SIGNS))
    for kind in ("token_tis", "sequence_tis", "token_mask", "sequence_mask", "geometric_mask"):
        out, _ = gradient_of(Objective(mismatch=kind), b0(), broadcast_credit(b0(), SIGNS))
        assert out.loss.item() == plain.loss.item()
        assert out.metrics["mismatch_missing"] == sum(LENGTHS)
    broken = SAMPLER.clone()
    broken[1, 1], broken[0, 1] = torch.nan, torch.inf
    rollouts = b0(sampler_logprobs=broken)
    correction = Mismatch(kind="token_tis")(new_logprobs(), rollouts, rollouts.mask)
    assert correction.weights[1, 1].item() == correction.weights[0, 1].item() == 1.0
    assert correction.metrics["mismatch_missing"] == 2.0
    correction = Mismatch(kind="sequence_tis")(new_logprobs(), rollouts, rollouts.mask)
    assert correction.weights[1, 0].item() == pytest.approx(math.exp(0.05), abs=1e-5)  # the other token's share only


def test_mismatch_on_policy_uses_the_current_logprobs():
    sampler = torch.tensor(NEW).log() - 0.5
    rollouts = b0(sampler_logprobs=sampler).replace(old_logprobs=None)
    _, plain = gradient_of(Objective(), rollouts, broadcast_credit(rollouts, SIGNS))
    out, corrected = gradient_of(
        Objective(mismatch={"kind": "token_tis", "cap": 3.0}), rollouts, broadcast_credit(rollouts, SIGNS)
    )
    assert torch.allclose(corrected, math.exp(0.5) * plain, atol=1e-6)  # detached: it scales, and adds no gradient
    assert out.metrics["mismatch_weight_mean"] == pytest.approx(math.exp(0.5), abs=1e-5)


def test_equal_engines_need_no_correction():
    rollouts = b0(sampler_logprobs=torch.tensor(OLD).log())
    plain, gradient = gradient_of(Objective(), rollouts, broadcast_credit(rollouts, SIGNS))
    for kind in ("token_tis", "sequence_tis", "token_mask", "sequence_mask", "geometric_mask"):
        out, corrected = gradient_of(Objective(mismatch=kind), rollouts, broadcast_credit(rollouts, SIGNS))
        assert out.loss.item() == plain.loss.item()  # bit for bit
        assert torch.equal(corrected, gradient)


def test_mismatch_config_errors():
    with pytest.raises(ValueError, match="kind"):
        Objective(mismatch="tis")
    with pytest.raises(ValueError, match="did you mean 'floor'"):
        Objective(mismatch={"kind": "token_mask", "flor": 0.5})
    with pytest.raises(ValueError, match="floor has no meaning"):
        Objective(mismatch={"kind": "token_tis", "floor": 0.5})
    with pytest.raises(ValueError, match="above cap"):
        Objective(mismatch={"kind": "token_mask", "floor": 3.0, "cap": 2.0})
