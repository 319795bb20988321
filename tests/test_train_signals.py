"""All text signals in real runs: which passes they cost, and the methods that read them."""

from __future__ import annotations

import json

import pytest
import torch
from runs import metrics, model_folder, parse
from tiny import save, tiny_text

from mmcredit.train.loop import Trainer

SIGNALS = [
    "entropy",
    "self_certainty",
    "sampled_logit",
    "attention_entropy",
    "head_input",
    "divergence",
    "teacher_logprobs",
    "ref_logprobs",
]


def text(tmp_path, **changes):
    """A config with a tiny text model; every second question brings a hint."""
    if not (tmp_path / "text").exists():
        model, tokenizer = tiny_text("qwen3")
        save(model, tokenizer, tmp_path / "text")
        rows = [
            {"prompt": f"{i} + {i} =", "answer": str(2 * i), "hint": f"twice {i} is {2 * i}" if i % 2 else ""}
            for i in range(10, 30)
        ]
        (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"jsonl": {"path": str(tmp_path / "train.jsonl")}}
    return parse(tmp_path, model__path=str(tmp_path / "text"), data__train=source, **changes)


def images(tmp_path, family, **changes):
    """A config with a tiny vision-language model; no sample brings a hint, the answer is one."""
    return parse(tmp_path, model__path=str(model_folder(tmp_path, family)), **changes)


ALL = {
    "log__signals": SIGNALS,
    "check__image_probe": False,  # it costs a blind pass at the first step
    # weight 0: the credit is GRPO's, but the teacher of images is told the answer
    "credit": ["grpo", {"opd": {"w_opd": 0.0, "answer": "The answer is {answer}."}}],
}


@pytest.mark.parametrize("kind", ["text", "qwen2_5_vl", "qwen3_vl"])
def test_all_signals_cost_one_pass_per_view_and_nothing_twice(tmp_path, kind):
    config = text(tmp_path, **ALL) if kind == "text" else images(tmp_path, kind, **ALL)
    trainer = Trainer(config)
    policy = trainer.parts.policy
    batch = trainer.stage.run(0)
    policy.costs.reset()
    rollouts, _ = trainer._score(batch, 0)
    cost = policy.costs.read()
    assert {view: own["forwards"] for view, own in cost.items()} == {"clean": 1, "clean@reference": 1, "teacher": 1}
    assert set(SIGNALS) <= set(rollouts.signals)
    for name in SIGNALS:
        value = rollouts.signal(name)
        assert value.shape[:2] == rollouts.tokens.shape
        assert bool((value.isfinite() | value.isnan()).all())
        assert not value[~rollouts.valid].any()
        if name not in ("divergence", "teacher_logprobs"):  # nothing has moved yet
            assert bool((value[rollouts.mask] != 0).any())
    # every token goes through each pass once, and every image through the tower not even once more than for sampling
    tokens = int(rollouts.valid.sum())
    assert {own["positions"] for view, own in cost.items() if view != "teacher"} == {tokens}
    if kind != "text":
        assert cost["teacher"]["positions"] == tokens
        assert cost["clean"]["tower_calls"] == cost["teacher"]["tower_calls"] == 0
        assert cost["clean@reference"]["tower_calls"] == 1  # its own tower: it is not frozen
    trainer.close()


def test_passes_of_a_whole_run(tmp_path):
    """Three steps: a score pass and an update each, the reference and the teacher before the update alone."""
    regularizer = {"objective__regularizers": [{"kl": {"coef": 0.01}}]}  # reads ref_logprobs, which is there already
    trainer = Trainer(text(tmp_path, **ALL, **regularizer))
    trainer.run()
    forwards = {view: own["forwards"] for view, own in trainer.parts.policy.costs.read().items()}
    assert forwards.pop("rollout") > 0  # prefill and decode steps
    assert forwards == {"clean": 6, "clean@reference": 3, "teacher": 3}
    rows = metrics(tmp_path / "run")
    assert rows[0]["policy/ref_kl"] == pytest.approx(0.0, abs=1e-6)
    assert rows[-1]["policy/ref_kl"] > 0
    assert rows[0]["credit/opd/tokens_without_teacher"] == 0


@pytest.mark.parametrize("kind", ["text", "qwen2_5_vl"])
@pytest.mark.parametrize(
    "credit",
    [
        ["grpo", "attention_entropy"],
        ["grpo", {"attention_entropy": {"layer": 0, "normalised": False, "first_key": False}}],
        ["grpo", {"attention_entropy": {"mode": "explorer"}}],
        ["grpo", {"divergence_weight": {"against": "base", "measure": "js"}}],
        ["grpo", {"divergence_weight": {"against": "old"}}],
        ["grpo", {"opd": {"answer": "The answer is {answer}."}}],
        [{"opd": {"base": "reward", "teacher": "reference", "answer": "The answer is {answer}.", "below": 0.5}}],
        ["grpo", "delta"],
        ["ucas"],
    ],
    ids=str,
)
def test_methods_that_read_them_train(tmp_path, kind, credit):
    changes = {"credit": credit, "run__steps": 2, "train__mini_batches": 2}
    trainer = Trainer(text(tmp_path, **changes) if kind == "text" else images(tmp_path, kind, **changes))
    trainer.run()
    rows = metrics(tmp_path / "run")
    assert len(rows) == 2
    assert all(row["policy/grad_norm"] > 0 for row in rows)
    assert all(row["credit/nonzero_fraction"] > 0 for row in rows)


