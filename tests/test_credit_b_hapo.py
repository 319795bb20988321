"""HAPO: worked numbers of the paper's parts A to D, and their switches."""

import json

import pytest
import torch
from ragged import pad, rollouts

from mmcredit import Credit, Objective, assign_credit
from mmcredit.credit import Pipeline
from mmcredit.statistics.entropy_scale import EntropyScale

ENTROPY = [[0.05, 0.20, 0.40, 1.60, 0.10], [0.30, 0.80, 0.02]]
RATIO = [[1.00, 0.85, 1.02, 1.25, 0.95], [1.15, 0.99, 1.05]]
INTENDED = [[-0.751607, -0.375804, -0.187902, 1.0, -0.563705], [-0.265888, 0.0, -1.0]]


def two_rows():
    return rollouts([5, 3], [1.0, 0.0], signals={"entropy": ENTROPY}, old=[[0.5] * 5, [0.5] * 3])


def unit_credit(pipeline, batch):
    """The pipeline's clip bounds with advantage +1 on row 1 and -1 on row 2."""
    credit = pipeline(batch)
    return credit.replace(advantages=torch.tensor([[1.0], [-1.0]]) * batch.mask)


def new_logprobs(batch):
    return batch.old_logprobs + pad(RATIO, 1.0).log()


def test_token_level_group_average():
    batch = rollouts([2, 4, 1], [1.0, 0.0, 1.0])
    plain = {"hapo": {"redistribute": False, "adaptive_clip": False}}
    credit = assign_credit(batch, [plain])
    expected = pad([[1.154698] * 2, [-0.866024] * 4, [1.154698]])
    assert torch.allclose(credit.advantages, expected, atol=1e-5)
    assert credit.advantages.sum().item() == pytest.approx(0, abs=1e-5)
    assert credit.clip_low is None


def test_an_extreme_group_takes_grpo_advantages():
    switches = {"redistribute": False, "adaptive_clip": False}
    batch = rollouts([1, 40], [1.0, 0.0])
    credit = assign_credit(batch, [{"hapo": switches}])
    assert credit.advantages[0, 0].item() == pytest.approx(0.707106, abs=1e-5)
    assert credit.advantages[1, 0].item() == pytest.approx(-0.707106, abs=1e-5)
    assert credit.trace[0].notes["fallback_responses"] == 2
    high = assign_credit(batch, [{"hapo": {**switches, "max_advantage": 7.0}}])
    assert high.advantages[0, 0].item() == pytest.approx(6.3246, abs=1e-4)


def test_signal():
    scale = EntropyScale.measure(torch.tensor([*ENTROPY[0], *ENTROPY[1]]), rho=0.8)
    assert scale.q == pytest.approx(-0.223144, abs=1e-5)
    assert scale.s == pytest.approx(1.919111, abs=1e-5)
    mask = two_rows().mask
    intended = scale.place(pad(ENTROPY)) * mask
    assert torch.allclose(intended, pad(INTENDED), atol=1e-5)
    assert torch.allclose(scale.place(pad(ENTROPY), "released") * mask, pad(INTENDED).abs(), atol=1e-5)


def test_adaptive_temperature():
    scale = EntropyScale.measure(torch.tensor([*ENTROPY[0], *ENTROPY[1]]), rho=0.8)
    entropies = torch.tensor([0.947537, 0.051697])
    assert torch.allclose(scale.place(entropies), torch.tensor([0.244182, -0.742560]), atol=1e-5)
    assert torch.allclose(scale.temperature(entropies), torch.tensor([1.012209, 0.962872]), atol=1e-5)
    assert scale.temperature(torch.tensor([50.0, 0.0])).tolist() == pytest.approx([1.05, 0.95])


@pytest.mark.parametrize(
    ("sign", "low", "high", "advantages", "loss"),
    [
        (
            "intended",
            [[0.350321, 0.275161, 0.237580, 0.2, 0.312741], [0.253178, 0.2, 0.4]],
            [[0.28, 0.28, 0.28, 0.56, 0.28], [0.28] * 3],
            [[0.248393, 1, 0.812098, 1, 0.436295], [-1, -1, 0]],
            -0.181402,
        ),
        (
            "released",
            [[0.2] * 5, [0.2] * 3],
            [[0.490450, 0.385225, 0.332613, 0.56, 0.437838], [0.354449, 0.28, 0.56]],
            [[1, 1.375804, 1, 1, 1], [-1, -1, -1]],
            -0.274929,
        ),
    ],
)
def test_clip_bounds_redistribution_and_loss(sign, low, high, advantages, loss):
    batch = two_rows()
    pipeline = Pipeline([{"hapo": {"sign": sign}}])
    credit = unit_credit(pipeline, batch)
    assert torch.allclose(credit.clip_low * batch.mask, pad(low), atol=1e-5)
    assert torch.allclose(credit.clip_high * batch.mask, pad(high), atol=1e-5)
    credit = pipeline.at_update(credit, batch, new_logprobs(batch), None)
    assert torch.allclose(credit.advantages, pad(advantages), atol=1e-5)
    objective = Objective(clip={"low": 0.2, "high": 0.28, "dual": 10.0}, aggregate="token_mean")
    assert objective(new_logprobs(batch), batch, credit).loss.item() == pytest.approx(loss, abs=1e-5)


