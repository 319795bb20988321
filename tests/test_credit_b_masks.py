"""Tokens by a criterion: temporal_schedule, forking_tokens, attention_entropy, divergence_weight."""

import pytest
import torch
from ragged import pad, rollouts
from test_objective import b0, new_logprobs

from mmcredit import Credit, Objective, assign_credit
from mmcredit.components import build
from mmcredit.credit import Pipeline, Step

ENTROPY = [[0.05, 0.20, 0.40, 1.60, 0.10], [0.30, 0.80, 0.02]]
STEPS = [1, 20, 40, 60, 80]
B0_ENTROPY = [[1.2, 0.3, 1.9], [0.1, 2.2], [0.9, 2.5, 0.8, 1.1], [1.4, 0.05]]


def apply(name, fields, credit, batch, index=0, total=100, notes=None):
    return build("credit", {name: fields})(credit, batch, Step(index, total, {} if notes is None else notes))


def ones(batch):
    return Credit(batch.mask.float(), batch.mask)


# temporal_schedule


@pytest.mark.parametrize(
    ("length", "cuts"), [(1, [0, 0, 0, 0, 0]), (4, [3, 2, 1, 0, 0]), (10, [9, 7, 4, 2, 0]), (100, [97, 74, 49, 24, 0])]
)
def test_percentile_cut(length, cuts):
    batch = rollouts([length, 0], [1.0, 0.0])
    for step, cut in zip(STEPS, cuts, strict=True):
        credit = apply("temporal_schedule", {}, ones(batch), batch, step - 1)
        assert (~credit.loss_mask[0]).sum().item() == cut
        assert bool(credit.loss_mask[0, cut:].all())
        assert torch.equal(credit.advantages, credit.loss_mask.float())


def test_percentile_counts_only_tokens_of_the_policy():
    batch = rollouts([10], [1.0])
    mask = torch.ones(1, 10, dtype=torch.bool)
    mask[0, 2:6] = False  # inserted tokens
    batch = batch.replace(mask=mask, valid=torch.ones_like(mask))
    credit = apply("temporal_schedule", {}, Credit(mask.float(), mask), batch, 39)  # kappa .495 of 6 tokens: cut 2
    assert credit.loss_mask.int().tolist() == [[0, 0, 0, 0, 0, 0, 1, 1, 1, 1]]


@pytest.mark.parametrize(
    ("q", "expected"),
    [
        (0.01, [[0, 0, 0, 1, 0], [0, 1, 0, 0, 0]]),
        (0.2, [[0, 0, 0, 1, 0], [0, 1, 0, 0, 0]]),
        (0.5, [[0, 1, 1, 1, 0], [1, 1, 0, 0, 0]]),
        (1.0, [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]),
    ],
)
def test_forking_schedule(q, expected):
    batch = rollouts([5, 3], [1.0, 0.0], signals={"entropy": ENTROPY})
    fields = {"criterion": "forking", "curve": "constant", "kappa0": 1 - q}
    credit = apply("temporal_schedule", fields, ones(batch), batch)
    assert credit.loss_mask.int().tolist() == expected


def test_forking_schedule_starts_with_one_token_of_up_to_a_hundred():
    batch = rollouts([100, 101], [1.0, 0.0], signals={"entropy": [range(100), range(101)]})
    credit = apply("temporal_schedule", {"criterion": "forking", "curve": "constant"}, ones(batch), batch)
    assert credit.loss_mask.sum(1).tolist() == [1, 2]


