"""Preference losses: the specs' worked numbers, gradients, identities with DPO, token weights."""

import math

import pytest
import torch

from mmcredit.components import build
from mmcredit.preference.base import Side, weighted_dpo
from mmcredit.preference.losses.t_reg import contrast_rewards, simpo_reg_loss, t_reg_loss
from mmcredit.preference.losses.tab_po import confidence_gated_nll, normalised, tab_po_loss
from mmcredit.preference.losses.tgdpo import factors, tgdpo_loss, token_rewards
from mmcredit.preference.token_weights import common, diff_weights, value_weights


def t(*values, grad=False):
    return torch.tensor(values, dtype=torch.float64, requires_grad=grad)


WORKED = {
    "logp_w": t(-1.0, -0.5, -2.0), "ref_w": t(-1.2, -0.5, -1.8), "logp_l": t(-0.7, -1.5), "ref_l": t(-0.9, -1.1),
}  # fmt: skip


def leaves():
    return {name: value.clone().requires_grad_(name.startswith("logp")) for name, value in WORKED.items()}


def test_dpo_worked_numbers():
    x = leaves()
    loss = weighted_dpo(x["logp_w"], x["ref_w"], None, x["logp_l"], x["ref_l"], None, 0.1)
    assert float(loss) == pytest.approx(0.68319718, abs=1e-8)
    loss.backward()
    torch.testing.assert_close(x["logp_w"].grad, t(*[-0.1 * torch.sigmoid(t(-0.02)).item()] * 3))


def test_tgdpo_worked_numbers_and_gradients():
    r_w = token_rewards(t(-0.8, -0.9, -1.8), WORKED["ref_w"], 0.1)
    r_l = token_rewards(t(-1.9, -0.6), WORKED["ref_l"], 0.1)
    torch.testing.assert_close(r_w, t(0.04, -0.04, 0))
    torch.testing.assert_close(r_l, t(-0.10, 0.05))
    torch.testing.assert_close(factors(r_w, 0.5, chosen=True), t(1.02, 0.98, 1.0))
    torch.testing.assert_close(factors(r_l, 0.5, chosen=False), t(1.05, 0.975))
    x = leaves()
    loss = tgdpo_loss(x["logp_w"], x["ref_w"], r_w, x["logp_l"], x["ref_l"], r_l, 0.1, 0.5)
    assert float(loss) == pytest.approx(0.68398950, abs=1e-8)
    loss.backward()
    torch.testing.assert_close(x["logp_w"].grad, t(-0.050531, -0.048549, -0.049540), atol=1e-6, rtol=0)
    torch.testing.assert_close(x["logp_l"].grad, t(0.052017, 0.048302), atol=1e-6, rtol=0)
    stress = tgdpo_loss(x["logp_w"], x["ref_w"], r_w, x["logp_l"], x["ref_l"], r_l, 0.1, 20)
    assert float(stress) == pytest.approx(0.71538916, abs=1e-8)
    torch.testing.assert_close(factors(r_l, 20, chosen=False, f_min=0.1), t(3.0, 0.1))


def test_t_reg_worked_numbers_gradients_and_simpo():
    r_w = contrast_rewards(t(-0.9, -0.6, -2.2), t(-1.6, -0.6, -1.7))
    r_l = contrast_rewards(t(-1.4, -1.0), t(-0.8, -1.6))
    torch.testing.assert_close(r_w, t(0.16818777, 0, -0.12245933), atol=1e-8, rtol=0)
    torch.testing.assert_close(r_l, t(-0.14565631, 0.14565631), atol=1e-8, rtol=0)
    x = leaves()
    loss = t_reg_loss(x["logp_w"], x["ref_w"], r_w, x["logp_l"], x["ref_l"], r_l, 0.1, 0.25)
    assert float(loss) == pytest.approx(0.68368963, abs=1e-8)
    loss.backward()
    torch.testing.assert_close(x["logp_w"].grad, t(-0.051581, -0.049500, -0.047985), atol=1e-6, rtol=0)
    torch.testing.assert_close(x["logp_l"].grad, t(0.051303, 0.047698), atol=1e-6, rtol=0)
    w = 0.49500017  # the closed form: DPO's gradient times 1 + alpha r, 1 - alpha r
    torch.testing.assert_close(x["logp_w"].grad, -0.1 * w * (1 + 0.25 * r_w), atol=1e-7, rtol=0)
    simpo = simpo_reg_loss(WORKED["logp_w"], r_w, WORKED["logp_l"], r_l, 2.0, 0.25, 0.5)
    assert float(simpo) == pytest.approx(1.42481006, abs=1e-8)
    assert float(simpo_reg_loss(WORKED["logp_w"], r_w, WORKED["logp_l"], r_l, 2.0, 0.0, 0.5)) == pytest.approx(
        1.41244751, abs=1e-8
    )


