"""The penalty: worked numbers, identity with GRPO, and what it must not depend on."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmcredit import Objective, Rollouts, assign_credit
from mmcredit.components import build, lookup
from prm import components as prm_components

MASK = torch.zeros(27, dtype=torch.bool)
MASK[1:6] = MASK[7:15] = True


def desk(rewards=(1.0, 0.0, 1.0, 0.0), flagged=(0, 1)):
    """The spec's response of 27 tokens, one per reward; the rows `flagged` have its 13 flagged tokens."""
    n = len(rewards)
    signal = torch.zeros(n, 27, dtype=torch.bool)
    signal[list(flagged)] = MASK
    return Rollouts(
        tokens=torch.arange(27).expand(n, 27).contiguous(),
        mask=torch.ones(n, 27, dtype=torch.bool),
        group=torch.zeros(n, dtype=torch.int64),
        rewards=torch.tensor(rewards),
        signals={"hallucinated": signal},
    )


def advantages(rollouts, **fields):
    return assign_credit(rollouts, ["grpo", {"perceval": fields}]).advantages


def test_worked_numbers():
    found = advantages(desk(), alpha=0.1)
    assert found[0, 0].item() == pytest.approx(0.866024, abs=1e-6)
    assert found[0, 1].item() == pytest.approx(0.779422, abs=1e-6)
    assert found[0].sum().item() == pytest.approx(22.256817, abs=1e-4)
    assert found[1, 0].item() == pytest.approx(-0.866024, abs=1e-6)
    assert found[1, 1].item() == pytest.approx(-0.952626, abs=1e-6)
    assert torch.equal(found[2:], assign_credit(desk(), ["grpo"]).advantages[2:])


@pytest.mark.parametrize(
    ("rewards", "values"),
    [
        ((1.0, *[0.0] * 7), (2.474867, -0.353552)),
        ((1.0, 1.0, 1.0, 0.0), (0.499999, -1.499997)),
        ((1.0,) * 4, (0.0, 0.0)),
        ((0.0,) * 4, (0.0, 0.0)),
    ],
)
def test_other_groups(rewards, values):
    rollouts = desk(rewards, flagged=range(len(rewards)))
    found = advantages(rollouts)
    for row, value in ((0, values[0]), (-1, values[1])):
        assert found[row, 0].item() == pytest.approx(value, abs=1e-6)
        assert found[row, 1].item() == pytest.approx(value - 0.1 * abs(value), abs=1e-6)


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_alpha_zero_or_nothing_flagged_is_grpo_bit_for_bit(data):
    b, t = data.draw(st.integers(1, 8)), data.draw(st.integers(1, 9))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 10**6)))
    mask = torch.rand(b, t, generator=generator) < 0.8
    signal = torch.rand(b, t, generator=generator) < 0.3
    rollouts = Rollouts(
        tokens=torch.randint(0, 50, (b, t), generator=generator),
        mask=mask,
        group=torch.randint(0, 3, (b,), generator=generator),
        rewards=torch.rand(b, generator=generator).round(decimals=1),
        signals={"hallucinated": signal},
    )
    plain = assign_credit(rollouts, ["grpo"])
    for fields, marks in (({"alpha": 0.0}, signal), ({"alpha": 0.7, "a_min": 0.5}, torch.zeros_like(signal))):
        same = assign_credit(rollouts.with_signals({"hallucinated": marks}), ["grpo", {"perceval": fields}])
        assert torch.equal(same.advantages, plain.advantages)
        assert torch.equal(same.loss_mask, plain.loss_mask)
    penalised = assign_credit(rollouts, ["grpo", {"perceval": {"alpha": 1.0}}]).advantages
    assert bool((penalised * plain.advantages >= 0).all())  # the sign never turns
    assert torch.equal(penalised[~signal], plain.advantages[~signal])
    assert not penalised[~mask].any()


def test_additive_variant_reaches_groups_of_one_reward():
    same = desk((1.0,) * 4, flagged=(0,))
    assert not advantages(same, alpha=0.5).any()
    found = advantages(same, alpha=0.5, a_min=0.2)
    assert torch.equal(found[0], torch.where(MASK, torch.tensor(-0.1), torch.tensor(0.0)))
    large = advantages(desk(), alpha=0.1, a_min=0.2)
    assert torch.equal(large, advantages(desk(), alpha=0.1))  # |A| above a_min: the paper's form


