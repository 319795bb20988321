"""Divergences between distributions: the spec's numbers, properties, and the signal on real passes."""

from __future__ import annotations

import math

import pytest
import torch
from policy_cases import FAMILIES, batch, both

from mmcredit.components import build
from mmcredit.policy import scores
from mmcredit.policy.config import LoRAConfig
from mmcredit.policy.divergences import HIDDEN, Comparison, js, kl, parse, top_p, topk_kl
from mmcredit.policy.passes import BLIND, CLEAN, REFERENCE, View
from mmcredit.signals.plan import merge

P = torch.tensor([[0.6, 0.25, 0.1, 0.05]])
Q = torch.tensor([[0.2, 0.65, 0.1, 0.05]])


def logs(p):
    return torch.where(p > 0, p.clamp(min=1e-38).log(), HIDDEN)


def value(name, p=P, q=Q):
    comparison = parse(CLEAN, f"{name.split(':')[0]}_to:blind" + "".join(f":{x}" for x in name.split(":")[1:]))
    return float(comparison(logs(p), logs(q)))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("js", 0.09836203),
        ("js:0.7", 0.11572004),
        ("kl", 0.42028951),
        ("tv", 0.4),
        ("topk_overlap:1", 0.0),
        ("topk_overlap:2", 1.0),
        ("topk_overlap:3", 1.0),
    ],
)
def test_numbers_of_sparse_but_critical(name, expected):
    assert value(name) == pytest.approx(expected, abs=1e-6)


def test_rank_and_probability_of_the_trained_models_first_token():
    """Of Q's top-1 in P: rank 2, probability .25 (the comparison is asked of Q's view)."""
    assert value("top1_rank", Q, P) == 2
    assert value("top1_prob", Q, P) == pytest.approx(0.25)


def test_top_p_cut():
    cut = top_p(logs(P), 0.7).exp()
    torch.testing.assert_close(cut, torch.tensor([[0.705882, 0.294118, 0.0, 0.0]]), atol=1e-6, rtol=0)
    cut = top_p(logs(Q), 0.7).exp()
    torch.testing.assert_close(cut, torch.tensor([[0.235294, 0.764706, 0.0, 0.0]]), atol=1e-6, rtol=0)
    one_hot = torch.tensor([[0.0, 1.0, 0.0]])
    torch.testing.assert_close(top_p(logs(one_hot), 0.7).exp(), one_hot)


def test_js_bounds():
    disjoint = torch.tensor([[0.5, 0.5, 0, 0]]), torch.tensor([[0, 0, 0.5, 0.5]])
    assert value("js", *disjoint) == pytest.approx(math.log(2), abs=1e-6)
    assert value("js", P, P) == 0.0
    generator = torch.Generator().manual_seed(0)
    log_p, log_q = (3 * torch.randn(50, 30, generator=generator) for _ in range(2))
    log_p, log_q = log_p.log_softmax(1), log_q.log_softmax(1)
    for cut in (1.0, 0.7):
        there = Comparison("js", BLIND, cut)(log_p, log_q)
        torch.testing.assert_close(there, Comparison("js", BLIND, cut)(log_q, log_p), atol=1e-6, rtol=0)
        assert bool((there >= 0).all())
        assert bool((there <= math.log(2) + 1e-6).all())
    # small shifts are not lost in rounding: JS is close to KL/4 there
    near = (log_p + 1e-3 * torch.randn(50, 30, generator=generator)).log_softmax(1)
    exact = js(log_p.double(), near.double())
    torch.testing.assert_close(js(log_p, near).double(), exact, atol=2e-8, rtol=0)


def test_binned_kl_of_openclaw():
    teacher = torch.tensor([[2.0, 1.0, 0.0, -1.0]]).log_softmax(1)
    student = torch.tensor([[1.0, 1.5, 0.2, -0.5]]).log_softmax(1)
    assert float(topk_kl(student, teacher, 2)) == pytest.approx(0.24568753, abs=1e-6)
    assert float(kl(student, teacher)) == pytest.approx(0.24763521, abs=1e-6)
    assert float(topk_kl(student, teacher, 3)) == pytest.approx(float(kl(student, teacher)), abs=1e-6)


def test_binned_kl_never_exceeds_the_full_one():
    generator = torch.Generator().manual_seed(1)
    log_p, log_q = (torch.randn(40, 20, generator=generator, dtype=torch.float64).log_softmax(1) for _ in range(2))
    full = kl(log_p, log_q)
    last = torch.zeros_like(full)
    for k in (1, 3, 8, 19):
        binned = topk_kl(log_p, log_q, k)
        assert bool((binned <= full + 1e-12).all())
        assert bool((binned >= last - 1e-12).all())  # finer bins tell more apart
        last = binned
    torch.testing.assert_close(last, full)


def test_a_teacher_that_is_sure_keeps_the_tail_finite():
    sure = torch.tensor([[40.0, 0.0, 0.0, 0.0]]).log_softmax(1)
    log_p = torch.zeros(1, 4, requires_grad=True)
    found = topk_kl(log_p.log_softmax(1), sure, 1)
    found.sum().backward()
    assert bool(torch.isfinite(found).all())
    assert bool(torch.isfinite(log_p.grad).all())


def test_gradients_by_finite_differences():
    generator = torch.Generator().manual_seed(2)
    z = torch.randn(3, 9, generator=generator, dtype=torch.float64, requires_grad=True)
    other = torch.randn(3, 9, generator=generator, dtype=torch.float64).log_softmax(1)
    for name in ("kl", "reverse_kl", "js", "topk_kl"):
        comparison = Comparison(name, BLIND, {"js": 1.0, "topk_kl": 3.0}.get(name))
        assert torch.autograd.gradcheck(lambda x, compare=comparison: compare(x.log_softmax(1), other), (z,))


