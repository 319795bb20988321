"""Methods on token gradients and teachers: delta, opd."""

import pytest
import torch
from ragged import pad, rollouts

from mmcredit import Credit, Objective, assign_credit
from mmcredit.components import build
from mmcredit.credit import Pipeline, Step
from mmcredit.credit import delta as delta_module

HEAD = [[[1, 0], [0, 2], [1, 1]], [[1, 0], [-1, 1], [0, 0]], [[2, 2], [0, 0], [0, 0]]]
OLD = [[0.5, 0.2, 0.9], [0.5, 0.4], [0.5]]


def delta_batch():
    batch = rollouts([3, 2, 1], [1.0, 0.0, 0.5], old=OLD)
    return batch.with_signals({"head_input": torch.tensor(HEAD, dtype=torch.float32)})


def delta_credit(batch):
    return Credit(torch.tensor([[1.0], [-2.0], [0.0]]) * batch.mask, batch.mask)


def weights_of(batch, credit, **fields):
    after = build("credit", {"delta": fields})(credit, batch, Step())
    return torch.where(credit.advantages != 0, after.advantages / credit.advantages, torch.zeros(()))


def test_delta_worked_example():
    batch = delta_batch()
    credit = build("credit", "delta")(delta_credit(batch), batch, Step())
    expected = pad([[0.925709, 1.149985, 0.877498], [-2.206024, -2.323875], [0.0]])
    assert torch.allclose(credit.advantages, expected, atol=1e-5)


def test_delta_without_the_normaliser_gives_lambda():
    batch = delta_batch()
    weights = weights_of(batch, delta_credit(batch))
    ratio = weights[0, 0] / 0.947188  # lambda_hat / lambda is one number
    expected = pad([[0.947188, 1.176668, 0.897859], [1.128605, 1.188898], [0.0]])
    assert torch.allclose(weights / ratio, expected, atol=1e-5)
    assert (weights.sum() + 0.781859) / 6 == pytest.approx(1.0, abs=1e-5)


def test_delta_tokens_without_advantage_can_stay_out_of_the_normaliser():
    batch = delta_batch()
    weights = weights_of(batch, delta_credit(batch), neutral="excluded")
    assert weights.sum().item() / 5 == pytest.approx(1.0, abs=1e-6)


def squared_distance_weights(batch, credit, iterations):
    """The equations of the paper as written, on full vectors."""
    a = credit.advantages[batch.mask].double()
    v = (1 - batch.old_logprobs[batch.mask].double().exp())[:, None] * batch.signal("head_input")[batch.mask].double()
    sides = a > 0, a < 0
    centroid = [(a.abs() * s) @ v / (a.abs() * s).sum() for s in sides]

    def margin():
        plus, minus = (((v - c) ** 2).sum(1) for c in centroid)
        return torch.where(sides[0], minus - plus, plus - minus)

    def scale(g):
        gammas = [g[s].var(correction=0).clamp(min=1e-8).sqrt() for s in sides]
        return torch.where(sides[0], *gammas)

    g = margin()
    gamma = scale(g)
    for _ in range(iterations):
        alpha, gamma = torch.sigmoid(g / gamma), scale(g)
        centroid = [(alpha * a.abs() * s) @ v / (alpha * a.abs() * s).sum() for s in sides]
        g = margin()
    weight = 0.8 + 0.4 * torch.where(a != 0, torch.sigmoid(g / gamma), torch.zeros(()).double())
    out = torch.zeros(batch.mask.shape, dtype=torch.float64)
    out[batch.mask] = a * weight * len(a) / weight.sum()
    return out


