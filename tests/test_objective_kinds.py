"""Worked numbers, identities, invariances and gradients of the ratio, clip and aggregate kinds and the mismatch."""

import math

import pytest
import torch
from b0 import (
    LENGTHS,
    NEW,
    OLD,
    b0,
    broadcast_credit,
    gradient_of,
    in_float64,
    mask_of,
    new_logprobs,
    padded,
    rollouts_of,
)

from mmcredit import Credit, Objective, Rollouts, assign_credit
from mmcredit.components import build

CLIP_04 = {"low": 0.4, "high": 0.4}
SIGNS = [1.0, -1.0, -1.0, 1.0]
GRPO = [0.866024 * s for s in SIGNS]
RATIOS = [
    "sequence",
    {"holder": {"p": 2.0}},
    {"holder": {"p": -1.5}},
    {"holder": {"p": 1e-4}},
    {"holder": {"p": 2.0, "variant": "holder_token"}},
    {"holder": {"p": -2.0, "variant": "sequence_w_clip"}},
    "gmpo",
    "cispo",
    {"cispo": {"w_min": 0.8, "w_max": 1.28}},
    "sapo",
]
AGGREGATES = ["dapo_group", "response_mean_sum", "balanced", {"balanced": {"count_constant": False}}]


def rows(*values):
    return padded([[float(v) for v in row] for row in values], 4)


@pytest.mark.parametrize(
    ("objective", "value", "gradient"),
    [
        (
            {"ratio": "sequence", "clip": {"low": 3e-4, "high": 4e-4}, "aggregate": "seq_mean_token_mean"},
            0.01696301,
            rows([0] * 3, [0] * 2, [0.058427] * 4, [0] * 2),
        ),
        (
            {"ratio": "sequence", "clip": {"low": 0.2, "high": 0.28}, "aggregate": "seq_mean_token_mean"},
            -0.08390708,
            rows([-0.089934] * 3, [0] * 2, [0.058427] * 4, [-0.110509] * 2),
        ),
        (
            {"ratio": "sapo", "aggregate": "seq_mean_token_mean"},
            -0.12512805,
            rows(
                [-0.084473, -0.073961, -0.105671],
                [0.11417, 0.050562],
                [0.039904, 0.078547, 0.05566, 0.059375],
                [-0.118781, -0.102484],
            ),
        ),
        (
            {"ratio": "gmpo", "aggregate": "seq_mean_token_mean"},
            -0.0687716,
            rows([-0.08786, -0.08786, 0], [0.091059, 0], [0.058427] * 4, [-0.110508] * 2),
        ),
        (
            {"ratio": {"cispo": {"w_min": 0.8, "w_max": 1.28}}, "aggregate": "token_mean"},
            -0.19822902,
            rows(
                [-0.092901, -0.080698, -0.100774],
                [0.083103, 0.062984],
                [0.062984, 0.100774, 0.080979, 0.086602],
                [-0.086602, -0.074586],
            ),
        ),
    ],
)
def test_b0_with_grpo_advantages(objective, value, gradient):
    rollouts = b0()
    out, got = gradient_of(Objective(**objective), rollouts, broadcast_credit(rollouts, GRPO))
    assert out.loss.item() == pytest.approx(value, abs=1e-5)
    assert torch.allclose(got, gradient, atol=1e-5)


@pytest.mark.parametrize(
    ("objective", "value"),
    [
        ({"ratio": "sequence", "clip": {"low": 0.2, "high": 0.28}, "aggregate": "seq_mean_token_mean"}, -0.09688772),
        ({"ratio": "sequence", "clip": {"low": 3e-4, "high": 4e-4}, "aggregate": "seq_mean_token_mean"}, 0.01958723),
        ({"ratio": "sapo", "aggregate": "seq_mean_token_mean"}, -0.14448567),
        ({"ratio": "gmpo", "aggregate": "seq_mean_token_mean"}, -0.07941074),
        ({"ratio": {"gmpo": {"eps": None}}, "clip": CLIP_04, "aggregate": "seq_mean_token_mean"}, -0.07941074),
        ({"ratio": {"cispo": {"w_min": 0.8, "w_max": 1.28}}}, -0.22889555),
        ({"ratio": "cispo"}, -0.18263248),
        ({"clip": {"dcpo": {}}, "aggregate": "response_mean_sum"}, -0.39459691),
        ({"clip": {"dcpo": {}}, "aggregate": "seq_mean_token_mean"}, -0.09864923),
        ({"clip": {"dcpo": {}}, "aggregate": "token_mean"}, 0.01652351),
        ({"clip": {"low": 0.2, "high": 0.28}, "aggregate": "balanced"}, -0.021226),
    ],
)  # fmt: skip
def test_b0_with_unit_advantages(objective, value):
    rollouts = b0()
    out, _ = gradient_of(Objective(**objective), rollouts, broadcast_credit(rollouts, SIGNS))
    assert out.loss.item() == pytest.approx(value, abs=1e-5)


