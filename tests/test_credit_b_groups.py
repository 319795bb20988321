"""Methods that work on responses and groups: d3s, dcpo, r3, negative_only."""

import json
import math

import pytest
import torch
from ragged import mask_of, pad, rollouts
from test_objective import b0, new_logprobs

from mmcredit import Credit, Objective, assign_credit
from mmcredit.components import build
from mmcredit.credit import Pipeline, Step
from mmcredit.data.sample import Sample

# d3s

GRPO0 = {"grpo": {"ddof": 0, "eps": 0.0}}


def three_groups(entropy=1.0):
    rewards = [1, 0, 0, 0, 0, 0, 1, 1, 1, 0, 0, 0] + [1] * 6
    group = [0] * 6 + [1] * 6 + [2] * 6
    return rollouts([2] * 18, rewards, group, {"entropy": [[entropy] * 2] * 18})


@pytest.mark.parametrize(("count", "variance"), [(2, 2.618034), (4, 1.963525), (6, 1.624226), (9, 1.244444), (12, 1.0)])
def test_d3s_keeps_the_responses_of_largest_variance(count, variance):
    share = 100 * count / 18
    fields = {"n_init": share, "n_final": share, "k_init": 100, "k_final": 100}
    credit = assign_credit(three_groups(), [GRPO0, {"d3s": fields}])
    rows = credit.loss_mask.any(1)
    assert rows.sum().item() == count
    assert credit.advantages[rows, 0].var(correction=0).item() == pytest.approx(variance, abs=1e-5)
    assert bool((credit.advantages[rows] != 0).all())  # no response of the constant group


def test_d3s_within_groups_keeps_useless_responses_of_a_constant_group():
    fields = {"scope": "intra", "n_init": 100 / 3, "n_final": 100 / 3, "k_init": 100, "k_final": 100}
    credit = assign_credit(three_groups(), [GRPO0, {"d3s": fields}])
    for group, variance in ((0, 1.8), (1, 1.0), (2, 0.0)):
        rows = slice(6 * group, 6 * group + 6)
        kept = credit.loss_mask[rows].any(1)
        assert kept.sum().item() == 2
        assert credit.advantages[rows][kept, 0].var(correction=0).item() == pytest.approx(variance, abs=1e-5)


@pytest.mark.parametrize(("k", "kept"), [(25, [1, 7]), (50, [1, 3, 5, 7]), (1, [1])])
@pytest.mark.parametrize("normalizer", ["kept", "all"])
def test_d3s_keeps_the_tokens_of_largest_key(k, kept, normalizer):
    entropy = [0.05, 1.2, 0.3, 2.0, 0.1, 0.9, 0.02, 1.6]
    mask = mask_of([3, 2, 3])
    flat = torch.zeros(3, 3)
    flat[mask] = torch.tensor(entropy)
    batch = rollouts([3, 2, 3], [1, 0, 0]).with_signals({"entropy": flat})
    before = Credit(torch.tensor([[2.236068], [-0.447214], [-1.0]]) * mask, mask)
    method = build("credit", {"d3s": {"scope": "none", "k_init": k, "k_final": k, "normalizer": normalizer}})
    credit = method(before, batch, Step())
    assert (credit.advantages != 0)[mask].nonzero()[:, 0].tolist() == kept
    assert credit.loss_mask.sum().item() == (len(kept) if normalizer == "kept" else 8)


def test_d3s_schedule():
    method = build("credit", "d3s")
    for progress, count, k in ((0.0, 64, 10), (0.25, 112, 22.5), (0.5, 160, 35), (1.0, 256, 60)):
        n, share = method.shares(progress)
        assert round(n * 256 / 100) == count
        assert share == pytest.approx(k)


def test_d3s_with_everything_kept_is_grpo_bit_for_bit():
    batch = three_groups()
    credit = assign_credit(batch, ["grpo", {"d3s": dict.fromkeys(["n_init", "n_final", "k_init", "k_final"], 100)}])
    grpo = assign_credit(batch, ["grpo"])
    assert torch.equal(credit.advantages, grpo.advantages)
    assert torch.equal(credit.loss_mask, grpo.loss_mask)