@pytest.mark.parametrize("iterations", [0, 1, 3])
def test_delta_linear_form_equals_squared_distances(iterations, monkeypatch):
    monkeypatch.setattr(delta_module, "CHUNK", 7)  # several chunks, the last one short
    generator = torch.Generator().manual_seed(0)
    batch = rollouts([9, 4, 7, 5], [1.0, 0.0, 0.4, 0.5])
    batch = batch.replace(old_logprobs=-torch.rand(4, 9, generator=generator) * batch.mask)
    batch = batch.with_signals({"head_input": torch.randn(4, 9, 6, generator=generator)})
    credit = Credit(torch.tensor([[1.0], [-0.7], [0.3], [0.0]]) * batch.mask, batch.mask)
    after = build("credit", {"delta": {"iterations": iterations}})(credit, batch, Step())
    expected = squared_distance_weights(batch, credit, iterations)
    assert torch.allclose(after.advantages.double(), expected, atol=1e-5)
    # A rotation of the hidden states, and swapped sides, leave the weights alone.
    rotation = torch.linalg.qr(torch.randn(6, 6, generator=generator)).Q
    rotated = batch.with_signals({"head_input": batch.signal("head_input") @ rotation})
    again = build("credit", {"delta": {"iterations": iterations}})(credit, rotated, Step())
    assert torch.allclose(again.advantages, after.advantages, atol=1e-4)
    swapped = credit.replace(advantages=-credit.advantages)
    mirror = build("credit", {"delta": {"iterations": iterations}})(swapped, batch, Step())
    assert torch.allclose(mirror.advantages, -after.advantages, atol=1e-6)


def test_delta_identities():
    batch = delta_batch()
    credit = delta_credit(batch)
    flat = build("credit", {"delta": {"lambda_min": 1.0, "lambda_max": 1.0}})
    assert torch.equal(flat(credit, batch, Step()).advantages, credit.advantages)
    one_side = Credit(batch.mask.float(), batch.mask)
    assert torch.equal(build("credit", "delta")(one_side, batch, Step()).advantages, one_side.advantages)
    same = batch.with_signals({"head_input": torch.ones(3, 3, 2)}).replace(old_logprobs=torch.full((3, 3), -0.5))
    assert torch.allclose(weights_of(same, delta_credit(same), neutral="excluded")[:2], pad([[1, 1, 1], [1, 1]]))
    after = build("credit", "delta")(credit, batch, Step())
    assert torch.equal(after.advantages.sign(), credit.advantages.sign())


def test_delta_reads_hidden_states_of_bfloat16():
    batch = delta_batch()
    half = batch.with_signals({"head_input": batch.signal("head_input").bfloat16()})
    method = build("credit", "delta")
    both = [method(delta_credit(batch), b, Step()).advantages for b in (batch, half)]
    assert torch.allclose(*both, atol=1e-6)  # these numbers are exact in bfloat16


def test_delta_says_what_it_misses():
    batch = delta_batch()
    with pytest.raises(ValueError, match="'delta' needs old_logprobs"):
        build("credit", "delta")(delta_credit(batch), batch.replace(old_logprobs=None), Step())
    with pytest.raises(ValueError, match=r"'head_input' must have shape \[3, 3, 'd'\], got \[3, 3\]"):
        build("credit", "delta")(delta_credit(batch), batch.with_signals({"head_input": torch.ones(3, 3)}), Step())
    with pytest.raises(ValueError, match="lambda_max must be > 0"):
        build("credit", {"delta": {"lambda_min": 1.3}})


# opd

STUDENT, TEACHER, NEW = [0.5, 0.8, 0.1, 0.6], [0.7, 0.8, 0.02, 0.75], [0.59, 0.82, 0.07, 0.65]


def opd_batch(reward=-1.0):
    batch = rollouts([4], [reward], old=[STUDENT])
    return batch.with_signals({"teacher_logprobs": torch.tensor([TEACHER]).log()})


@pytest.mark.parametrize(
    ("fields", "advantages", "mean"),
    [
        ({"w_rl": 0.0}, [0.336472, 0, -1.609438, 0.223144], 0.16219356),
        ({"w_opd": 0.0}, [-1, -1, -1, -1], 1.02208333),
        ({}, [-0.663528, -1, -2.609438, -0.776856], 1.18427689),
    ],
)
def test_opd_worked_example(fields, advantages, mean):
    batch = opd_batch()
    credit = assign_credit(batch, [{"opd": {"base": "reward", **fields}}])
    assert torch.allclose(credit.advantages, pad([advantages]), atol=1e-5)
    objective = Objective(clip={"low": 0.2, "high": 0.28}, aggregate="token_mean")
    assert objective(torch.tensor([NEW]).log(), batch, credit).loss.item() == pytest.approx(mean, abs=1e-5)