@pytest.mark.parametrize(("against", "clean", "reference"), [("base", 4, 2), ("old", 6, None)])
def test_divergence_weights_cost_what_their_page_says(tmp_path, against, clean, reference):
    """Two steps of one update each: score, update, and a pass before the update where the shift is measured then."""
    trainer = Trainer(text(tmp_path, run__steps=2, credit=["grpo", {"divergence_weight": {"against": against}}]))
    trainer.run()
    cost = trainer.parts.policy.costs.read()
    assert cost["clean"]["forwards"] == clean
    assert (cost["clean@reference"]["forwards"] if "clean@reference" in cost else None) == reference


def test_weights_of_a_run_are_those_of_the_signal(tmp_path):
    """Anchors weigh more at the start of a run: w = 1 - eta (2u - 1), u from the ranks of the recorded entropies."""
    trainer = Trainer(text(tmp_path, credit=["grpo", {"attention_entropy": {"eta": 0.5}}]))
    rollouts, _ = trainer._score(trainer.stage.run(0), 0)
    credit = trainer.parts.pipeline(rollouts, 0, 10)
    plain = Trainer(text(tmp_path, run__dir=str(tmp_path / "other"))).parts.pipeline(rollouts, 0, 10)
    on = rollouts.mask & (plain.advantages != 0)
    weights = (credit.advantages / plain.advantages)[on].double()
    values = rollouts.signal("attention_entropy")[rollouts.mask].double()
    below = (values[:, None] > values).sum(1) + 0.5 * ((values[:, None] == values).sum(1) - 1)
    u = torch.zeros(rollouts.mask.shape, dtype=torch.float64)
    u[rollouts.mask] = (below.double() + 0.5) / len(values)
    torch.testing.assert_close(weights, 1 - 0.5 * (2 * u[on] - 1), atol=1e-5, rtol=0)
    trainer.close()


@pytest.mark.parametrize("teacher", ["self", "reference"])
def test_distillation_draws_the_policy_to_its_teacher(tmp_path, teacher):
    """The top-K term alone, on policy: the divergence to the hinted teacher falls, and costs a teacher pass a step."""
    term = {"teacher_kl": {"coef": 1.0, "k": 20, "teacher": teacher, "answer": "The answer is {answer}."}}
    changes = {
        "run__steps": 12,
        "data__train": {"easy_vqa": {"split": "train", "limit": 4}},
        "objective__regularizers": [term],
        "train__learning_rate": 1e-4,
        "credit": ["grpo", {"opd": {"w_opd": 0.0, "w_rl": 0.0, "answer": "The answer is {answer}."}}],
    }
    trainer = Trainer(images(tmp_path, "qwen2_5_vl", **changes))
    trainer.run()
    rows = metrics(tmp_path / "run")
    assert all(row["policy/teacher_missing"] == 0 for row in rows)
    assert rows[0]["policy/teacher_kl"] > 1e-3
    assert rows[-1]["policy/teacher_kl"] < 0.7 * rows[0]["policy/teacher_kl"]
    views = trainer.parts.policy.costs.read()
    name = "teacher" if teacher == "self" else "teacher@reference"
    # opd's own signal asks the present policy, before each update
    assert views[name]["forwards"] == (24 if teacher == "self" else 12)


def test_samples_without_a_hint_keep_their_credit(tmp_path):
    trainer = Trainer(text(tmp_path, credit=["grpo", "opd"], rollout__prompts=8))
    rollouts, _ = trainer._score(trainer.stage.run(0), 0)
    hinted = torch.tensor([bool(s.meta["hint"]) for s in rollouts.samples])[rollouts.group]
    assert 0 < int(hinted.sum()) < len(hinted)
    teacher = rollouts.signal("teacher_logprobs")
    assert bool(teacher[~hinted][rollouts.mask[~hinted]].isnan().all())
    assert bool(teacher[hinted].isfinite().all())
    credit = trainer.parts.pipeline(rollouts, 0, 10)
    from mmcredit import assign_credit

    plain = assign_credit(rollouts, ["grpo"]).advantages
    assert torch.equal(credit.advantages[~hinted], plain[~hinted])
    gap = (teacher - rollouts.old_logprobs)[hinted]
    expected = torch.where(rollouts.mask[hinted], plain[hinted] + gap, 0.0)
    torch.testing.assert_close(credit.advantages[hinted], expected, atol=1e-6, rtol=0)
    trainer.close()


def test_components_that_want_one_signal_differently_are_a_config_error(tmp_path):
    two = ["grpo", {"attention_entropy": {"layer": 0}}, {"attention_entropy": {"layer": 1}}]
    with pytest.raises(ValueError, match="want the signal 'attention_entropy' with different settings"):
        text(tmp_path, credit=two)
    with pytest.raises(ValueError, match="want the view 'teacher' with different settings"):
        text(tmp_path, credit=["grpo", "opd"], objective__regularizers=[{"teacher_kl": {"hint": "advice"}}])