def test_d3s_without_any_advantage_leaves_the_batch_alone():
    batch = rollouts([2, 0], [1.0, 1.0], signals={"entropy": [[1, 1], []]})
    credit = assign_credit(batch, ["grpo", "d3s"])
    assert torch.equal(credit.loss_mask, batch.mask)
    assert credit.trace[1].notes["batches_without_advantage"] == 1


def test_d3s_does_not_depend_on_the_scale_of_advantages():
    batch = three_groups().with_signals({"entropy": torch.rand(18, 2, generator=torch.Generator().manual_seed(1))})
    credit = assign_credit(batch, [GRPO0])
    method = build("credit", {"d3s": {"n_init": 50, "k_init": 30}})
    kept = [method(credit.scale(torch.full((18, 2), c)), batch, Step(0, 10)).loss_mask for c in (1.0, 4.0)]
    assert torch.equal(kept[0], kept[1])


# dcpo

VISITS = [[1, 0, 0, 0], [1, 1, 1, 1], [1, 1, 0, 1], [0, 0, 0, 0]]
EXPECTED = {
    0: [
        [1.732051, -0.57735, -0.57735, -0.57735],
        [0.387298] * 4,
        [0.620602, 0.620602, -1.520159, 0.620602],
        [-0.25] * 4,
    ],
    1: [[1.5, -0.5, -0.5, -0.5], [0.363803] * 4, [0.549629, 0.549629, -1.365181, 0.549629], [-0.235702] * 4],
}
TOTALS = {
    0: [(0.25, 0.433013), (0.625, 0.484123), (0.666667, 0.471405), (0.5, 0.5)],
    1: [(0.25, 0.5), (0.625, 0.515388), (0.666667, 0.513701), (0.5, 0.530330)],
}


@pytest.mark.parametrize("ddof", [0, 1])
def test_dcpo_visits(ddof):
    state = {}
    for visit, rewards in enumerate(VISITS):
        batch = rollouts([1, 2, 3, 1], rewards, [7] * 4)
        credit = assign_credit(batch, [{"dcpo": {"ddof": ddof}}], state=state)
        state = json.loads(json.dumps(state))  # a resume between any two visits
        assert torch.allclose(credit.advantages[:, 0], torch.tensor(EXPECTED[ddof][visit]), atol=1e-5)
        mean, std, visits = state["0.dcpo"]["7"]
        assert (mean, std) == pytest.approx(TOTALS[ddof][visit], abs=1e-5)
        assert visits == visit + 1


def test_dcpo_first_visit_is_grpo_bit_for_bit():
    batch = rollouts([2, 3, 1, 1], [1.0, 0.3, -1.0, 0.3], [0, 0, 0, 1])
    grpo = assign_credit(batch, [GRPO0])
    assert torch.equal(assign_credit(batch, ["dcpo"]).advantages, grpo.advantages)


def test_dcpo_keeps_the_statistics_of_all_rewards_seen():
    generator = torch.Generator().manual_seed(3)
    pipeline, seen = Pipeline(["dcpo"]), []
    for _ in range(6):
        rewards = torch.rand(5, generator=generator)
        seen.append(rewards)
        fresh = (rewards - rewards.mean()) / rewards.std(correction=0)
        total = (rewards - torch.cat(seen).mean()) / torch.cat(seen).std(correction=0)
        credit = pipeline(rollouts([1] * 5, rewards.tolist()))
        advantage = credit.advantages[:, 0]
        assert bool((advantage.abs() <= torch.maximum(fresh.abs(), total.abs()) + 1e-5).all())
        assert bool(((advantage.sign() == fresh.sign()) | (advantage.sign() == total.sign())).all())
    mean, std, visits = pipeline.state_dict()["0.dcpo"]["0"]
    assert mean == pytest.approx(torch.cat(seen).mean().item(), abs=1e-6)
    assert std == pytest.approx(torch.cat(seen).std(correction=0).item(), abs=1e-6)
    assert visits == 6


def test_dcpo_equal_rewards_for_ever_give_exactly_nothing():
    pipeline = Pipeline(["dcpo"])
    for _ in range(7):
        credit = pipeline(rollouts([1] * 3, [0.9, 0.9, 0.9]))
        assert bool((credit.advantages == 0).all())