def test_sequence_ratios_of_b0():
    rollouts = b0()
    loss = Objective(ratio="sequence").policy_loss(new_logprobs(), rollouts, broadcast_credit(rollouts, SIGNS))
    expected = torch.tensor([1.246164, 0.726483, 1.079449, 1.020836])
    assert torch.allclose(loss.ratio[:, 0], expected, atol=1e-5)
    loss = Objective(ratio="gmpo").policy_loss(new_logprobs(), rollouts, broadcast_credit(rollouts, SIGNS))
    assert torch.allclose(loss.ratio[:, 0], torch.tensor([1.217422, 0.841166, 1.079449, 1.020836]), atol=1e-5)


def test_two_prompts_under_the_paper_form_of_dapo():
    rollouts = b0(group=(0, 0, 1, 1))
    objective = Objective(clip={"low": 0.2, "high": 0.28}, aggregate="dapo_group")
    out, _ = gradient_of(objective, rollouts, broadcast_credit(rollouts, SIGNS))
    assert out.loss.item() == pytest.approx(0.043822, abs=1e-5)


def test_otm_gradient_and_dcpo_bounds_of_b0():
    rollouts = b0()
    objective = Objective(clip={"dcpo": {}}, aggregate="response_mean_sum")
    low, high = objective.clip.bounds(rollouts, rollouts.old_logprobs)
    expected_low = rows([0.5, 0.723607, 0.5], [0.768742, 0.5], [0.5, 0.5, 0.646385, 0.5], [0.5, 0.78562])
    expected_high = rows(
        [1.306226, 1.207107, 2], [1.187184, 1.618034], [1.263763, 2.561553, 1.231925, 1.366025], [1.457427, 1.178621]
    )
    assert torch.allclose((1 - low)[rollouts.mask], expected_low[rollouts.mask], atol=1e-5)
    assert torch.allclose((1 + high)[rollouts.mask], expected_high[rollouts.mask], atol=1e-5)
    out, gradient = gradient_of(objective, rollouts, broadcast_credit(rollouts, SIGNS))
    expected = rows(
        [-0.393333, -0.341667, -0.533333], [0.527778, 0.25], [0.1875, 0.4, 0.257143, 0.275], [-0.55, -0.473684]
    )
    assert torch.allclose(gradient, expected, atol=1e-5)
    assert out.metrics["clip_low_fraction"] == out.metrics["clip_high_fraction"] == 0.0


@pytest.mark.parametrize(
    ("q", "low", "high"),
    [
        (1.0, 0.8, 1.17082),
        (0.9, 0.768742, 1.187184),
        (0.833333, 0.740832, 1.2),
        (0.64, 0.5, 1.25),
        (0.5, 0.5, 1.306226),
        (0.3, 0.5, 1.457427),
        (0.1, 0.5, 2.0),
        (0.05, 0.5, 2.561553),
        (0.01, 0.5, 5.0),
        (0.002, 0.5, 10.0),
        (1e-44, 0.5, 10.0),
        (0.0, 0.5, 10.0),
    ],
)
def test_dcpo_bounds(q, low, high):
    rollouts = rollouts_of([0.0], [1])
    got_low, got_high = build("clip", "dcpo").bounds(rollouts, torch.tensor([[q]]).log())
    assert 1 - got_low.item() == pytest.approx(low, abs=1e-5)
    assert 1 + got_high.item() == pytest.approx(high, abs=1e-5)
    if q > 0.65:
        assert abs((low - 1) * low * q) == pytest.approx(0.16, abs=1e-5)  # |(r-1) p| = eps at the bound
    if q > 0.003:
        assert (high - 1) * high * q == pytest.approx(0.2, abs=1e-5)