def test_switches():
    plain = assign_credit(desk(), ["grpo"]).advantages
    suffix = advantages(desk(), mask="suffix")
    assert torch.equal(suffix[:2, :1], plain[:2, :1])
    assert torch.equal(suffix[0, 1:], plain[0, 1:] - 0.1 * plain[0, 1:])
    positive, negative = advantages(desk(), sign="positive"), advantages(desk(), sign="negative")
    assert torch.equal(positive[1], plain[1])
    assert positive[0, 1] < plain[0, 1]
    assert torch.equal(negative[0], plain[0])
    assert negative[1, 1] < plain[1, 1]


def test_padding_order_and_tokens_outside_the_mask():
    rollouts = desk()
    wide = Rollouts(
        tokens=torch.cat([rollouts.tokens, torch.full((4, 3), 7)], 1),
        mask=torch.cat([rollouts.mask, torch.zeros(4, 3, dtype=torch.bool)], 1),
        group=rollouts.group,
        rewards=rollouts.rewards,
        signals={"hallucinated": torch.cat([rollouts.signal("hallucinated"), torch.ones(4, 3, dtype=torch.bool)], 1)},
    )
    found = advantages(wide)
    assert torch.equal(found[:, :27], advantages(rollouts))
    assert not found[:, 27:].any()
    order = [2, 0, 3, 1]
    torch.testing.assert_close(advantages(rollouts.select(order)), advantages(rollouts)[order])


def test_bad_signal_and_contract():
    method = build("credit", "perceval")
    assert method.needs().signals == ("hallucinated",)
    with pytest.raises(ValueError, match="hallucinated"):
        assign_credit(desk().replace(signals={}), ["grpo", "perceval"])
    with pytest.raises(ValueError, match="must be bool"):
        assign_credit(desk().with_signals({"hallucinated": torch.zeros(4, 27)}), ["grpo", "perceval"])
    with pytest.raises(ValueError, match="alpha"):
        build("credit", {"perceval": {"alpha": 1.5}})
    assert lookup("credit", "perceval") is prm_components.Perceval


def test_notes_split_the_mask_by_reward():
    notes = assign_credit(desk(), ["grpo", "perceval"]).trace[-1].notes
    assert notes["masked_share"] == pytest.approx(26 / 108)
    assert notes["masked_share_above_mean_reward"] == pytest.approx(13 / 54)
    assert notes["responses_penalised"] == 2


@pytest.mark.parametrize(
    ("advantage", "ratio", "loss"),
    [
        (0.866024, 1.3, -1.108511),
        (0.779422, 1.3, -0.997660),
        (-0.866024, 0.7, 0.692819),
        (-0.952626, 0.7, 0.762101),
        (-0.952626, 4.0, 2.857878),
    ],
)
def test_loss_terms_of_the_release(advantage, ratio, loss):
    """Clip .2/.28 with dual clip 3, on one token."""
    from mmcredit import Credit

    rollouts = Rollouts(
        tokens=torch.zeros(1, 1, dtype=torch.int64),
        mask=torch.ones(1, 1, dtype=torch.bool),
        group=torch.zeros(1, dtype=torch.int64),
        rewards=torch.ones(1, dtype=torch.float64),
        old_logprobs=torch.full((1, 1), -1.0, dtype=torch.float64),
    )
    credit = Credit(torch.full((1, 1), advantage, dtype=torch.float64), rollouts.mask)
    objective = Objective(ratio="token", clip={"low": 0.2, "high": 0.28, "dual": 3.0}, aggregate="token_mean")
    logprobs = (rollouts.old_logprobs + torch.tensor(ratio, dtype=torch.float64).log()).requires_grad_()
    assert objective(logprobs, rollouts, credit).loss.item() == pytest.approx(loss, abs=1e-6)


def test_k3_of_the_release():
    from mmcredit.credit.tokens import k3

    assert k3(torch.tensor(-1.2 - -1.0, dtype=torch.float64)).item() == pytest.approx(0.0187308, abs=1e-7)