def test_dcpo_prompts_are_told_apart_by_their_sample():
    def batch(order, rewards):
        samples = tuple(Sample(id=name, messages=()) for name in order)
        return rollouts([1] * 4, rewards, [0, 0, 1, 1], samples=samples)

    pipeline = Pipeline(["dcpo"])
    pipeline(batch(["a", "b"], [1, 0, 0, 0]))
    credit = pipeline(batch(["c", "a"], [1, 1, 1, 1]))
    assert credit.advantages[:2, 0].tolist() == [0, 0]  # c is new
    assert credit.advantages[2, 0].item() == pytest.approx((1 - 0.75) / math.sqrt(0.1875) / 2, abs=1e-5)
    twice = Pipeline(["dcpo"])
    twice(batch(["a", "a"], [1, 0, 0, 0]))  # one prompt twice in a batch: two visits in order
    assert twice.state_dict()["0.dcpo"]["a"] == pytest.approx([0.25, math.sqrt(0.1875), 2])
    assert set(pipeline.state_dict()["0.dcpo"]) == {"a", "b", "c"}


def test_dcpo_history_can_fade():
    pipeline = Pipeline([{"dcpo": {"decay": 0.0}}])
    pipeline(rollouts([1] * 2, [1.0, 0.0]))
    assert bool((pipeline(rollouts([1] * 2, [1.0, 1.0])).advantages == 0).all())
    half = Pipeline([{"dcpo": {"decay": 0.5}}])
    half(rollouts([1] * 2, [0.0, 0.0]))
    half(rollouts([1] * 2, [1.0, 1.0]))
    assert half.state_dict()["0.dcpo"]["0"][0] == pytest.approx(2 / 3)
    assert half.state_dict()["0.dcpo"]["0"][2] == pytest.approx(1.5)


def test_dcpo_group_of_one_gets_nothing_but_is_remembered():
    pipeline = Pipeline(["dcpo"])
    for reward in (1.0, 0.0):
        assert pipeline(rollouts([2], [reward])).advantages.tolist() == [[0, 0]]
    assert pipeline.state_dict()["0.dcpo"]["0"] == pytest.approx([0.5, 0.5, 2])


def test_dcpo_loss_of_b0():
    batch = b0()
    credit = assign_credit(batch, ["dcpo"])
    for aggregate, expected in (
        ("response_mean_sum", -0.39459691),
        ("seq_mean_token_mean", -0.09864923),
        ("token_mean", 0.01652351),
    ):
        loss = Objective(clip="dcpo", aggregate=aggregate)(new_logprobs(), batch, credit).loss
        assert loss.item() == pytest.approx(expected, abs=1e-5)


# r3

R3_ENTROPY = [
    [0.1, 2, 0.2, 0.1, 0.1, 0.1, 0.2, 0.1, 0.1, 0.1],
    [0.5] * 10,
    [0.1, 1.4, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 1.4, 0.1],
    [1, 1.5] + [1] * 8,
    [0.05, 0.9, 0.05, 0.05],
]


def failed_group(**fields):
    return rollouts([10, 10, 10, 10, 4], [0.0] * 5, signals={"entropy": R3_ENTROPY}, **fields)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"alpha": 1.0}, [0.372676, -1.118027, 1.490703, -1.118027, 0.372676]),
        ({"alpha": 2.0}, [0.186338, -0.559015, 0.745354, -0.559015, 0.186338]),
    ],
)
def test_r3_ranks_a_failed_group(fields, expected):
    credit = assign_credit(failed_group(), [{"r3": fields}])
    assert torch.allclose(credit.advantages[:, 0], torch.tensor(expected), atol=1e-5)
    assert credit.trace[0].notes["ranked_responses"] == 5