@pytest.mark.parametrize(
    ("q", "p", "advantage", "expected"),
    [(0.9, 0.65, -1.0, 0.768742), (0.01, 0.08, 1.0, -5.0), (0.001, 0.02, -1.0, 10.0)],
)
def test_dcpo_clip_cases(q, p, advantage, expected):
    rollouts = rollouts_of([0.0], [1], old_logprobs=torch.tensor([[q]]).log())
    logprobs = torch.tensor([[p]]).log().requires_grad_(True)
    out, gradient = gradient_of(
        Objective(clip={"dcpo": {}}), rollouts, broadcast_credit(rollouts, [advantage]), logprobs
    )
    assert out.loss.item() == pytest.approx(expected, abs=1e-5)
    assert gradient.item() == 0.0


def test_identities_between_ratios():
    rollouts = b0()
    credit = broadcast_credit(rollouts, SIGNS)
    pairs = [
        ("sequence", {"holder": {"p": 0.0}}),  # GSPO is the geometric power mean
        ({"holder": {"p": 1.0, "variant": "holder_token"}}, "token"),  # arithmetic mean of clipped ratios is GRPO
    ]
    for one, other in pairs:
        first = gradient_of(Objective(ratio=one, aggregate="seq_mean_token_mean"), rollouts, credit)
        second = gradient_of(Objective(ratio=other, aggregate="seq_mean_token_mean"), rollouts, credit)
        assert first[0].loss.item() == pytest.approx(second[0].loss.item(), abs=1e-6)
        assert torch.allclose(first[1], second[1], atol=1e-6)


@pytest.mark.parametrize("ratio", RATIOS)
def test_on_policy_gradient_is_minus_advantage_times_weight(ratio):
    rollouts = b0()
    credit = Credit(torch.randn(4, 4) * rollouts.mask, rollouts.mask)
    for reference in (rollouts.old_logprobs, None):  # recomputed, and left out because the update is on-policy
        logprobs = rollouts.old_logprobs.clone().requires_grad_(True)
        objective = Objective(ratio=ratio, aggregate="token_mean")
        _, gradient = gradient_of(objective, rollouts.replace(old_logprobs=reference), credit, logprobs)
        assert torch.allclose(gradient, -credit.advantages * objective.weights(rollouts, credit), atol=1e-6)


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("aggregate", ["token_mean", "seq_mean_token_mean", *AGGREGATES])
def test_split_order_and_padding_change_nothing(ratio, aggregate):
    rollouts = b0(group=(0, 0, 1, 1), sampler_logprobs=torch.tensor(OLD).log() + 0.1 * torch.randn(4, 4))
    credit = Credit(torch.randn(4, 4) * rollouts.mask, rollouts.mask)
    for mismatch in (None, "token_tis", "sequence_mask"):
        objective = Objective(
            ratio=ratio, aggregate=aggregate, clip={"low": 0.3, "high": 0.3, "dual": 3.0}, mismatch=mismatch
        )
        logprobs = new_logprobs()
        whole, gradient = gradient_of(objective, rollouts, credit, logprobs)
        weights = objective.weights(rollouts, credit)
        junk = rollouts.replace(
            old_logprobs=torch.where(rollouts.mask, rollouts.old_logprobs, torch.nan),
            sampler_logprobs=torch.where(rollouts.mask, rollouts.sampler_logprobs, torch.inf),
        )
        garbage = torch.where(rollouts.mask, logprobs, -torch.inf)
        total, parts = torch.zeros(()), torch.zeros(4, 4)
        for part in ([3, 0], [2], [1]):  # out of order, in unequal micro-batches, with rubbish in the padding
            out = objective(garbage[part], junk.select(part), credit.select(part), weights=weights[part])
            total = total + out.loss.detach()
            parts = parts + torch.autograd.grad(out.loss, logprobs, retain_graph=True)[0]
        assert torch.allclose(total, whole.loss, atol=1e-5)
        assert torch.allclose(parts, gradient, atol=1e-5)
        wide = torch.nn.functional.pad(logprobs.detach(), (0, 3), value=-7.0).requires_grad_(True)
        wider = Rollouts(
            *(torch.nn.functional.pad(x, (0, 3)) for x in (rollouts.tokens, rollouts.mask)),
            rollouts.group,
            rollouts.rewards,
            old_logprobs=torch.nn.functional.pad(rollouts.old_logprobs, (0, 3), value=3.0),
            sampler_logprobs=torch.nn.functional.pad(rollouts.sampler_logprobs, (0, 3), value=1.0),
        )
        wide_credit = Credit(torch.nn.functional.pad(credit.advantages, (0, 3)), wider.mask)
        out, wide_gradient = gradient_of(objective, wider, wide_credit, wide)
        assert out.loss.item() == pytest.approx(whole.loss.item(), abs=1e-5)
        assert torch.allclose(wide_gradient[:, :4], gradient, atol=1e-5)
        assert bool((wide_gradient[:, 4:] == 0).all())


