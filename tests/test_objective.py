"""Worked numbers of the objective: shared example B0 of the baseline references (4 responses of one prompt)."""

import pytest
import torch

from mmcredit import Credit, Objective, Rollouts, assign_credit

LENGTHS = [3, 2, 4, 2]
OLD = [[0.5, 0.8, 0.1, 0.5], [0.9, 0.2, 0.5, 0.5], [0.6, 0.05, 0.7, 0.4], [0.3, 0.95, 0.5, 0.5]]
NEW = [[0.59, 0.82, 0.16, 0.9], [0.95, 0.1, 0.9, 0.9], [0.45, 0.08, 0.72, 0.44], [0.33, 0.9, 0.9, 0.9]]


def b0(rewards=(1.0, 0.0, 0.0, 1.0), group=(0, 0, 0, 0)):
    mask = torch.arange(4)[None] < torch.tensor(LENGTHS)[:, None]
    return Rollouts(
        tokens=torch.ones(4, 4, dtype=torch.int64),
        mask=mask,
        group=torch.tensor(group),
        rewards=torch.tensor(rewards),
        old_logprobs=torch.tensor(OLD).log(),
    )


def new_logprobs():
    return torch.tensor(NEW).log().requires_grad_(True)


def padded(rows):
    return torch.tensor([row + [0.0] * (4 - len(row)) for row in rows])


@pytest.mark.parametrize(
    ("methods", "expected"),
    [
        (["grpo"], 0.866024),
        ([{"grpo": {"ddof": 0}}], 1.0),
        (["dr_grpo"], 0.5),
    ],
)
def test_advantages_of_b0(methods, expected):
    rollouts = b0()
    credit = assign_credit(rollouts, methods)
    signs = torch.tensor([1.0, -1.0, -1.0, 1.0])[:, None] * rollouts.mask
    assert torch.allclose(credit.advantages, expected * signs, atol=1e-5)


def test_grpo_loss_and_gradient():
    rollouts, logprobs = b0(), new_logprobs()
    out = Objective(clip={"low": 0.2, "high": 0.2}, aggregate="seq_mean_token_mean")(
        logprobs, rollouts, assign_credit(rollouts, ["grpo"])
    )
    out.loss.backward()
    assert out.loss.item() == pytest.approx(-0.0213829, abs=1e-5)
    expected = padded(
        [[-0.085159, -0.073973, 0], [0.114267, 0], [0, 0.086602, 0.055673, 0.059539], [-0.119078, -0.102555]]
    )
    assert torch.allclose(logprobs.grad, expected, atol=1e-5)


def test_dapo_loss_and_gradient():
    rollouts, logprobs = b0(), new_logprobs()
    out = Objective(clip={"low": 0.2, "high": 0.28}, aggregate="token_mean")(
        logprobs, rollouts, assign_credit(rollouts, ["grpo"])
    )
    out.loss.backward()
    assert out.loss.item() == pytest.approx(0.06705848, abs=1e-5)
    expected = padded(
        [[-0.092901, -0.080698, 0], [0.083103, 0], [0, 0.125967, 0.080979, 0.086602], [-0.086602, -0.074586]]
    )
    assert torch.allclose(logprobs.grad, expected, atol=1e-5)
    assert out.metrics["clip_low_fraction"] == pytest.approx(2 / 11)  # r = 0.5 and 0.75 with A < 0
    assert out.metrics["clip_high_fraction"] == pytest.approx(1 / 11)  # r = 1.6 with A > 0


@pytest.mark.parametrize(
    ("aggregate", "expected"),
    [
        ("token_mean", 0.0774326),
        ("seq_mean_token_mean", -0.03135756),
        ("seq_mean_token_sum", 0.21293964),
        ({"dr_grpo": {"max_length": 8}}, 0.02661746),
    ],
)
def test_aggregates(aggregate, expected):
    rollouts = b0()
    credit = assign_credit(rollouts, [{"grpo": {"ddof": 0}}])
    out = Objective(clip={"low": 0.2, "high": 0.28}, aggregate=aggregate)(new_logprobs(), rollouts, credit)
    assert out.loss.item() == pytest.approx(expected, abs=2e-6)