def test_entropy_advantage_schedule():
    batch = rollouts([5, 3], [1.0, 0.0], signals={"entropy": ENTROPY})
    before = Credit(torch.tensor([[1.0], [-0.5]]) * batch.mask, batch.mask)
    credit = apply(
        "temporal_schedule", {"criterion": "entropy_advantage", "curve": "constant", "kappa0": 0.5}, before, batch
    )
    expected = pad([[1.01, 1.04, 1.08, 1.25, 1.02], [-0.44, -0.375, -0.496]])
    assert torch.allclose(credit.advantages, expected, atol=1e-6)
    assert torch.equal(credit.advantages.sign(), before.advantages.sign())
    assert torch.equal(credit.loss_mask, batch.mask)
    nothing = Credit(torch.zeros(2, 5), batch.mask)
    assert torch.equal(
        apply("temporal_schedule", {"criterion": "entropy_advantage"}, nothing, batch).advantages, torch.zeros(2, 5)
    )


@pytest.mark.parametrize("criterion", ["percentile", "forking", "entropy_advantage"])
def test_a_finished_schedule_is_grpo_bit_for_bit(criterion):
    batch = rollouts([5, 3], [1.0, 0.0], signals={"entropy": ENTROPY})
    grpo = assign_credit(batch, ["grpo"], 80, 100)
    credit = assign_credit(batch, ["grpo", {"temporal_schedule": {"criterion": criterion}}], 80, 100)
    assert torch.equal(credit.advantages, grpo.advantages)
    assert torch.equal(credit.loss_mask, grpo.loss_mask)


def test_truncated_responses_can_wait():
    batch = rollouts([4, 4], [1.0, 0.0]).replace(truncated=torch.tensor([False, True]))
    credit = apply("temporal_schedule", {"skip_truncated": True}, ones(batch), batch)
    assert credit.loss_mask.sum(1).tolist() == [1, 0]
    assert apply("temporal_schedule", {"skip_truncated": True}, ones(batch), batch, 99).loss_mask.sum().item() == 8


def test_a_schedule_without_steps_is_refused():
    batch = rollouts([2], [1.0])
    with pytest.raises(ValueError, match="max_ratio must be above min_ratio"):
        build("credit", {"temporal_schedule": {"min_ratio": 0.5, "max_ratio": 0.5}})
    with pytest.raises(ValueError, match="of 1 steps the schedule runs from 0 to 0"):
        apply("temporal_schedule", {}, ones(batch), batch, 0, 1)
    with pytest.raises(ValueError, match="kap"):
        build("credit", {"temporal_schedule": {"kap": 0}})


# forking_tokens


@pytest.mark.parametrize(
    ("rho", "normalizer", "kept", "loss"),
    [(0.2, "all", 3, 0.10181818), (0.2, "kept", 3, 0.37333333), (0.5, "all", 6, -0.00545455), (0.5, "kept", 6, -0.01)],
)
def test_forking_tokens(rho, normalizer, kept, loss):
    batch = b0().with_signals({"entropy": pad(B0_ENTROPY)})
    methods = [{"grpo": {"ddof": 0, "eps": 0}}, {"forking_tokens": {"rho": rho, "normalizer": normalizer}}]
    credit = assign_credit(batch, methods)
    assert (credit.advantages != 0).sum().item() == kept
    objective = Objective(clip={"low": 0.2, "high": 0.28}, aggregate="token_mean")
    assert objective(new_logprobs(), batch, credit).loss.item() == pytest.approx(loss, abs=1e-5)
    if rho == 0.2:
        assert credit.trace[1].notes["threshold"] == pytest.approx(1.9)
        assert (credit.advantages != 0).nonzero().tolist() == [[0, 2], [1, 1], [2, 1]]


# attention_entropy

E = [0.120970, 0.430677, 1.0, 0.947629]


@pytest.mark.parametrize(
    ("index", "expected"), [(0, [1.375, 1.125, 0.625, 0.875]), (50, [1, 1, 1, 1]), (100, [0.625, 0.875, 1.375, 1.125])]
)
@pytest.mark.parametrize("scope", ["batch", "group", "response"])
def test_attention_entropy_weights(index, expected, scope):
    batch = rollouts([4], [1.0], signals={"attention_entropy": [E]})
    credit = apply("attention_entropy", {"eta": 0.5, "scope": scope}, ones(batch), batch, index)
    assert torch.allclose(credit.advantages, pad([expected]), atol=1e-6)
    assert credit.advantages.mean().item() == pytest.approx(1, abs=1e-6)


