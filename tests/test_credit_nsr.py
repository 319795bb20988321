"""NSR, PSR and W-REINFORCE: absolute signs, no group statistics."""

import pytest
import torch
from b0 import b0, new_logprobs, rollouts_of

from mmcredit import Objective, assign_credit
from mmcredit.components import build


def first(rollouts, **fields):
    return assign_credit(rollouts, [{"nsr": fields}]).advantages[:, 0].tolist()


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, [0, -1, -1, 0]),
        ({"positive": 1.0, "negative": 0.0}, [1, 0, 0, 1]),
        ({"positive": 0.1}, [0.1, -1, -1, 0.1]),
    ],
)
def test_the_family(fields, expected):
    assert first(b0(), **fields) == pytest.approx(expected)


def test_all_wrong_groups_are_pushed_down_and_negative_only_leaves_them():
    wrong = rollouts_of([0, 0, 0], [2, 1, 3])
    assert first(wrong) == [-1, -1, -1]
    assert assign_credit(wrong, ["grpo", "negative_only"]).advantages.abs().sum() == 0
    assert first(rollouts_of([0], [2])) == [-1]  # no group is needed


def test_responses_of_weight_zero_leave_the_denominator():
    """A = -1 on rows 1 and 2 of B0: the sum of r_t/n, negative losses being -(-1) r clipped from below at .8."""
    losses = [[0.95 / 0.9, 0.8], [0.8, 1.6, 0.72 / 0.7, 1.1]]
    total = sum(map(sum, losses))
    for keep_all, count in ((False, 6), (True, 11)):
        credit = assign_credit(b0(), [{"nsr": {"keep_all": keep_all}}])
        logprobs = new_logprobs()
        loss = Objective(clip={"low": 0.2, "high": 0.28}, aggregate="token_mean")(logprobs, b0(), credit).loss
        assert loss.item() == pytest.approx(total / count, abs=1e-5)
        loss.backward()
        assert not logprobs.grad[[0, 3]].any()


def test_nsr_and_psr_add_up_to_plain_reinforce():
    both = assign_credit(b0(), [{"nsr": {"positive": 1.0}}]).advantages
    halves = [{"nsr": {"keep_all": True}}, {"nsr": {"positive": 1.0, "negative": 0.0, "keep_all": True}}]
    assert torch.equal(both, sum(assign_credit(b0(), [half]).advantages for half in halves))


def test_graded_rewards_and_parts():
    graded = rollouts_of([0.9, 0.4, 1.0, 0.2], [1, 1, 1, 1])
    parts = graded.replace(reward_parts={"accuracy": torch.tensor([0.0, 1.0, 1.0, 0.0])})
    assert first(graded) == [0, -1, 0, -1]
    assert first(graded, success_at=0.95) == [-1, -1, 0, -1]
    assert first(parts, success_part="accuracy") == [-1, 0, 0, -1]
    assert build("credit", {"nsr": {"success_part": "accuracy"}}).needs().reward_parts == ("accuracy",)
    with pytest.raises(ValueError, match="success_part 'accuracy' is not a reward part"):
        first(graded, success_part="accuracy")
    with pytest.raises(ValueError, match="both 0: nothing would be trained"):
        build("credit", {"nsr": {"negative": 0.0}})


def test_order_padding_and_an_empty_response():
    batch = rollouts_of([1.0, 0.0, 0.0, 0.0], [3, 2, 0, 4], [5, 5, 2, 2])
    credit = assign_credit(batch, [{"nsr": {"positive": 0.1}}])
    order = torch.tensor([2, 0, 3, 1])
    again = assign_credit(batch.select(order), [{"nsr": {"positive": 0.1}}])
    assert torch.equal(again.advantages, credit.advantages[order])
    assert not credit.advantages[~batch.mask].any()
    junk = batch.replace(tokens=torch.where(batch.mask, batch.tokens, 99))
    assert torch.equal(assign_credit(junk, [{"nsr": {"positive": 0.1}}]).advantages, credit.advantages)