def test_dr_grpo_loss():
    rollouts = b0()
    out = Objective(aggregate="dr_grpo")(new_logprobs(), rollouts, assign_credit(rollouts, ["dr_grpo"]))
    assert out.loss.item() == pytest.approx(0.02911746, abs=1e-5)


@pytest.mark.parametrize(
    ("advantage", "ratio", "high", "dual", "expected"),
    [(-1.0, 5.0, 0.2, 3.0, 3.0), (-1.0, 2.0, 0.2, 3.0, 2.0), (1.0, 5.0, 0.28, 3.0, -1.28)],
)
def test_dual_clip(advantage, ratio, high, dual, expected):
    one = torch.ones(1, 1, dtype=torch.bool)
    rollouts = Rollouts(
        torch.ones(1, 1, dtype=torch.int64), one, torch.tensor([0]), torch.tensor([0.0]), old_logprobs=torch.zeros(1, 1)
    )
    logprobs = torch.full((1, 1), ratio).log().requires_grad_(True)
    out = Objective(clip={"low": 0.2, "high": high, "dual": dual})(
        logprobs, rollouts, Credit(torch.full((1, 1), advantage), one)
    )
    out.loss.backward()
    assert out.loss.item() == pytest.approx(expected, rel=1e-6)
    assert bool(logprobs.grad == 0) == (expected in (3.0, -1.28))


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [
        (
            "k1",
            [
                [0.165514, 0.024693, 0.470004],
                [0.054067, -0.693147],
                [-0.287682, 0.470004, 0.028171, 0.09531],
                [0.09531, -0.054067],
            ],
        ),
        (
            "k3",
            [
                [0.012972, 0.000302, 0.095004],
                [0.001436, 0.306853],
                [0.045651, 0.095004, 0.000393, 0.004401],
                [0.004401, 0.001488],
            ],
        ),
    ],
)
def test_kl_estimators(estimator, expected):
    rollouts = b0()
    credit = assign_credit(rollouts, ["grpo"]).scale(torch.zeros(4, 4))
    objective = Objective(regularizers=[{"kl": {"coef": 2.0, "estimator": estimator}}], aggregate="token_mean")
    out = objective(new_logprobs(), rollouts, credit, {"ref_logprobs": rollouts.old_logprobs})
    assert out.loss.item() == pytest.approx(2.0 * padded(expected).sum().item() / 11, abs=1e-5)


def test_kl_weighed_by_the_ratio_is_unbiased():
    """Under an older sampler q, E_q[r k3] and its gradient are those of KL(pi || ref); without r they are not."""
    old, ref = (torch.tensor(p).log() for p in ([0.5, 0.3, 0.2], [0.2, 0.5, 0.3]))
    logits = torch.tensor([0.9, -0.4, 0.3], requires_grad=True)
    log_p = logits.log_softmax(0)
    exact = (log_p.exp() * (log_p - ref)).sum()
    (true,) = torch.autograd.grad(exact, logits, retain_graph=True)
    found = {}
    for importance in (True, False):
        ones = torch.ones(3, 1, dtype=torch.int64)
        rollouts = Rollouts(ones, ones.bool(), torch.zeros(3).long(), torch.zeros(3), old_logprobs=old[:, None])
        credit = Credit(torch.zeros(3, 1), rollouts.mask)
        objective = Objective(regularizers=[{"kl": {"coef": 1.0, "importance": importance}}])
        weights = old.exp()[:, None]  # one response per token, as often as q draws it
        out = objective(log_p[:, None], rollouts, credit, {"ref_logprobs": ref[:, None]}, weights)
        found[importance] = (out.loss.item(), torch.autograd.grad(out.loss, logits, retain_graph=True)[0])
    assert found[True][0] == pytest.approx(exact.item(), abs=1e-6)
    assert torch.allclose(found[True][1], true, atol=1e-6)
    assert not torch.allclose(found[False][1], true, atol=1e-2)
    with pytest.raises(ValueError, match="importance must be false"):
        Objective(regularizers=[{"kl": {"estimator": "exact", "importance": True}}])