@pytest.mark.parametrize(
    ("ties", "expected"), [("average", [0.3125, 0.0625, 0.5, 0.0625, 0.3125]), ("stable", [0.375, 0.125, 0.5, 0, 0.25])]
)
def test_r3_ranking_rewards(ties, expected):
    batch = failed_group()
    method = build("credit", {"r3": {"ties": ties}})
    rewards = method._rank_rewards(batch, torch.zeros(5, dtype=torch.int64), torch.ones(5, dtype=torch.bool))
    assert rewards.tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("rewards", "alpha", "expected"),
    [
        ([0, 0, 0, 0, 1], 1.0, [-0.5] * 4 + [2.0]),
        ([0, 0, 0, 0, 1], 2.0, [-0.25] * 4 + [1.0]),
        ([0, 0, 0, 0, 1, 1], 1.0, [-0.707105] * 4 + [1.414211] * 2),
    ],
)
def test_r3_replayed_opposite(rewards, alpha, expected):
    replayed = torch.tensor([0.0] * 4 + [1.0] * (len(rewards) - 4))
    batch = rollouts([2] * len(rewards), rewards).with_signals({"replayed": replayed})
    credit = assign_credit(batch, [{"r3": {"alpha": alpha, "serr": "off"}}])
    assert torch.allclose(credit.advantages[:, 0], torch.tensor(expected), atol=1e-5)
    assert credit.advantages[:, 0].sum().item() == pytest.approx(0, abs=1e-5)
    assert credit.trace[0].notes["replayed_responses"] == len(rewards) - 4


def test_r3_length_bonus():
    batch = rollouts([1024, 8192, 32768, 5], [1.0, 1.0, 1.0, 0.0])
    credit = assign_credit(batch, [{"r3": {"serr": "off", "length_limit": 32768}}])
    rewards = torch.tensor([1.96875, 1.75, 1.0, 0.0])
    expected = (rewards - rewards.mean()) / rewards.std(correction=0)
    assert torch.allclose(credit.advantages[:, 0], expected, atol=1e-5)


def test_r3_mixed_groups_are_grpo_bit_for_bit():
    batch = rollouts([2, 3, 1, 1], [1.0, 0.0, 0.3, 1.0], [0, 0, 0, 1], {"entropy": [[1, 2], [1] * 3, [2], [1]]})
    grpo = assign_credit(batch, [{"grpo": {"ddof": 0, "eps": 1e-6}}])
    assert torch.equal(assign_credit(batch, [{"r3": {"alpha": 2.0}}]).advantages, grpo.advantages)


def test_r3_edge_cases():
    one = rollouts([3], [0.0], signals={"entropy": [[1, 2, 3]]})
    assert bool((assign_credit(one, ["r3"]).advantages == 0).all())
    alike = rollouts([3, 3], [0.0, 0.0], signals={"entropy": [[1, 2, 3], [1, 2, 3]]})
    assert bool((assign_credit(alike, ["r3"]).advantages == 0).all())  # nobody dominates: no signal
    empty = rollouts([3, 0], [0.0, 0.0], signals={"entropy": [[1, 2, 3], []]})
    credit = assign_credit(empty, ["r3"])
    assert credit.trace[0].notes["ranked_responses"] == 1
    batch = failed_group(truncated=torch.tensor([True, False, True, False, False]))
    some = assign_credit(batch, [{"r3": {"serr": "truncated"}}])
    assert some.trace[0].notes["ranked_responses"] == 2
    with pytest.raises(ValueError, match="success_part 'accuracy' is not a reward part"):
        assign_credit(batch, [{"r3": {"success_part": "accuracy"}}])


def test_r3_success_is_read_from_the_named_part():
    # The format part alone lifts the total above the threshold; the answer is still wrong.
    batch = failed_group(reward_parts={"accuracy": torch.zeros(5)}).replace(rewards=torch.full((5,), 0.6))
    assert bool((assign_credit(batch, ["r3"]).advantages == 0).all())
    assert bool((assign_credit(batch, [{"r3": {"success_part": "accuracy"}}]).advantages != 0).any())


def test_r3_ranking_depends_on_order_alone():
    generator = torch.Generator().manual_seed(5)
    entropy = torch.rand(6, 12, generator=generator)
    batch = rollouts([12] * 6, [0.0] * 6).with_signals({"entropy": entropy})
    credit = assign_credit(batch, ["r3"]).advantages
    order = torch.randperm(6, generator=generator)
    assert torch.allclose(assign_credit(batch.select(order), ["r3"]).advantages, credit[order], atol=1e-6)
    scaled = assign_credit(batch.with_signals({"entropy": 3 * entropy}), ["r3"]).advantages
    assert torch.allclose(scaled, credit, atol=1e-6)


# negative_only


