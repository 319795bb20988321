"""Answers in cells: pixels, seeds, skipping, and the numbers of the robustness table."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from policy_cases import make_policy, sample, samples

from mmcredit.corruptions import Suite, operator
from mmcredit.data.sample import Media, Sample
from mmcredit.evaluate.ask.cells import CLEAN, Answer, Cell, Skipped, answer_cells, shown_in
from mmcredit.evaluate.benchmarks.scoring import Score
from mmcredit.evaluate.judge.robustness import evaluate_cells, robustness_table
from mmcredit.intervals import proportion, score_interval
from mmcredit.policy.pixels import Pixels
from mmcredit.policy.vision import items
from mmcredit.rollout.engine import Sampling
from mmcredit.rollout.engines.hf import HF

SAMPLING = Sampling(temperature=1.0, max_new_tokens=4)


class Watched:
    """An engine, and the requests that it was given; it refuses prompts of the named samples, as a real one does."""

    def __init__(self, policy, refuse=()):
        self.engine, self.refuse, self.calls = HF().open(policy), refuse, []

    def generate(self, requests, sampling, progress=None):
        for request in requests:
            if request.prompt.sample_id in self.refuse:
                raise ValueError(f"sample {request.prompt.sample_id}: too long for the model")
        self.calls.append(list(requests))
        return self.engine.generate(requests, sampling, progress)


def seeds(sample_id):
    return [sum(sample_id.encode()), 7]


def run(policy, engine, questions, cells, **options):
    found = answer_cells(policy, engine, questions, cells, sampling=SAMPLING, seeds=seeds, **options)
    return [item for batch in found for item in batch]


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_a_cell_shows_other_pixels_and_nothing_else(family):
    policy = make_policy(family)
    engine = Watched(policy)
    questions = samples(family)
    cells = [CLEAN, Cell(operator("jpeg"), 5), Cell(operator("gaussian_noise"), 1)]
    found = run(policy, engine, questions, cells, batch=3)
    assert [(a.cell.label, a.sample.id, a.response.member) for a in found] == [
        (cell.label, q.id, member)
        for block in (questions[:3], questions[3:])
        for cell in cells
        for q in block
        for member in (0, 1)
    ]
    shown = {}
    for request in [r for call in engine.calls for r in call]:
        assert list(request.seeds) == seeds(request.prompt.sample_id)  # the same in every cell
        shown.setdefault(request.prompt.sample_id, []).append(request.prompt)
    assert [len(call) for call in engine.calls] == [3, 3, 3, 3]
    for name, (clean, *corrupted) in shown.items():
        for prompt in corrupted:
            assert torch.equal(prompt.tokens, clean.tokens)
            if name == "text":
                assert prompt is clean
                continue
            assert prompt.media["pixel_values"].shape == clean.media["pixel_values"].shape
            assert not torch.equal(prompt.media["pixel_values"], clean.media["pixel_values"])
    # Features of corrupted images are not kept: a long evaluation would fill the memory with them.
    kept = {key for _, key in policy.body.vision._cache}
    assert not [key for key in kept if "|" in key]


def test_pixels_depend_on_the_seed_and_the_sample_only():
    policy = make_policy("qwen2_5_vl")
    pixels = Pixels(policy.processor)
    cell = Cell(operator("shot_noise"), 3)
    one, other = (policy.encode(sample(name, text, [(96, 0)])) for name, text in (("a", "left"), ("b", "left")))
    same = policy.encode(sample("a", "another text", [(96, 0)]))

    def seen(prompt, seed=0):
        return shown_in(prompt, cell, Pixels(policy.processor), seed).media["pixel_values"]

    assert torch.equal(seen(one), seen(same))
    assert not torch.equal(seen(one), seen(other))
    assert not torch.equal(seen(one), seen(one, seed=1))
    assert shown_in(one, CLEAN, pixels, 0) is one


def digests() -> list[str]:
    """What ten cells show of one picture."""
    policy = make_policy("qwen2_5_vl")
    prompt = policy.encode(sample("a", "left", [((140, 112), 5)]))
    names = ("shot_noise", "fog", "elastic", "motion_blur", "occlusion")
    shown = [shown_in(prompt, Cell(operator(n), s), Pixels(policy.processor), 0) for n in names for s in (1, 5)]
    return [hashlib.sha256(p.media["pixel_values"].numpy().tobytes()).hexdigest() for p in shown]


def test_another_process_sees_the_same_pixels():
    program = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import mmcredit, torch; "
        "torch.set_num_threads(1); import test_evaluate_robustness as t; print(*t.digests())"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "12345"}
    command = [sys.executable, "-c", program]
    theirs = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout.split()
    assert theirs == digests()
    assert len(set(theirs)) == 10


@pytest.mark.parametrize("name", ["gaussian_noise", "jpeg", "gaussian_blur", "fog"])
def test_severity_hurts_the_pixels_in_order(name):
    """Of the pixels as the model sees them; accuracy owes nobody an order."""
    policy = make_policy("qwen2_5_vl")
    pixels = Pixels(policy.processor)
    prompt = policy.encode(sample("a", "left", [((140, 112), 5)]))

    def frame(prompt):
        return np.asarray(pixels.frames(items(prompt)[0], "a")[0], dtype=np.float64)

    clean = frame(prompt)
    errors = [
        float(np.mean((frame(shown_in(prompt, Cell(operator(name), s), pixels, 0)) - clean) ** 2)) for s in (1, 3, 5)
    ]
    assert 0 < errors[0] < errors[1] < errors[2]


def test_what_cannot_be_answered_is_named_and_the_rest_goes_on():
    policy = make_policy("qwen2_5_vl")
    broken = Sample(
        "broken",
        ({"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "x"}]},),
        (Media("image", data=b"no image", name="x.png"),),
    )
    good = samples("qwen2_5_vl")
    questions = [good[0], broken, good[1], good[2], good[3]]
    told = []
    found = run(
        policy,
        Watched(policy, refuse=("wide",)),
        questions,
        [CLEAN, Cell(operator("jpeg"), 3)],
        progress=told.append,
    )
    skipped = [item for item in found if isinstance(item, Skipped)]
    assert [(s.id, s.cell and s.cell.label, s.reason) for s in skipped] == [
        ("broken", None, "media damaged"),
        ("wide", "clean", "cannot be sampled"),
        ("wide", "jpeg:3", "cannot be sampled"),
    ]
    assert "too long for the model" in skipped[1].message
    answers = [item for item in found if isinstance(item, Answer)]
    assert {a.sample.id for a in answers} == {"one", "text", "two"}
    assert len(answers) == sum(told) == 3 * 2 * 2
    with pytest.raises(
        ValueError, match=r"none of the first 1 questions can be answered in cell clean; .*x.png is damaged"
    ):
        run(policy, Watched(policy), [broken], [CLEAN])
    with pytest.raises(ValueError, match="stands twice among the cells"):
        run(policy, Watched(policy), good, [CLEAN, Cell(operator("jpeg"), 3), Cell(operator("jpeg"), 3)])
    with pytest.raises(ValueError, match="severity is a whole number from 1"):
        Cell(operator("jpeg"), 0)


def test_evaluate_cells_on_a_policy_in_memory():
    policy = make_policy("qwen2_5_vl")
    questions = samples("qwen2_5_vl")
    suite = Suite(seen=["jpeg"], unseen=["fog"], eval_severities=(5,))
    judged = []

    def judge(answers):
        judged.extend((a.sample.id, a.cell.label, a.text) for a in answers)
        return [Score(len(a.text) % 2 == 0, a.text, "even") for a in answers]

    def evaluate(engine):
        cells = [*suite.cells("seen"), *suite.cells("unseen")]
        return evaluate_cells(policy, engine, questions, judge, cells, sampling=SAMPLING, seeds=seeds, batch=2)

    found = evaluate(HF().open(policy))
    assert [c.label for c in found.cells] == ["clean", "jpeg:5", "fog:5"]
    assert list(found.ids) == [q.id for q in questions]
    for label, values in found.correct.items():
        by_hand = [[len(t) % 2 == 0 for i, c, t in judged if (i, c) == (q.id, label)] for q in questions]
        assert values == [sum(hits) / 2 for hits in by_hand]
    # A question that is lost in one cell is compared in none.
    lost = evaluate(Watched(policy, refuse=("two",)))
    assert list(lost.ids) == ["one", "text", "wide"]
    assert lost.skipped.counts == {"cannot be sampled": 1}
    assert lost.correct["fog:5"] == found.correct["fog:5"][:3]


def test_the_table_by_hand():
    """Four questions, jpeg at two severities, fog at one; drops paired over the questions."""
    cells = [CLEAN, Cell(operator("jpeg"), 3), Cell(operator("jpeg"), 5), Cell(operator("fog"), 3)]
    correct = {"clean": [1, 1, 1, 0], "jpeg:3": [1, 1, 0, 0], "jpeg:5": [1, 0, 0, 0], "fog:3": [1, 0, 0, 1]}
    rows = {row.name: row for row in robustness_table(correct, cells)}
    assert list(rows) == ["clean", "jpeg", "fog", "mean of seen", "mean of unseen", "mean of all"]
    assert [row.kind for row in rows.values()] == ["clean", "seen", "unseen", "mean", "mean", "mean"]
    assert rows["clean"].accuracy == proportion(3, 4)
    assert rows["clean"].drop is None
    jpeg = rows["jpeg"]
    assert jpeg.severities == {3: 0.5, 5: 0.25}
    assert jpeg.accuracy.value == pytest.approx(0.375)  # questions 1, 1/2, 0, 0
    # Differences 0, 1/2, 1, 0 (two answers behind each): mean 3/8.
    assert jpeg.drop.value == pytest.approx(0.375)
    assert (jpeg.drop.low, jpeg.drop.high) == score_interval([0, 0.5, 1, 0], -1, 1, 1 / 2)
    assert jpeg.relative == pytest.approx(0.5)
    fog = rows["fog"]
    assert fog.accuracy == proportion(2, 4)
    # Differences 0, 1, 1, -1: mean 1/4; Tango's interval.
    assert (fog.drop.low, fog.drop.high) == score_interval([0, 1, 1, -1], -1, 1)
    every = rows["mean of all"]
    assert every.accuracy.value == pytest.approx((0.375 + 0.5) / 2)  # operators weigh the same, not cells
    assert every.drop.value == pytest.approx(0.75 - 0.4375)
    assert every.severities == {3: 0.5, 5: 0.25}
    assert every.operators == 2
    assert rows["mean of seen"].accuracy == jpeg.accuracy


def test_tables_at_the_edges():
    cells = [CLEAN, Cell(operator("jpeg"), 3), Cell(operator({"occlusion": {"label": "mine"}}), 3)]
    rows = robustness_table({"clean": [0, 0], "jpeg:3": [0, 1], "mine:3": [0, 0]}, cells)
    assert [(row.name, row.kind) for row in rows][1:] == [
        ("jpeg", "seen"),
        ("mine", "other"),
        ("mean of seen", "mean"),
        ("mean of all", "mean"),
    ]
    assert all(row.relative is None for row in rows)  # nothing can be lost of an accuracy of 0
    assert rows[1].drop.value == -0.5
    own = Suite(seen=["fog"], unseen=["jpeg"])
    assert robustness_table({"clean": [1], "jpeg:3": [1]}, cells[:2], own)[1].kind == "unseen"
    with pytest.raises(ValueError, match="needs the clean cell"):
        robustness_table({"jpeg:3": [1]}, cells[1:2])
    with pytest.raises(ValueError, match="no question could be answered in every cell"):
        robustness_table({"clean": [], "jpeg:3": []}, cells[:2])
    with pytest.raises(ValueError, match="cell jpeg:3 has 1 questions, the clean one 2"):
        robustness_table({"clean": [1, 0], "jpeg:3": [1]}, cells[:2])