def test_names():
    assert parse(CLEAN, "js_to:reference:0.7") == Comparison("js", REFERENCE, 0.7)
    assert parse(CLEAN, "topk_kl_to:teacher@reference:50").target == View("teacher", weights="reference")
    assert parse(CLEAN, "topk_kl_to:teacher").parameter == 50
    assert parse(BLIND, "kl_to:corrupted#2").target == View("corrupted", 2)
    for wrong in ("kl_to:", "kl_to:blind:3", "js_to:blind:1.5", "topk_kl_to:blind:2.5", "foo_to:blind", "js_to:a@b"):
        assert parse(CLEAN, wrong) is None
        assert not scores.known_outputs(wrong)


def moved(policy):
    """The policy, somewhat away from its reference."""
    policy.keep_reference()
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for p in policy.trainable_parameters().values():
            p.add_(torch.randn(p.shape, generator=generator) * 0.02)
    policy.weights_changed()
    return policy


def signal(policy, prompts, rollouts, **fields):
    """The signal through its own passes."""
    own = build("signal", {"divergence": fields})
    return own.read(policy.score(prompts, rollouts, merge(own.passes()), temperature=0.7))


MEASURES = [
    {},
    {"measure": "reverse_kl"},
    {"measure": "js"},
    {"measure": "js", "top_p": 0.7},
    {"measure": "tv"},
]


@pytest.mark.parametrize("family", FAMILIES)
def test_signal_against_full_distributions(family):
    """Against log-softmax over the whole vocabulary of both models, in both layouts."""
    policy, prompts, rollouts = batch(family)
    moved(policy)
    passes = merge([*build("signal", "head_input").passes(), *build("signal", "divergence").passes()])
    hidden = policy.score(prompts, rollouts, passes, temperature=0.7)[CLEAN]["head_input"]
    layouts = {str(m): both(policy, lambda m=m: signal(policy, prompts, rollouts, **m)) for m in MEASURES}
    body, reference = policy.body, policy.reference
    policy.body = reference
    other = policy.score(prompts, rollouts, merge(build("signal", "head_input").passes()), temperature=0.7)
    policy.body = body
    states = {CLEAN: hidden, REFERENCE: other[CLEAN]["head_input"]}
    log = {}
    for view, model in ((CLEAN, body), (REFERENCE, reference)):
        with torch.no_grad():
            z = model.head(states[view]).double() / 0.7
        z[..., list(policy.suppressed_ids)] = HIDDEN
        log[view] = z.log_softmax(-1)
    p, q = (log[v][rollouts.valid] for v in (CLEAN, REFERENCE))
    for fields, results in zip(MEASURES, layouts.values(), strict=True):
        expected = Comparison(fields.get("measure", "kl"), REFERENCE, fields.get("top_p", 1.0))(p, q)
        for found in results:
            if "top_p" not in fields:  # at the edge of the cut a rounding error may move a token in or out
                torch.testing.assert_close(found[rollouts.valid].double(), expected, atol=1e-5, rtol=0)
            assert not found[~rollouts.valid].any()
        torch.testing.assert_close(*results, atol=1e-5, rtol=0)


def test_signal_is_zero_where_nothing_moved():
    policy, prompts, rollouts = batch("qwen3")
    policy.keep_reference()
    for fields in MEASURES:
        assert float(signal(policy, prompts, rollouts, **fields).abs().max()) <= 1e-6


@pytest.mark.parametrize("layout", ["shared", "padded"])
def test_signal_micro_batches_order_and_padding(layout, monkeypatch):
    policy, prompts, rollouts = batch("qwen3_vl", layout=layout)
    moved(policy)
    policy._layout = layout
    for fields in MEASURES:
        expected = signal(policy, prompts, rollouts, **fields)
        assert float(expected.max()) > 1e-5
        order = torch.randperm(len(rollouts), generator=torch.Generator().manual_seed(1))
        shuffled = signal(policy, prompts, rollouts.select(order), **fields)
        torch.testing.assert_close(shuffled, expected[order], atol=1e-5, rtol=0)
        tokens = torch.where(rollouts.valid, rollouts.tokens, 77)
        again = signal(policy, prompts, rollouts.replace(tokens=tokens), **fields)
        torch.testing.assert_close(again, expected, atol=1e-6, rtol=0)
        with monkeypatch.context() as patch:
            patch.setattr(scores, "CHUNK_BYTES", 4 * policy.body.vocabulary * 2 * 3)  # three positions at a time
            patch.setattr(policy.config, "score_tokens", 60)
            torch.testing.assert_close(signal(policy, prompts, rollouts, **fields), expected, atol=1e-5, rtol=0)


def test_signal_with_adapters_compares_with_the_base():
    policy, prompts, rollouts = batch("qwen2_5_vl", lora=LoRAConfig(rank=4))
    found = signal(policy, prompts, rollouts)
    assert float(found[rollouts.valid].min()) >= -1e-6
    assert float(found.max()) > 1e-3
    passes = merge(build("signal", "divergence").passes())
    policy.costs.reset()
    policy.score(prompts, rollouts, passes, temperature=1.0)
    assert {name: cost["forwards"] for name, cost in policy.costs.read().items()} == {"clean": 1, "clean@reference": 1}


def test_top_p_goes_with_js_alone():
    with pytest.raises(ValueError, match="top_p 0.7 goes with measure js alone, got measure kl"):
        build("signal", {"divergence": {"top_p": 0.7}})