TAB = {
    "logp_w": (-0.05, -0.10, -1.20, -0.02, -0.50), "logp_l": (-0.05, -0.10, -0.90, -0.02, -0.60),
    "ref_w": (-0.05, -0.12, -1.00, -0.02, -0.55), "ref_l": (-0.05, -0.12, -0.80, -0.02, -0.55),
}  # fmt: skip


def test_tab_po_worked_numbers_and_gradients():
    w = t(1, 1.1, 1.44, 1, 1.1)
    torch.testing.assert_close(normalised(w), t(0.886525, 0.975177, 1.276596, 0.886525, 0.975177), atol=1e-6, rtol=0)
    chosen, rejected = t(*TAB["logp_w"], grad=True), t(*TAB["logp_l"], grad=True)
    args = (chosen, t(*TAB["ref_w"]), w, rejected, t(*TAB["ref_l"]), w, 0.5, 0.66)
    loss = tab_po_loss(*args, 0.5)
    assert float(loss) == pytest.approx(1.14308061, abs=1e-8)
    loss.backward()
    torch.testing.assert_close(
        chosen.grad, t(-0.04439304, -0.04883235, -0.34739055, -0.04439304, -0.26536778), atol=1e-8, rtol=0
    )
    torch.testing.assert_close(
        rejected.grad, t(0.04439304, 0.04883235, 0.06392598, 0.04439304, 0.04883235), atol=1e-8, rtol=0
    )
    assert float(tab_po_loss(*args, 0.0)) == pytest.approx(0.69465541, abs=1e-8)
    assert float(tab_po_loss(*args, 0.5, reduction="sum")) == pytest.approx(1.11814718, abs=1e-8)
    assert float(confidence_gated_nll(chosen, normalised(w), 0.66)) == pytest.approx(0.89685039, abs=1e-8)
    # One gated token below weight 1 is under-normalised, as in the public code; none gives 0.
    assert float(confidence_gated_nll(t(-0.6), t(0.8865), 0.66)) == pytest.approx(0.5319, abs=1e-4)
    assert float(confidence_gated_nll(t(-0.1), t(1.0), 0.66)) == 0
    # Constant factors of the weights do nothing.
    again = tab_po_loss(chosen, args[1], 7 * w, rejected, args[4], 0.1 * w, 0.5, 0.66, 0.5)
    assert float(again) == pytest.approx(float(loss), abs=1e-12)


def test_token_weights_by_structure_and_difference():
    w, r = diff_weights([7, 8, 9, 10], [7, 8, 5, 9, 10], 1.2)
    assert w.tolist() == pytest.approx([1, 1, 1.2, 1.2])
    assert r.tolist() == pytest.approx([1, 1, 1.2, 1.2, 1])
    w, r = diff_weights([7, 8, 9, 10], [7, 8, 5, 9, 10], 1.2, "lcs")
    assert w.tolist() == pytest.approx([1, 1, 1, 1])
    assert r.tolist() == pytest.approx([1, 1, 1.2, 1, 1])
    assert common([1, 2, 3, 4], [2, 9, 4, 5]) == ([1, 3], [0, 2])
    text = '{"Code": "a b", "Span": "say a b", "x": "a"}'
    offsets = [(i, i + 1) for i in range(len(text))]
    weights = value_weights(text, offsets, {"Code": 1.1, "Span": 1.5})
    assert weights[text.index("a b")] == pytest.approx(1.1)
    assert weights[text.index("say")] == pytest.approx(1.5)
    assert weights[text.rindex("a b")] == pytest.approx(1.5)
    assert weights[text.rindex('"a"') + 1] == 1.0
    assert weights[0] == 1.0
    assert value_weights(text, [(0, 0)], {"Code": 2.0}).tolist() == [1.0]


def sides(seed=0, pairs=5, width=7):
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(2):
        lengths = torch.randint(1, width + 1, (pairs,), generator=generator)
        mask = torch.arange(width) < lengths[:, None]
        logp, ref, values = (torch.randn(pairs, width, generator=generator) for _ in range(3))
        found.append(Side((logp - 2).requires_grad_(), ref - 2, mask, values))
    return found