# Not CISPO: its weight is detached by definition, so its gradient is not that of its value.
@pytest.mark.parametrize("ratio", [r for r in RATIOS if "cispo" not in r])
@pytest.mark.parametrize("aggregate", ["token_mean", "seq_mean_token_mean", "balanced"])
def test_gradients_by_finite_differences(ratio, aggregate):
    rollouts = in_float64(b0())
    credit = broadcast_credit(rollouts, SIGNS)  # token forms have the sequence's value only for broadcast advantages
    objective = Objective(ratio=ratio, aggregate=aggregate, clip={"low": 0.2, "high": 0.28, "dual": 3.0})

    def loss(logprobs):
        return objective(logprobs, rollouts, credit, progress=0.2).loss

    assert torch.autograd.gradcheck(loss, new_logprobs(torch.float64))


@pytest.mark.parametrize("ratio", ["sequence", "gmpo", {"holder": {"p": 2.0}}])
def test_token_advantages_weigh_their_tokens_part_of_the_sequence_gradient(ratio):
    rollouts = b0()
    objective = Objective(ratio=ratio, clip={"low": 0.9, "high": 9.0}, aggregate="seq_mean_token_mean")
    if ratio == "gmpo":
        objective = Objective(ratio={"gmpo": {"eps": 5.0}}, aggregate="seq_mean_token_mean")
    _, plain = gradient_of(objective, rollouts, broadcast_credit(rollouts, [1.0] * 4))
    factors = torch.rand(4, 4) + 0.5
    _, shaped = gradient_of(objective, rollouts, Credit(factors * rollouts.mask, rollouts.mask))
    assert torch.allclose(shaped, plain * factors, atol=1e-6)


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_empty_responses_and_an_empty_loss(ratio, aggregate):
    rollouts = rollouts_of([1.0, 0.0, 0.5], [2, 0, 1], old_logprobs=torch.zeros(3, 2), width=2)
    objective = Objective(ratio=ratio, aggregate=aggregate)
    logprobs = torch.full((3, 2), -0.1, requires_grad=True)
    out, gradient = gradient_of(objective, rollouts, assign_credit(rollouts, ["grpo"]), logprobs)
    assert math.isfinite(out.loss.item())
    assert bool(gradient.isfinite().all())
    assert bool((gradient[1] == 0).all())
    nothing = Credit(torch.zeros(3, 2), torch.zeros(3, 2, dtype=torch.bool))
    out, gradient = gradient_of(objective, rollouts, nothing, logprobs)
    assert out.loss.item() == 0.0
    assert bool((gradient == 0).all())


@pytest.mark.parametrize("ratio", RATIOS)
def test_far_apart_policies_stay_finite(ratio):
    rollouts = rollouts_of([1.0, 0.0], [2, 2], old_logprobs=torch.tensor([[-200.0, 0.0], [0.0, -200.0]]))
    logprobs = torch.tensor([[0.0, -200.0], [-200.0, 0.0]], requires_grad=True)
    out, gradient = gradient_of(Objective(ratio=ratio), rollouts, broadcast_credit(rollouts, [1.0, -1.0]), logprobs)
    assert math.isfinite(out.loss.item())
    assert bool(gradient.isfinite().all())


def test_balanced_weights_of_b0():
    rollouts = b0()
    weights = Objective(aggregate="balanced").weights(rollouts, broadcast_credit(rollouts, SIGNS))
    expected = torch.tensor([0.1, 1 / 12, 1 / 12, 0.1])[:, None] * rollouts.mask
    assert torch.allclose(weights, expected, atol=1e-6)
    rollouts = b0(rewards=(1.0, 0.0, 0.0, 0.0))
    credit = assign_credit(rollouts, [{"grpo": {"ddof": 0}}])
    assert credit.advantages[0, 0].item() == pytest.approx(1.732051, abs=1e-5)
    expected = torch.tensor([1 / 12, 0.09375, 0.09375, 0.09375])[:, None] * rollouts.mask
    objective = Objective(clip={"low": 0.2, "high": 0.28}, aggregate="balanced")
    assert torch.allclose(objective.weights(rollouts, credit), expected, atol=1e-6)
    out, _ = gradient_of(objective, rollouts, credit)
    assert out.loss.item() == pytest.approx(-0.046648, abs=1e-5)
    mass = (objective.weights(rollouts, credit) * credit.advantages.abs()).sum(1)
    assert (mass[0].item(), mass[1:].sum().item()) == pytest.approx((0.433013, 0.433013), abs=1e-5)


