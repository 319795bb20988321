"""R2R, Arbitrage and TokenSelect: the specs' worked numbers and edge cases, on tensors alone."""

import math

import pytest
import torch
from tiny import tiny_tokenizer

from mmcredit.components import build
from mmcredit.decoding import advantage
from mmcredit.decoding.kv_select import Selector, reuses, select, soft_vote
from mmcredit.decoding.routers import (
    Router,
    RouterHead,
    StepSignals,
    aleatoric_router,
    costs,
    entropy,
    entropy_router,
    find_best_threshold,
    label,
    logu,
    pos_weight,
    sentence_ends,
)
from mmcredit.decoding.steps import annotate, split_steps, step_ids, step_places

P = torch.tensor([0.95, 0.80, 0.62, 0.41, 0.35, 0.30, 0.22, 0.15, 0.08, 0.05])
Y = torch.tensor([1, 1, 0, 1, 0, 0, 1, 0, 0, 0])


def test_r2r_thresholds_weights_and_uncertainties():
    assert find_best_threshold(P, Y, 0.75, 0.1) == pytest.approx(0.35646465, abs=1e-8)
    assert find_best_threshold(P, Y, 0.95, 0.1) == pytest.approx(0.15848485, abs=1e-8)
    assert find_best_threshold(torch.tensor([0.001, 0.002]), torch.tensor([1, 1])) == 0.5  # a router that never routes
    labels = torch.tensor([0] * 90 + [1] * 10)
    assert pos_weight(labels) == 9
    loss = torch.nn.BCEWithLogitsLoss(pos_weight=torch.tensor(9.0, dtype=torch.float64))
    minus = torch.tensor([-1.0], dtype=torch.float64)
    assert loss(minus, torch.ones_like(minus)).item() == pytest.approx(11.81935519, abs=1e-8)
    assert loss(minus, torch.zeros_like(minus)).item() == pytest.approx(0.31326169, abs=1e-8)
    with pytest.raises(ValueError, match="no label is 1"):
        pos_weight(torch.zeros(3))
    assert float(entropy(torch.tensor([2.0, 1, 0], dtype=torch.float64))) == pytest.approx(0.83239558, abs=1e-8)
    aleatoric, epistemic = logu(torch.tensor([10.0, 8, 2], dtype=torch.float64))
    assert float(aleatoric) == pytest.approx(0.89611267, abs=1e-8)
    assert float(epistemic) == pytest.approx(0.13043478, abs=1e-8)
    negative = StepSignals.of(torch.tensor([1.0, -1, 2]), torch.zeros(4), 2)
    assert negative.logits_topk.tolist() == [[2, 1, -1]]
    assert float(aleatoric_router(negative)) == math.inf
    cost = costs(26, 200, 1.5, 32)
    assert cost["average_parameters"] == pytest.approx(5.465)
    assert cost["additive_parameters"] == pytest.approx(5.66)
    pair = StepSignals(torch.tensor([[2.0, 1, 0], [9, 0, 0]]), torch.zeros(2, 4), torch.tensor([0, 0]))
    assert Router(entropy_router, 0.45).route(pair).tolist() == [True, False]
    assert [label(True), label(False, 0), label(False, 1), label(False, -1)] == [0, 0, 1, None]


def test_the_head_has_the_published_size_and_is_read_back(tmp_path):
    with torch.device("meta"):
        assert sum(p.numel() for p in RouterHead(1536).parameters()) == 56_302_081
    head = RouterHead(8, top=5, width=6, blocks=2, inner=7).eval()
    x = torch.randn(3, 8), torch.randn(3, 4), torch.randn(3, 8)  # a vocabulary under K
    head.save(tmp_path / "r", 0.3)
    again, threshold = RouterHead.load(tmp_path / "r")
    assert threshold == 0.3
    assert torch.equal(again(*x), head(*x))
    assert head(*x).shape == (3,)
    with pytest.raises(ValueError, match="no trained router"):
        RouterHead.load(tmp_path)


def test_sentence_ends_are_short_and_closed():
    tokenizer = tiny_tokenizer()
    ends = sentence_ends(tokenizer, extra=(3,))
    texts = {tokenizer.decode([i]) for i in ends}
    assert {".", "!", "?", "\n"} <= texts
    assert all(len(text) <= 4 for text in texts - {tokenizer.decode([3])})


S_D = torch.tensor([0.75, 0.35, 0.40, 0.65, 0.20, 0.50], dtype=torch.float64)
S_T = torch.tensor([0.74, 0.65, 0.40, 0.70, 0.19, 0.90], dtype=torch.float64)
Y_HAT = torch.tensor([0.30, 0.80, 0.45, 0.40, 0.55, 0.70], dtype=torch.float64)


def steps(mask):
    return (mask.nonzero()[:, 0] + 1).tolist()