def test_a_mini_batch_uses_the_statistics_of_the_whole_batch():
    batch = two_rows()
    pipeline = Pipeline(["hapo"])
    credit = unit_credit(pipeline, batch)
    whole = pipeline.at_update(credit, batch, new_logprobs(batch), None)
    for rows in ([0], [1]):
        part = pipeline.at_update(credit.select(rows), batch.select(rows), new_logprobs(batch)[rows], None)
        assert torch.equal(part.advantages, whole.advantages[rows])


def test_all_parts_off_is_grpo_bit_for_bit():
    batch = rollouts(
        [5, 3, 2, 1], [1.0, 0.3, 0.0, 0.7], [0, 0, 0, 1], signals={"entropy": [[1, 2, 3, 4, 5], [1] * 3, [2] * 2, [1]]}
    )
    grpo = assign_credit(batch, ["grpo"])
    off = assign_credit(batch, [{"hapo": {"tlga": False, "redistribute": False, "adaptive_clip": False}}])
    assert torch.equal(off.advantages, grpo.advantages)
    batch = batch.replace(old_logprobs=torch.zeros(4, 5))
    pipeline = Pipeline([{"hapo": {"tlga": False, "alpha": 0.0, "beta": 0.0}}])
    credit = pipeline.at_update(pipeline(batch), batch, torch.randn(4, 5), None)
    assert torch.equal(credit.advantages, grpo.advantages)
    assert bool((credit.clip_low == torch.tensor(0.2)).all())
    assert bool((credit.clip_high == torch.tensor(0.28)).all())


def test_group_of_one_constant_group_and_empty_response():
    batch = rollouts(
        [3, 2, 2, 0, 4],
        [1.0, 0.1, 0.1, 1.0, 0.0],
        [0, 1, 1, 2, 2],
        signals={"entropy": [[1] * 3, [2] * 2, [2] * 2, [], [1] * 4]},
    )
    credit = assign_credit(batch, ["hapo"])
    assert bool((credit.advantages == 0).all())  # group 2 has tokens of one reward only


def test_equal_entropies_change_nothing_but_the_advantages():
    batch = rollouts([2, 2], [1.0, 0.0], signals={"entropy": [[0.7, 0.7], [0.7, 0.7]]}, old=[[0.5, 0.5]] * 2)
    pipeline = Pipeline(["hapo"])
    credit = pipeline(batch)
    assert torch.allclose(credit.clip_low, torch.full((2, 2), 0.2))
    after = pipeline.at_update(credit, batch, batch.old_logprobs + 0.3, None)
    assert torch.equal(after.advantages, credit.advantages)


def test_state_round_trip():
    batch = two_rows()
    pipeline = Pipeline(["hapo"])
    credit = pipeline(batch)
    state = json.loads(json.dumps(pipeline.state_dict()))
    assert set(state["0.hapo"]) == {"q", "s", "high", "low", "floor"}
    resumed = Pipeline(["hapo"])
    resumed.load_state_dict(state)
    first = pipeline.at_update(credit, batch, new_logprobs(batch), None)
    assert torch.equal(resumed.at_update(credit, batch, new_logprobs(batch), None).advantages, first.advantages)
    assert resumed.state_dict() == pipeline.state_dict()


def test_the_ratio_of_an_on_policy_update_is_one():
    batch = two_rows().replace(old_logprobs=None)
    pipeline = Pipeline(["hapo"])
    credit = Credit(torch.ones(2, 5) * batch.mask, batch.mask)
    pipeline(batch)
    after = pipeline.at_update(credit, batch, torch.randn(2, 5), None)
    h = pad(INTENDED)
    assert torch.allclose(after.advantages, torch.where(h > 0, 1.0, 1 + h) * batch.mask, atol=1e-5)


def test_an_update_without_a_batch_before_it_is_refused():
    batch = two_rows()
    credit = unit_credit(Pipeline(["hapo"]), batch)
    with pytest.raises(ValueError, match=r"hapo\.at_update has seen no batch: part C needs the entropy scale"):
        Pipeline(["hapo"]).at_update(credit, batch, new_logprobs(batch), None)
    # Nothing to redistribute is no mistake: the part is off, or no token bears credit.
    off = Pipeline([{"hapo": {"redistribute": False}}]).at_update(credit, batch, new_logprobs(batch), None)
    assert torch.equal(off.advantages, credit.advantages)
    empty = batch.replace(mask=torch.zeros_like(batch.mask))
    assert Pipeline(["hapo"]).at_update(credit, empty, new_logprobs(batch), None) is credit
    # A loaded scale is as good as a batch.
    first, second = Pipeline(["hapo"]), Pipeline(["hapo"])
    first(batch)
    second.load_state_dict(first.state_dict())
    assert torch.equal(
        second.at_update(credit, batch, new_logprobs(batch), None).advantages,
        first.at_update(credit, batch, new_logprobs(batch), None).advantages,
    )