def test_attention_entropy_scopes_and_ties():
    batch = rollouts([2, 2, 1], [1.0, 0.0, 1.0], [0, 0, 1], {"attention_entropy": [[0.1, 0.1], [0.1, 0.5], [0.9]]})
    weigh = {"eta": 0.5, "end": 1.0}
    by_batch = apply("attention_entropy", {**weigh, "scope": "batch"}, ones(batch), batch).advantages
    assert torch.allclose(by_batch, pad([[1.2, 1.2], [1.2, 0.8], [0.6]]))  # u = .3 .3 .3 .7 .9
    by_group = apply("attention_entropy", {**weigh, "scope": "group"}, ones(batch), batch).advantages
    assert torch.allclose(by_group, pad([[1.125, 1.125], [1.125, 0.625], [1.0]]))
    by_response = apply("attention_entropy", {**weigh, "scope": "response"}, ones(batch), batch).advantages
    assert torch.allclose(by_response, pad([[1, 1], [1.25, 0.75], [1]]))


def test_attention_entropy_variants():
    batch = rollouts([4, 1], [1.0, 0.0], signals={"attention_entropy": [[0.2, 0.4, 0.6, 1.0], [0.2]]})
    value = apply("attention_entropy", {"eta": 0.5, "form": "value"}, ones(batch), batch, 100).advantages
    assert torch.allclose(value, pad([[0.5, 0.75, 1.0, 1.5], [0.5]]), atol=1e-6)
    normalised = apply(
        "attention_entropy", {"eta": 0.5, "form": "value", "self_normalised": True}, ones(batch), batch, 100
    )
    assert normalised.advantages[batch.mask].mean().item() == pytest.approx(1, abs=1e-6)
    one_sided = apply("attention_entropy", {"eta": 0.5, "one_sided": True}, ones(batch), batch, 100).advantages
    assert torch.allclose(one_sided, pad([[1, 1, 1.2, 1.4], [1]]), atol=1e-6)
    alike = batch.with_signals({"attention_entropy": torch.full((2, 4), 0.3)})
    assert torch.equal(apply("attention_entropy", {"form": "value"}, ones(batch), alike).advantages, batch.mask.float())


@pytest.mark.parametrize(("mode", "kept"), [("anchor", [0, 1]), ("explorer", [2, 3])])
def test_attention_entropy_hard_modes(mode, kept):
    batch = rollouts([4], [1.0], signals={"attention_entropy": [E]})
    credit = apply("attention_entropy", {"mode": mode, "rho": 0.5}, ones(batch), batch)
    assert credit.loss_mask[0].nonzero()[:, 0].tolist() == kept
    alike = batch.with_signals({"attention_entropy": torch.full((1, 4), 0.3)})
    credit = apply("attention_entropy", {"mode": mode, "rho": 0.2, "normalizer": "all"}, ones(batch), alike)
    assert (credit.advantages != 0).sum().item() == 1
    assert credit.loss_mask.sum().item() == 4


def test_attention_entropy_random_mode_is_seeded_per_step():
    batch = rollouts([50, 30], [1.0, 0.0])
    fields = {"mode": "random", "rho": 0.25}
    first = apply("attention_entropy", fields, ones(batch), batch, 3)
    assert first.loss_mask.sum().item() == 20
    assert torch.equal(apply("attention_entropy", fields, ones(batch), batch, 3).loss_mask, first.loss_mask)
    assert not torch.equal(apply("attention_entropy", fields, ones(batch), batch, 4).loss_mask, first.loss_mask)


# divergence_weight