def test_arbitrage_worked_numbers():
    rsd = advantage.rsd_escalates(S_D, 0.7)
    assert steps(rsd) == [2, 3, 4, 5, 6]
    assert steps(advantage.wasted(S_D, S_T, rsd)) == [3, 5]
    assert advantage.realised(S_D, S_T, rsd).sum().item() == pytest.approx(3.59)
    for tau, chosen, total in ((0.0, [2, 4, 6], 3.60), (0.1, [2, 6], 3.55)):
        oracle = advantage.oracle_escalates(S_D, S_T, tau)
        assert steps(oracle) == chosen
        assert advantage.realised(S_D, S_T, oracle).sum().item() == pytest.approx(total)
        assert not advantage.wasted(S_D, S_T, oracle).any()
    for tau, chosen, total in ((0.5, [2, 5, 6], 3.54), (0.6, [2, 6], 3.55)):
        router = advantage.router_escalates(Y_HAT, tau)
        assert steps(router) == chosen
        assert advantage.realised(S_D, S_T, router).sum().item() == pytest.approx(total)
    assert advantage.ranks(Y_HAT).tolist() == [1, 6, 3, 2, 4, 5]
    assert advantage.ranks(S_T - S_D).tolist() == [1.5, 5, 3, 4, 1.5, 6]
    assert advantage.spearman(Y_HAT, S_T - S_D) == pytest.approx(0.63774814, abs=1e-8)
    assert math.isnan(advantage.spearman(torch.ones(3), torch.arange(3)))
    kept = advantage.acceptance([20, 35, 12, 40, 18, 25], advantage.router_escalates(Y_HAT, 0.5).tolist())
    assert kept == pytest.approx((0.48, 0.50))
    assert advantage.router_probability(torch.tensor([[9.0, 9.0], [0.2, 1.4]])) == pytest.approx(0.76852478, abs=1e-7)
    assert advantage.prm_score(torch.tensor([0.0, 1.1]), [1]) == pytest.approx([0.75026011], abs=1e-7)


def test_arbitrage_ties_budgets_and_balance():
    half = torch.tensor([0.5])
    assert advantage.rsd_escalates(half, 0.5).item()  # accepted only above
    assert not advantage.oracle_escalates(half, half).item()
    assert not advantage.router_escalates(half, 0.5).item()
    assert advantage.label(0.4, 0.4) == 0
    assert steps(advantage.budgeted(S_D, S_T, 2)) == [2, 6]
    assert steps(advantage.budgeted(S_D, S_T, 6)) == [2, 4, 6]
    rows = list(range(10))
    kept = advantage.balance(rows, [0] * 7 + [1] * 3, seed=0)
    assert len(kept) == 6
    assert kept == sorted(kept)
    assert {7, 8, 9} <= set(kept)


def test_steps_are_split_annotated_and_encoded():
    tokenizer = tiny_tokenizer()
    text = "a is 2\n\nthe answer\n\n"
    assert split_steps(text) == ["a is 2", "the answer", ""]
    assert annotate(["x", "y"], [1, 0]) == ["Model 1: x", "Model 0: y"]
    ids = step_ids("what", text, tokenizer)
    end = tokenizer("\n\n", add_special_tokens=False)["input_ids"][-1]
    places = step_places("what", text, tokenizer)
    assert [ids[i] for i in places] == [end] * 3
    assert places[-1] == len(ids) - 1
    assert ids[: len(tokenizer("what\n")["input_ids"])] == tokenizer("what\n")["input_ids"]
    with pytest.raises(ValueError, match="empty"):
        split_steps("a", "")
    with pytest.raises(ValueError, match="writers"):
        annotate(["a"], [])


Q = torch.tensor([[1.0, 0], [0, 1], [2, 2], [1, -1]])
K = torch.tensor([[[1.0, 0], [0, 1]], [[0, 1], [1, 0]], [[0.5, 0.5], [2, 2]], [[-1, 1], [0, 0]], [[2, -1], [-1, 1]]])


def test_tokenselect_worked_numbers():
    torch.testing.assert_close(
        soft_vote(Q, K), torch.tensor([0.398342, 0.920826, 1.506588, 0.541450, 0.632793]), atol=1e-6, rtol=0
    )
    assert select(Q, K, 2).tolist() == [1, 2]
    torch.testing.assert_close(
        soft_vote(Q, K, "mod"), torch.tensor([0.702747, 0.906060, 1.057359, 0.319725, 1.014109]), atol=1e-6, rtol=0
    )
    assert select(Q, K, 2, gqa_map="mod").tolist() == [2, 4]
    cached = torch.tensor([1.0, 0.0])
    assert reuses(torch.tensor([0.95, 0.2]), cached, 0.9)
    assert not reuses(torch.tensor([0.7, 0.7]), cached, 0.9)
    assert not reuses(cached, None, 0.9)


def test_selection_windows_pools_and_caches():
    assert select(Q, K, 5).tolist() == [0, 1, 2, 3, 4]
    assert select(Q, K, 1, n_init=1, n_local=1).tolist() == [0, 2, 4]
    assert select(Q, K, 2, n_init=2, n_local=1).tolist() == [0, 1, 2, 3, 4]  # covers everything
    keep = torch.tensor([True, False, False, False, False])
    assert select(Q, K, 2, always_keep=keep).tolist() == [0, 1, 2]
    assert len(select(Q, K, 2, pool=3)) == 2
    selector = Selector(2, n_init=0, n_local=1, theta=0.9)
    first = selector.of(0, Q, K[:4], True)
    again = selector.of(0, 1.01 * Q, K, True)
    assert selector.counts["reused"] == 1
    assert set(first.tolist()) <= set(again.tolist())
    assert 4 in again.tolist()  # its own newest key
    selector.of(0, -Q, K, True)
    assert selector.counts == {"selected": 2, "reused": 1, "keys": 14, "attended": len(first) + len(again) + 3}
    with pytest.raises(ValueError, match="odd"):
        build("decoding", {"tokenselect": {"pool": 2}})
