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


def test_failed_responses_that_the_policy_has_left_are_dropped():
    """DeepSeek-V3.2's mask on B0, A = [1,-1,-1,1]: mean_t(old - new) of the failed rows is .319540 and -.076451."""
    drift = [sum(math.log(OLD[i][t] / NEW[i][t]) for t in range(n)) / n for i, n in enumerate(LENGTHS)]
    assert drift[1] == pytest.approx(0.319540, abs=1e-5)
    assert drift[2] == pytest.approx(-0.076451, abs=1e-5)
    rollouts, credit = b0(), broadcast_credit(b0(), SIGNS)
    plain, expected = gradient_of(Objective(), rollouts, credit)
    for delta, dropped in ((0.5, []), (0.33, []), (0.31, [1]), (0.0, [1])):
        out, gradient = gradient_of(Objective(mismatch={"kind": "none", "delta": delta}), rollouts, credit)
        kept = [i for i in range(4) if i not in dropped]
        assert torch.equal(gradient[kept], expected[kept])  # the denominator stays
        assert not gradient[dropped].any()
        assert out.metrics["off_policy_dropped"] == len(dropped) / 4
        assert dropped or out.loss.item() == plain.loss.item()
    good = broadcast_credit(rollouts, [1.0, 1.0, 1.0, 1.0])  # row 1 again, but it was right
    out, _ = gradient_of(Objective(mismatch={"kind": "none", "delta": 0.0}), rollouts, good)
    assert out.metrics["off_policy_dropped"] == 0


def test_the_off_policy_mask_beside_a_correction_and_alone():
    rollouts, credit = b0(sampler_logprobs=SAMPLER), broadcast_credit(b0(), SIGNS)
    both = Mismatch(kind="token_tis", delta=0.1)(new_logprobs(), rollouts, rollouts.mask, credit.advantages)
    alone = Mismatch(kind="token_tis")(new_logprobs(), rollouts, rollouts.mask)
    assert not both.weights[1, :2].any()
    assert torch.equal(both.weights[[0, 2, 3]], alone.weights[[0, 2, 3]])
    assert both.metrics["mismatch_outside_fraction"] == alone.metrics["mismatch_outside_fraction"]
    assert not Objective(mismatch={"kind": "none", "delta": 0.5}).needs().sampler_logprobs
    on_policy = b0().replace(old_logprobs=None)
    first = Mismatch(kind="none", delta=0.0)(new_logprobs(), on_policy, on_policy.mask, credit.advantages)
    assert first.weights[on_policy.mask].min() == 1  # nothing has been left at the first update
    with pytest.raises(ValueError, match="kind none has no cap and no floor"):
        Objective(mismatch="none")