def test_micro_batches_add_up_and_padding_content_is_irrelevant():
    rollouts, logprobs = b0(), new_logprobs()
    for aggregate in ("token_mean", "seq_mean_token_mean", "seq_mean_token_sum", "dr_grpo"):
        objective = Objective(aggregate=aggregate, regularizers=[{"kl": {}}, {"entropy": {"coef": 0.1}}])
        credit = assign_credit(rollouts, ["grpo"])
        passes = {"ref_logprobs": torch.randn(4, 4), "entropy": torch.rand(4, 4)}
        whole = objective(logprobs, rollouts, credit, passes)
        whole_gradient = torch.autograd.grad(whole.loss, logprobs)[0]
        weights = objective.weights(rollouts, credit)
        parts = torch.zeros(())
        gradient = torch.zeros(4, 4)
        for rows in ([2], [0, 3], [1]):
            junk = torch.where(rollouts.mask, logprobs, torch.nan)
            part = objective(
                junk[rows],
                rollouts.select(rows),
                credit.select(rows),
                {k: v[rows] for k, v in passes.items()},
                weights[rows],
            )
            parts = parts + part.loss.detach()
            gradient = gradient + torch.autograd.grad(part.loss, logprobs)[0]
        assert torch.allclose(parts, whole.loss, atol=1e-6)
        assert torch.allclose(gradient, whole_gradient, atol=1e-6)


def test_one_tokens_advantage_moves_only_its_gradient():
    rollouts = b0()
    credit = assign_credit(rollouts, ["grpo"])
    changed = credit.advantages.clone()
    changed[2, 1] *= 3
    gradients = []
    for advantages in (credit.advantages, changed):
        logprobs = new_logprobs()
        Objective(clip={"low": 0.2, "high": 0.28})(
            logprobs, rollouts, credit.replace(advantages=advantages)
        ).loss.backward()
        gradients.append(logprobs.grad)
    difference = (gradients[0] - gradients[1]).abs() > 0
    assert difference.nonzero().tolist() == [[2, 1]]
    assert gradients[1][2, 1] == pytest.approx(3 * gradients[0][2, 1].item(), rel=1e-6)


def test_a_vector_of_advantages_is_refused():
    with pytest.raises(ValueError, match=r"advantages must have shape \[4, 4\], got \[4\]"):
        Credit(torch.zeros(4), torch.ones(4, 4, dtype=torch.bool))


def test_empty_loss_mask_gives_zero_loss_and_gradient():
    rollouts, logprobs = b0(), new_logprobs()
    credit = assign_credit(rollouts, ["grpo"]).replace(
        loss_mask=torch.zeros(4, 4, dtype=torch.bool), advantages=torch.zeros(4, 4)
    )
    for aggregate in ("token_mean", "seq_mean_token_mean", "seq_mean_token_sum", "dr_grpo"):
        out = Objective(aggregate=aggregate)(logprobs, rollouts, credit)
        gradient = torch.autograd.grad(out.loss, logprobs)[0]
        assert out.loss.item() == 0.0
        assert bool((gradient == 0).all())


def test_finite_difference_of_the_surrogate():
    rollouts = b0()
    rollouts = rollouts.replace(rewards=rollouts.rewards.double(), old_logprobs=rollouts.old_logprobs.double())
    credit = assign_credit(rollouts, ["grpo"])
    objective = Objective(clip={"low": 0.2, "high": 0.28, "dual": 3.0}, regularizers=[{"kl": {"coef": 0.3}}])
    reference = torch.rand(4, 4, dtype=torch.float64).log()

    def loss(logprobs):
        return objective(logprobs, rollouts, credit, {"ref_logprobs": reference}).loss

    assert torch.autograd.gradcheck(loss, torch.tensor(NEW, dtype=torch.float64).log().requires_grad_(True))