IDENTICAL = [
    {"tgdpo": {"alpha": 0.0}},
    {"t_reg": {"alpha": 0.0}},
    {"tab_po": {"beta": 0.1, "lam": 0.0, "reduction": "sum"}},
    {"tgdpo": {"alpha": 0.0, "signal": "entropy"}},
]


@pytest.mark.parametrize("entry", IDENTICAL, ids=lambda e: next(iter(e)))
def test_weight_zero_is_dpo_bit_for_bit(entry):
    plain, other = sides(), sides()
    expected, _ = build("preference", {"dpo": {"beta": 0.1}})(*plain)
    found, _ = build("preference", entry)(*other)
    assert torch.equal(found, expected)
    found.sum().backward()
    expected.sum().backward()
    for a, b in zip(plain, other, strict=True):
        assert torch.equal(a.logprobs.grad, b.logprobs.grad)


ENTRIES = ["dpo", {"tgdpo": {"signal": "entropy"}}, "t_reg", {"t_reg": {"base": "simpo", "beta": 2.0}}, "tab_po"]


@pytest.mark.parametrize("entry", ENTRIES, ids=str)
def test_padding_and_order_change_nothing(entry):
    loss = build("preference", entry)
    chosen, rejected = sides(1)
    expected, numbers = loss(chosen, rejected)
    expected.sum().backward()

    def odd(side):
        fill = torch.full_like(side.ref_logprobs, 3.0)
        logp = torch.where(side.mask, side.logprobs.detach(), -fill)
        # What lies behind an answer is 0 where values are concerned, and anything where log-probs are.
        wide = [torch.cat([x, 0 * x[:, :2] + 9], 1) for x in (logp, torch.where(side.mask, side.ref_logprobs, fill))]
        mask = torch.cat([side.mask, torch.zeros(5, 2, dtype=torch.bool)], 1)
        values = torch.where(mask, torch.cat([side.values, side.values[:, :2]], 1), 0.0)
        order = torch.tensor([3, 0, 4, 1, 2])
        return Side(wide[0][order].requires_grad_(), wide[1][order], mask[order], values[order])

    chosen.values[~chosen.mask] = 0
    rejected.values[~rejected.mask] = 0
    expected, numbers = loss(chosen, rejected)
    found, more = loss(odd(chosen), odd(rejected))
    torch.testing.assert_close(found, expected[[3, 0, 4, 1, 2]])
    assert numbers.keys() == more.keys()
    assert bool((chosen.logprobs.grad[~chosen.mask] == 0).all())


def test_losses_report_what_can_go_wrong():
    chosen, rejected = sides(2)
    _, numbers = build("preference", {"tgdpo": {"signal": "entropy", "alpha": 50.0}})(chosen, rejected)
    assert 0 < float(numbers["frac_f_nonpositive"].mean()) < 1
    _, numbers = build("preference", {"tab_po": {"tau": 0.999}})(chosen, rejected)
    assert float(numbers["gate_rate"].mean()) > 0.5
    for entry, told in (
        ({"tgdpo": {}}, "exactly one"),
        ({"tgdpo": {"signal": "a", "reward_model": "b"}}, "exactly one"),
        ({"tab_po": {"tau": 1.0}}, "tau"),
        ({"tab_po": {"fields": {"a": -1}}}, "negative"),
        ({"dpo": {"beta": 0}}, "beta"),
    ):
        with pytest.raises(ValueError, match=told):
            build("preference", entry)
    empty = Side(torch.zeros(1, 2, requires_grad=True), torch.zeros(1, 2), torch.zeros(1, 2, dtype=torch.bool))
    other = Side(torch.zeros(1, 2), torch.zeros(1, 2), torch.ones(1, 2, dtype=torch.bool))
    loss, _ = build("preference", "tab_po")(empty, other)
    loss.sum().backward()
    assert float(loss) == pytest.approx(math.log(2))
    assert not empty.logprobs.grad.any()


def test_gradients_by_finite_differences():
    for entry in ENTRIES:
        loss = build("preference", entry)
        chosen, rejected = (
            Side(s.logprobs.detach().double(), s.ref_logprobs.double(), s.mask, s.values.double().abs())
            for s in sides(3, pairs=2, width=3)
        )

        def run(logp, loss=loss, chosen=chosen, rejected=rejected):
            own = Side(logp, chosen.ref_logprobs, chosen.mask, chosen.values)
            return loss(own, rejected)[0].sum()

        logp = chosen.logprobs.clone().requires_grad_()
        if "t_reg" in str(entry):  # its weight is a constant, which finite differences do not know
            continue
        assert torch.autograd.gradcheck(run, (logp,), atol=1e-6)