def test_negative_only_keeps_the_worse_half():
    batch = rollouts([2] * 6, [1, 0, 0, 0, 1, 1])
    credit = assign_credit(batch, [GRPO0, "negative_only"])
    assert torch.allclose(credit.advantages[:, 0], torch.tensor([0.0, -1, -1, -1, 0, 0]), atol=1e-6)
    assert credit.advantages.sum() <= 0


@pytest.mark.parametrize(("normalizer", "expected"), [("all", 0.51498016), ("negative", 1.02996032)])
def test_grpo_n_loss_of_b0(normalizer, expected):
    batch, logprobs = b0(), new_logprobs()
    credit = assign_credit(batch, [GRPO0, {"negative_only": {"normalizer": normalizer}}])
    loss = Objective(clip={"low": 0.2, "high": 0.2}, aggregate="seq_mean_token_mean")(logprobs, batch, credit).loss
    loss.backward()
    assert loss.item() == pytest.approx(expected, abs=1e-5)
    gradient = pad([[0, 0, 0], [0.131944, 0], [0, 0.1, 0.064286, 0.06875], [0, 0]]) * (
        2 if normalizer == "negative" else 1
    )
    assert torch.allclose(logprobs.grad, gradient, atol=1e-5)
    assert bool((logprobs.grad[[0, 3]] == 0).all())


def test_gspo_n_loss_of_b0():
    batch, logprobs = b0(), new_logprobs()
    credit = assign_credit(batch, [GRPO0, "negative_only"])
    objective = Objective(ratio="sequence", clip={"low": 3e-4, "high": 4e-4}, aggregate="seq_mean_token_mean")
    loss = objective(logprobs, batch, credit).loss
    loss.backward()
    assert loss.item() == pytest.approx(0.51978723, abs=1e-5)
    assert torch.allclose(logprobs.grad, pad([[0, 0, 0], [0, 0], [0.067466] * 4, [0, 0]]), atol=1e-5)


@pytest.mark.parametrize(
    ("methods", "expected"),
    [
        (["dr_grpo"], [0.190120, 0.011760, -0.201880]),
        (["dr_grpo", "negative_only"], [0.098921, 0.004038, -0.102959]),
    ],
)
def test_expected_update_of_a_softmax(methods, expected):
    # 100 one-token responses in the proportions of the policy (.49, .02, .49) with rewards .8, 1, 0.
    token = torch.tensor([0] * 49 + [1] * 2 + [2] * 49)
    batch = rollouts([1] * 100, torch.tensor([0.8, 1.0, 0.0])[token].tolist())
    logits = torch.tensor([0.49, 0.02, 0.49]).log().requires_grad_(True)
    credit = assign_credit(batch, methods)
    Objective(aggregate="token_mean")(logits.log_softmax(0)[token][:, None], batch, credit).loss.backward()
    assert torch.allclose(-logits.grad, torch.tensor(expected), atol=1e-5)


def test_negative_and_positive_halves_add_up():
    batch = b0()
    full = assign_credit(batch, ["grpo"])
    negative = assign_credit(batch, ["grpo", "negative_only"])
    positive = full.replace(advantages=full.advantages.clamp(min=0))
    gradients = []
    for credit in (full, negative, positive):
        logprobs = new_logprobs()
        Objective()(logprobs, batch, credit).loss.backward()
        gradients.append(logprobs.grad)
    assert torch.allclose(gradients[0], gradients[1] + gradients[2], atol=1e-7)


def test_negative_only_options():
    batch = b0().with_signals({"entropy": torch.full((4, 4), 0.5)})
    grpo = assign_credit(batch, ["grpo"])
    assert torch.equal(assign_credit(batch, ["grpo", {"negative_only": {"beta": 1.0}}]).advantages, grpo.advantages)
    assert torch.equal(
        assign_credit(batch, ["grpo", {"negative_only": {"below_entropy": 0.4}}]).advantages, grpo.advantages
    )
    low = assign_credit(batch, ["grpo", {"negative_only": {"below_entropy": 0.6}}])
    assert bool((low.advantages <= 0).all())
    constant = b0(rewards=(1.0, 1.0, 1.0, 1.0))
    assert bool((assign_credit(constant, ["grpo", "negative_only"]).advantages == 0).all())
    with pytest.raises(ValueError, match="beta must be 0"):
        build("credit", {"negative_only": {"beta": 0.1, "normalizer": "negative"}})