def test_opd_adds_to_the_credit_before_it():
    batch = rollouts([2, 2], [1.0, 0.0], old=[[0.5, 0.5], [0.5, 0.5]])
    batch = batch.with_signals({"teacher_logprobs": torch.tensor([[0.5, 0.25], [1.0, 0.5]]).log()})
    grpo = assign_credit(batch, ["grpo"]).advantages
    credit = assign_credit(batch, ["grpo", {"opd": {"w_opd": 0.5}}])
    gap = torch.tensor([[0.0, -0.693147], [0.693147, 0.0]])
    assert torch.allclose(credit.advantages, grpo + 0.5 * gap, atol=1e-5)
    assert torch.equal(assign_credit(batch, ["grpo", {"opd": {"w_opd": 0.0}}]).advantages, grpo)


def test_opd_where_teacher_and_student_agree_there_is_no_gradient():
    batch = opd_batch(0.0)
    batch = batch.with_signals({"teacher_logprobs": batch.old_logprobs})
    credit = assign_credit(batch, [{"opd": {"base": "reward"}}])
    logprobs = torch.tensor([NEW]).log().requires_grad_(True)
    loss = Objective()(logprobs, batch, credit).loss
    loss.backward()
    assert loss.item() == 0
    assert bool((logprobs.grad == 0).all())


def test_opd_gradient_is_that_of_the_reverse_kl():
    # Expectation over the student's own distribution, one one-token response per outcome.
    logits = torch.tensor([0.3, -0.2, 0.9, 0.0], dtype=torch.float64).requires_grad_(True)
    teacher = torch.tensor([0.1, 0.5, -0.4, 0.2], dtype=torch.float64).log_softmax(0)
    student = logits.log_softmax(0)
    (student.exp() * (student - teacher)).sum().backward()
    batch = rollouts([1] * 4, [0.0] * 4)
    batch = batch.replace(rewards=batch.rewards.double(), old_logprobs=student.detach()[:, None])
    batch = batch.with_signals({"teacher_logprobs": teacher[:, None]})
    credit = assign_credit(batch, [{"opd": {"base": "reward"}}])
    fresh = logits.detach().clone().requires_grad_(True)
    weights = fresh.detach().softmax(0)[:, None]
    Objective()(fresh.log_softmax(0)[:, None], batch, credit, weights=weights).loss.backward()
    assert torch.allclose(fresh.grad, logits.grad, atol=1e-12)


def test_opd_tokens_without_a_teacher_get_no_distillation():
    batch = rollouts([3, 2, 2], [1.0, -1.0, 0.0], old=[[0.5] * 3, [0.5] * 2, [0.5] * 2])
    nan = float("nan")
    batch = batch.with_signals({"teacher_logprobs": torch.tensor([[-0.1, nan, -0.3], [nan, nan, 0], [nan, nan, 0]])})
    grpo = assign_credit(batch, ["grpo"]).advantages
    after = assign_credit(batch, ["grpo", "opd"])
    assert torch.equal(after.advantages[1:], grpo[1:])
    assert after.advantages[0, 1] == grpo[0, 1]
    assert after.trace[1].notes["tokens_without_teacher"] == 5
    alone = assign_credit(batch, [{"opd": {"base": "reward"}}])
    assert alone.loss_mask.int().tolist() == [[1, 1, 1], [1, 1, 0], [0, 0, 0]]  # no teacher and no outcome: no sample
    assert alone.advantages[1].tolist() == [-1, -1, 0]
    only = assign_credit(batch, [{"opd": {"base": "reward", "w_rl": 0.0}}])
    assert only.loss_mask.int().tolist() == [[1, 0, 1], [0, 0, 0], [0, 0, 0]]


def test_opd_cap_and_place():
    capped = assign_credit(opd_batch(), [{"opd": {"base": "reward", "a_max": 1.0}}])
    assert capped.advantages.abs().max() == 1
    with pytest.raises(ValueError, match="cannot stand first"):
        Pipeline(["opd"])
    with pytest.raises(ValueError, match="would undo"):
        Pipeline(["grpo", {"opd": {"base": "reward"}}])
    with pytest.raises(ValueError, match="'opd' needs old_logprobs"):
        assign_credit(opd_batch().replace(old_logprobs=None), ["grpo", "opd"])