OLD, NEW = [0.5, 0.8, 0.1, 0.05, 0.9, 0.2], [0.59, 0.82, 0.16, 0.08, 0.95, 0.1]


@pytest.mark.parametrize(
    ("alpha", "expected"),
    [
        (10, [1.036151, 1.000768, 1.285829, 1.285829, 1.003721, 1.373412]),
        (-10, [0.963849, 0.999232, 0.714171, 0.714171, 0.996279, 0.626588]),
        (1, [1.003621, 1.000077, 1.032453, 1.032453, 1.000372, 1.048137]),
    ],
)
def test_divergence_weight(alpha, expected):
    batch = rollouts([6], [1.0], old=[OLD])
    pipeline = Pipeline(["grpo", {"divergence_weight": {"alpha": alpha}}])
    credit = Credit(torch.ones(1, 6), batch.mask)
    after = pipeline.at_update(credit, batch, torch.tensor([NEW]).log(), None)
    assert torch.allclose(after.advantages, torch.tensor([expected]), atol=1e-5)


def test_divergence_weight_is_one_where_nothing_moved():
    batch = rollouts([6, 2], [1.0, 0.0], old=[OLD, [0.3, 0.4]])
    for fields, logprobs in (
        ({}, batch.old_logprobs),
        ({"alpha": 0}, torch.randn(2, 6)),
        ({"s": 0}, torch.randn(2, 6)),
    ):
        pipeline = Pipeline(["grpo", {"divergence_weight": fields}])
        credit = pipeline(batch)
        assert torch.equal(pipeline.at_update(credit, batch, logprobs, None).advantages, credit.advantages)
    pipeline = Pipeline(["grpo", {"divergence_weight": {}}])
    on_policy = batch.replace(old_logprobs=None)
    assert torch.equal(pipeline.at_update(credit, on_policy, torch.randn(2, 6), None).advantages, credit.advantages)


def test_divergence_weight_saturates_and_can_keep_the_step():
    batch = rollouts([2], [1.0], old=[[1e-12, 0.5]])
    credit = Credit(torch.ones(1, 2), batch.mask)
    logprobs = torch.tensor([[0.0, -0.2]])
    after = Pipeline(["grpo", "divergence_weight"]).at_update(credit, batch, logprobs, None)
    assert after.advantages[0, 0].item() == pytest.approx(1.5)
    even = Pipeline(["grpo", {"divergence_weight": {"self_normalised": True}}]).at_update(credit, batch, logprobs, None)
    assert even.advantages.mean().item() == pytest.approx(1.0)


def test_divergence_weight_against_the_base_model():
    k3 = [0.014486, 0.000307, 0.129996, 0.129996, 0.001488, 0.193147]
    batch = rollouts([6], [1.0], signals={"divergence": [k3]})
    method = build("credit", {"divergence_weight": {"against": "base"}})
    assert method.needs().signals == ("divergence",)
    credit = method(ones(batch), batch, Step())
    assert torch.allclose(
        credit.advantages, torch.tensor([[1.036151, 1.000768, 1.285829, 1.285829, 1.003721, 1.373412]]), atol=1e-5
    )
    assert torch.equal(method.at_update(credit, batch, torch.randn(1, 6), None).advantages, credit.advantages)


def test_a_signal_that_is_not_finite_is_named():
    batch = rollouts([2], [1.0], signals={"entropy": [[0.1, float("nan")]]})
    with pytest.raises(ValueError, match="signal 'entropy' is nan at response 0, token 1"):
        apply("forking_tokens", {}, ones(batch), batch)
    with pytest.raises(ValueError, match=r"signal 'entropy' must have shape \[1, 2\], got \[1, 3\]"):
        apply("forking_tokens", {}, ones(batch), batch.with_signals({"entropy": torch.zeros(1, 3)}))
    with pytest.raises(ValueError, match="signal 'entropy' is missing"):
        apply("forking_tokens", {}, ones(batch), rollouts([2], [1.0]))