def test_balanced_properties():
    equal = rollouts_of([1, 0, 0, 1, 1, 0], [3] * 6, group=[0, 0, 0, 1, 1, 1])
    credit = assign_credit(equal, ["grpo"])
    for other in ("token_mean", "seq_mean_token_mean"):  # equal lengths: the three rules coincide
        assert torch.allclose(
            Objective(aggregate="balanced").weights(equal, credit), Objective(aggregate=other).weights(equal, credit)
        )
    lengths = [3, 2, 4, 2]
    double = [6, 2, 4, 4]
    one = rollouts_of([1, 0, 0, 1], lengths)
    two = rollouts_of([1, 0, 0, 1], double)
    balanced = Objective(aggregate="balanced")
    before, after = (balanced.weights(r, assign_credit(r, ["grpo"])) for r in (one, two))
    assert before.sum().item() == pytest.approx(1.0)
    assert after[0, 0].item() == pytest.approx(before[0, 0].item() / 2)
    assert after[0].sum() + after[3].sum() == pytest.approx((before[0].sum() + before[3].sum()).item())
    mixed = Credit(torch.randn(4, 4) * one.mask, one.mask)  # token advantages of mixed sign
    weights = balanced.weights(one, mixed)
    assert weights.sum().item() == pytest.approx(1.0, abs=1e-6)
    assert weights[(mixed.advantages > 0)].unique().numel() == 1
    assert weights[(mixed.advantages < 0)].unique().numel() == 1


def test_balanced_with_constant_groups_and_filtered_responses():
    rollouts = b0(rewards=(1.0, 0.0, 1.0, 1.0), group=(0, 0, 1, 1))
    credit = assign_credit(rollouts, ["grpo"])
    counted = Objective(aggregate="balanced").weights(rollouts, credit)
    left_out = Objective(aggregate={"balanced": {"count_constant": False}}).weights(rollouts, credit)
    assert torch.allclose(left_out[:2], 2 * counted[:2])
    assert bool((left_out[2:] == 0).all())
    assert counted[2:].sum().item() == pytest.approx(0.5)  # a KL term still sees the constant group
    rollouts = b0()
    dropped = rollouts.mask.clone()
    dropped[0] = False
    credit = broadcast_credit(rollouts, [0.0, -1.0, -1.0, 1.0]).replace(loss_mask=dropped)
    weights = Objective(aggregate="balanced").weights(rollouts, credit)
    assert weights[3, 0].item() == pytest.approx(1 / (4 * 2))  # G stays 4, the share of the dropped one vanishes
    assert weights.sum().item() == pytest.approx(0.75)


def test_cispo_config_error_and_mask_shapes():
    with pytest.raises(ValueError, match="w_min"):
        build("ratio", {"cispo": {"w_min": 2.0, "w_max": 1.0}})
    unbounded = build("ratio", {"cispo": {"w_max": None}})
    rollouts = b0()
    out, gradient = gradient_of(Objective(ratio=unbounded), rollouts, broadcast_credit(rollouts, SIGNS))
    expected = -torch.tensor(SIGNS)[:, None] * (torch.tensor(NEW) / torch.tensor(OLD)) / 11 * mask_of(LENGTHS)
    assert torch.allclose(gradient, expected, atol=1e-6)
    assert out.metrics["clip_high_fraction"] == 0.0


def test_a_ratio_on_its_bound_keeps_its_whole_gradient():
    rollouts = rollouts_of([0.0], [1], old_logprobs=torch.zeros(1, 1))
    for advantage in (1.0, -1.0):
        logprobs = torch.zeros(1, 1, requires_grad=True)
        credit = broadcast_credit(rollouts, [advantage])
        _, gradient = gradient_of(Objective(clip={"low": 0.0, "high": 0.0}), rollouts, credit, logprobs)
        assert gradient.item() == -advantage
