"""The hinted teacher: what it is shown, what it scores, and what happens without a hint."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from policy_cases import batch, both, rollouts_for, samples

from mmcredit import Credit, Objective
from mmcredit.components import build
from mmcredit.data.sample import Sample
from mmcredit.policy.passes import CLEAN, Pass, View
from mmcredit.policy.teacher import TeacherPrompts
from mmcredit.signals.plan import merge
from mmcredit.views.teacher import TeacherView

TEACHER = View("teacher")
HINT = "count the red squares in each row"


def question(content="how many red squares?", meta=None, answer=None, role="user"):
    return Sample("q", ({"role": role, "content": content},), (), answer, meta or {})


def shown(sample, **fields):
    found = TeacherView(**fields).shown(sample)
    return None if found is None else found.messages


def test_the_hint_stands_below_the_last_user_message():
    messages = (
        {"role": "system", "content": "think"},
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": "well"},
        {"role": "user", "content": "second"},
        {"role": "assistant", "content": "so"},
    )
    found = shown(dataclasses.replace(question(meta={"hint": f"  {HINT}\n"}), messages=messages))
    assert [m["content"] for m in found] == ["think", "first", "well", f"second\n\n[Hint]\n{HINT}", "so"]
    assert messages[3]["content"] == "second"
    alone = shown(question("think", {"hint": HINT}, role="system"))  # no user message: the last one
    assert alone[0]["content"] == f"think\n\n[Hint]\n{HINT}"
    parts = [{"type": "text", "text": "how many?"}]
    assert shown(question(parts, {"hint": HINT}))[0]["content"] == [
        *parts,
        {"type": "text", "text": f"\n\n[Hint]\n{HINT}"},
    ]


def test_where_hints_come_from():
    own = TeacherView(answer="The answer is {answer}.")
    assert own.of(question(meta={"hint": HINT}, answer="7")) == HINT
    assert own.of(question(answer="{7}")) == "The answer is {7}."
    assert own.of(question()) is None
    assert TeacherView().of(question(answer="7")) is None
    assert TeacherView(hint="advice").of(question(meta={"advice": HINT, "hint": "x" * 20})) == HINT
    assert TeacherView(hint=None).of(question(meta={"hint": HINT})) is None
    assert TeacherView().of(question(meta={"hint": ["look at the left", "then count"]})) == (
        "look at the left\nthen count"
    )


@pytest.mark.parametrize("hint", ["", "   ", None, "ten chars.", " ten chars. "])
def test_an_empty_or_short_hint_is_none(hint):
    assert TeacherView().of(question(meta={"hint": hint})) is None
    assert TeacherView().of(question(meta={"hint": "eleven char"})) == "eleven char"


def test_bad_settings_and_hints_are_named():
    with pytest.raises(ValueError, match=r"must contain \{answer\}"):
        TeacherView(answer="look again")
    with pytest.raises(ValueError, match=r"must contain \{answer\}"):
        build("credit", {"opd": {"answer": "look again"}})
    with pytest.raises(ValueError, match="sample q: meta.hint must be text, got int"):
        TeacherView().of(question(meta={"hint": 3}))


def case(family, hinted=("one", "wide", "s1", "s2"), **options):
    """A policy whose samples of these ids bring a hint."""
    policy, _, rollouts = batch(family, **options)
    own = [dataclasses.replace(s, meta={"hint": HINT}) if s.id in hinted else s for s in samples(family)]
    policy.view_prompts["teacher"] = TeacherPrompts(policy.encode)
    prompts = [policy.encode(s) for s in own]
    has = torch.tensor([s.id in hinted for s in own])[rollouts.group][:, None] & rollouts.valid
    return policy, prompts, rollouts, has


def teacher(policy, prompts, rollouts, **fields):
    signal = build("signal", {"teacher_logprobs": fields})
    return signal.read(policy.score(prompts, rollouts, merge(signal.passes()), temperature=0.8))


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl", "qwen3"])
def test_signal_is_the_clean_score_of_the_hinted_prompt(family):
    policy, prompts, rollouts, has = case(family)
    changed = [policy.encode(TeacherView().shown(p.sample) or p.sample) for p in prompts]
    for found, expected in zip(
        both(policy, lambda: teacher(policy, prompts, rollouts)),
        both(policy, lambda: policy.score(changed, rollouts, [Pass(CLEAN, frozenset({"logprobs"}))], temperature=0.8)),
        strict=True,
    ):
        torch.testing.assert_close(found[has], expected[CLEAN]["logprobs"][has], atol=1e-5, rtol=0)
        assert bool(found[rollouts.valid & ~has].isnan().all())
        assert not found[~rollouts.valid].any()
    clean = policy.score(prompts, rollouts, [Pass(CLEAN, frozenset({"logprobs"}))], temperature=0.8)[CLEAN]["logprobs"]
    assert float((clean - found)[has].abs().max()) > 1e-2


def test_no_teacher_is_run_for_samples_without_a_hint():
    policy, prompts, rollouts, has = case("qwen2_5_vl", hinted=("text",))
    policy.costs.reset()
    teacher(policy, prompts, rollouts)
    cost = policy.costs.read()["teacher"]
    assert cost["positions"] == int(has.sum())
    assert cost["tower_calls"] == 0
    policy, prompts, rollouts, _ = case("qwen3", hinted=())
    policy.costs.reset()
    assert bool(teacher(policy, prompts, rollouts)[rollouts.valid].isnan().all())
    assert "teacher" not in policy.costs.read()


def test_images_are_encoded_once_for_policy_and_teacher():
    policy, prompts, rollouts, _ = case("qwen3_vl")
    policy.costs.reset()
    passes = [Pass(CLEAN, frozenset({"logprobs"})), Pass(TEACHER, frozenset({"logprobs"}))]
    policy.score(prompts, rollouts, passes, temperature=1.0)
    assert policy.costs.read()["clean"]["tower_calls"] == 1
    assert policy.costs.read()["teacher"]["tower_calls"] == 0


def test_signal_order_micro_batches_and_padding():
    policy, prompts, rollouts, _ = case("qwen3_vl")
    expected = teacher(policy, prompts, rollouts)
    order = torch.randperm(len(rollouts), generator=torch.Generator().manual_seed(1))
    shuffled = teacher(policy, prompts, rollouts.select(order))
    torch.testing.assert_close(shuffled, expected[order], atol=1e-5, rtol=0, equal_nan=True)
    policy.config.score_tokens = 60
    torch.testing.assert_close(teacher(policy, prompts, rollouts), expected, atol=1e-5, rtol=0, equal_nan=True)
    tokens = torch.where(rollouts.valid, rollouts.tokens, 77)
    again = teacher(policy, prompts, rollouts.replace(tokens=tokens))
    torch.testing.assert_close(again, expected, atol=1e-6, rtol=0, equal_nan=True)


def test_a_frozen_teacher_does_not_move():
    policy, prompts, rollouts, has = case("qwen3")
    policy.keep_reference()
    before = teacher(policy, prompts, rollouts, weights="reference")
    torch.testing.assert_close(before, teacher(policy, prompts, rollouts), atol=1e-6, rtol=0, equal_nan=True)
    with torch.no_grad():
        for p in policy.trainable_parameters().values():
            p.mul_(1.1)
    policy.weights_changed()
    assert torch.equal(before[has], teacher(policy, prompts, rollouts, weights="reference")[has])
    assert float((before - teacher(policy, prompts, rollouts))[has].abs().max()) > 1e-2


def test_attention_entropy_of_a_view_with_missing_prompts():
    policy, prompts, rollouts, has = case("qwen3")
    found = policy.score(prompts, rollouts, [Pass(TEACHER, frozenset({"attention_entropy"}))], temperature=1.0)
    values = found[TEACHER]["attention_entropy"]
    assert bool((values[has] > 0).all())
    assert bool(values[rollouts.valid & ~has].isnan().all())


def test_a_hint_that_cannot_be_encoded_is_counted_and_named():
    policy, _, rollouts, _ = case("qwen3")
    own = [dataclasses.replace(s, meta={"hint": f"<|im_end|> {HINT}"}) for s in samples("qwen3")]
    prompts = [policy.encode(s) for s in own]
    with pytest.warns(UserWarning, match="no teacher for sample s0: the text of a user message contains the reserved"):
        found = teacher(policy, prompts, rollouts)
    assert bool(found[rollouts.valid].isnan().all())
    assert set(policy.view_prompts["teacher"].refused) == {"s0", "s1", "s2"}


@pytest.mark.parametrize(("k", "weights"), [(None, "policy"), (7, "policy"), (7, "reference")])
def test_teacher_kl_with_gradient(k, weights):
    """Against full distributions; the teacher is a constant."""
    from mmcredit.policy.divergences import HIDDEN, kl, topk_kl
    from mmcredit.train.update import teacher_kl

    policy, prompts, rollouts, has = case("qwen3")
    policy.keep_reference()
    passes, (view, output) = teacher_kl(k, weights)
    rows = range(len(rollouts))
    found = policy.forward(prompts, rollouts, rows, passes, temperature=0.8)[view][output]
    assert bool(found[rollouts.valid & ~has].isnan().all())
    found[has].sum().backward()
    gradient = {n: p.grad.clone() for n, p in policy.trainable_parameters().items() if p.grad is not None}
    policy.model.zero_grad()
    head_input = frozenset({"head_input"})
    other = policy.score(prompts, rollouts, [Pass(TEACHER, head_input)], temperature=0.8)[TEACHER]["head_input"]
    own = policy.forward(prompts, rollouts, rows, [Pass(CLEAN, head_input)], temperature=0.8)[CLEAN]["head_input"]
    with torch.no_grad():
        log_q = (policy.body.head(other[has]) / 0.8).index_fill(1, torch.tensor(policy.suppressed_ids).long(), HIDDEN)
        log_q = log_q.log_softmax(1)
    log_p = (policy.body.head(own[has]) / 0.8).log_softmax(1)
    expected = kl(log_p, log_q) if k is None else topk_kl(log_p, log_q, k)
    torch.testing.assert_close(found[has], expected, atol=1e-5, rtol=0)
    expected.sum().backward()
    for name, p in policy.trainable_parameters().items():
        if p.grad is not None:
            torch.testing.assert_close(gradient[name], p.grad, atol=2e-4, rtol=1e-3)


def regularize(found, mask, **fields):
    from b0 import rollouts_of

    rollouts = rollouts_of([0.0] * len(mask), [int(n) for n in mask.sum(1)])
    credit = Credit(torch.zeros(mask.shape), rollouts.mask)
    objective = Objective(aggregate="token_mean", regularizers=[{"teacher_kl": fields}])
    return objective(torch.zeros(mask.shape, requires_grad=True), rollouts, credit, {"teacher_kl": found})


def test_teacher_kl_term_leaves_out_tokens_without_a_teacher():
    mask = torch.tensor([[True, True, True], [True, True, False]])
    found = torch.tensor([[0.5, 0.1, 0.3], [torch.nan, torch.nan, torch.nan]], requires_grad=True)
    out = regularize(found, mask, coef=2.0)
    out.loss.backward()
    assert float(out.loss.detach()) == pytest.approx(2 * 0.9 / 5)
    torch.testing.assert_close(found.grad, torch.tensor([[0.4, 0.4, 0.4], [0.0, 0.0, 0.0]]))
    assert out.metrics["teacher_kl"] == pytest.approx(0.3)
    assert out.metrics["teacher_missing"] == pytest.approx(0.4)


def test_prompt_without_its_sample_is_refused():
    policy, prompts, _, _ = case("qwen3")
    rollouts = rollouts_for(policy, 3, [[3], [3], [3]])
    bare = [dataclasses.replace(p, sample=None) for p in prompts]
    with pytest.raises(ValueError, match=r"sample s\d: a teacher's prompt is made from its sample"):
        teacher(policy, bare, rollouts)
