"""Held-out questions that cannot be asked or judged: left out, counted, named; too many of the former stop the run."""

from __future__ import annotations

import json

import pytest
from PIL import Image
from runs import parse, settings

from mmcredit.cli import main
from mmcredit.evaluate import usable
from mmcredit.intervals import paired_gain, proportion
from mmcredit.train.loop import Trainer


def questions(tmp_path, *rows, good=8):
    """A set of `good` usable questions and `rows`, as data.evaluate."""
    folder = tmp_path / "data"
    folder.mkdir(exist_ok=True)
    Image.new("RGB", (40, 40), "red").save(folder / "good.png")
    (folder / "corrupt.png").write_bytes((folder / "good.png").read_bytes()[:60])
    made = [{"prompt": f"what is it {i}", "images": ["good.png"], "answer": "red"} for i in range(good)]
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in (*made, *rows)))
    return {
        "data__evaluate": {"jsonl": {"path": str(folder / "test.jsonl")}},
        "data__train": {"jsonl": {"path": str(folder / "test.jsonl"), "limit": max(1, good)}},
        "data__media": {"root": str(folder)},
        "data__max_prompt_tokens": 80,
        "run__steps": 1,
    }


MISSING = {"id": "missing", "prompt": "what is it", "images": ["missing.png"], "answer": "red"}
CORRUPT = {"id": "corrupt", "prompt": "what is it", "images": ["corrupt.png"], "answer": "red"}
LONG = {"id": "long", "prompt": "far too long " * 100, "answer": "red"}


def drops(tmp_path):
    rows = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    return [row for row in rows if row["kind"] == "drop"]


@pytest.mark.parametrize("bad", [MISSING, CORRUPT, LONG], ids=lambda row: row["id"])
def test_one_unusable_row_is_left_out_counted_and_named(tmp_path, bad):
    outcome = Trainer(parse(tmp_path, **questions(tmp_path, bad))).run()
    assert outcome.after.accuracy.n == outcome.gain.n == 8
    assert outcome.after.dropped.total == 1
    assert str(outcome.after).endswith(", 1 unusable")
    (event,) = drops(tmp_path)  # once, not at every evaluation
    assert event["data"]["sample"] == "test.jsonl:9"
    assert event["data"]["reason"].startswith("held-out: ")
    rows = [json.loads(line) for line in (tmp_path / "run" / "evaluations.jsonl").read_text().splitlines()]
    assert [(row["n"], row["unusable"]) for row in rows] == [(8, 1), (8, 1)]


def test_too_many_unusable_rows_stop_the_run(tmp_path):
    bad = questions(tmp_path, MISSING, CORRUPT, LONG)
    with pytest.raises(ValueError, match=r"3 of the 11 held-out .* check\.max_unusable_held_out=0\.1 allows: "):
        Trainer(parse(tmp_path, **bad)).run()
    outcome = Trainer(
        parse(tmp_path, **bad, check={"max_unusable_held_out": 0.5}, run__dir=str(tmp_path / "second"))
    ).run()
    assert outcome.after.dropped.total == 3
    fields = questions(tmp_path, MISSING, CORRUPT, good=0)
    with pytest.raises(ValueError, match=r"none of the 2 questions is usable: 2 dropped: "):
        Trainer(parse(tmp_path, **fields, run__dir=str(tmp_path / "third"))).run()


def test_the_limit():
    usable.check_share(1, 2, 0.1, ["one is never too many"])
    usable.check_share(2, 20, 0.1, ["a", "b"])
    with pytest.raises(ValueError, match=r"3 of the 20 .*=0\.1 allows: a; b; c$"):
        usable.check_share(3, 20, 0.1, ["a", "b", "c"])
    with pytest.raises(ValueError, match=r"2 of the 500 .*=0 allows"):
        usable.check_share(2, 500, 0, ["a", "b"])


def test_the_command_has_the_same_policy(tmp_path, capsys):
    values = settings(tmp_path, **questions(tmp_path, MISSING))
    path, rows = tmp_path / "config.json", tmp_path / "rows.jsonl"
    path.write_text(json.dumps(values))
    assert main(["evaluate", str(path), "-o", str(rows)]) == 0
    printed = capsys.readouterr().out
    assert "(n=8), 1 unusable" in printed
    assert "missing" in printed
    assert len(rows.read_text().splitlines()) == 8
    assert main(["evaluate", str(path), "--corrupt", "jpeg", "--severity", "3", "-o", str(tmp_path / "cells")]) == 0
    assert "8 of 9 questions" in capsys.readouterr().out
    path.write_text(json.dumps(settings(tmp_path, **questions(tmp_path, MISSING, CORRUPT))))
    for more in ([], ["--corrupt", "jpeg", "--severity", "3", "-o", str(tmp_path / "more")]):
        assert main(["evaluate", str(path), *more]) == 2
        assert "2 of the 10 held-out questions cannot be used" in capsys.readouterr().err


REWARD = """
def judge(item):
    return None if item.answer in (None, "") else float(item.answer == "yes")
"""


def unanswered(tmp_path, answers, **changes):
    reward = tmp_path / "judge.py"
    reward.write_text(REWARD)
    rows = [{"id": f"q{i}", "prompt": "is it red", "answer": answer} for i, answer in enumerate(answers)]
    for row in rows:
        if row["answer"] is None:
            del row["answer"]
    made = questions(tmp_path, *rows, good=0)
    made["data__train"] = {"easy_vqa": {"split": "train", "limit": 8}}
    made["data__media"] = {}
    return {**made, "rewards": [{"function": {"path": f"{reward}:judge", "label": "right"}}], **changes}


def test_questions_without_an_answer_are_not_applicable(tmp_path, capsys):
    """8 questions, the 4 that can be judged right: 100 % of 4, not 50 % of 8."""
    fields = unanswered(tmp_path, ["yes"] * 4 + [None, "", None, ""])
    trainer = Trainer(parse(tmp_path, **fields))
    outcome = trainer.run()
    found = outcome.after
    assert found.accuracy == proportion(4, 4)
    assert str(found) == "100.0% [51.0, 100.0] (n=4), 4 not applicable"
    assert sorted(found.not_applicable) == [f"test.jsonl:{i}" for i in range(5, 9)]
    assert found.parts == {"right": 1.0}  # no zeros for what does not apply
    assert outcome.gain.n == 4
    rows = [json.loads(line) for line in (tmp_path / "run" / "evaluations.jsonl").read_text().splitlines()]
    assert [(row["n"], row["accuracy"], row["not_applicable"]) for row in rows] == [(4, 1.0, 4)] * 2
    path = tmp_path / "config.json"
    path.write_text(json.dumps(settings(tmp_path, **fields)))
    answers = tmp_path / "rows.jsonl"
    for more, shares in (([], 1.0), (["--samples", "2"], 1.0)):
        assert main(["evaluate", str(path), "-o", str(answers), *more]) == 0
        printed = capsys.readouterr().out
        assert "(n=4), 4 not applicable" in printed
        assert "test.jsonl:5" in printed
        lines = [json.loads(line) for line in answers.read_text().splitlines()]
        assert {line["id"]: line["correct"] for line in lines} == {
            f"test.jsonl:{i}": shares if i < 5 else None for i in range(1, 9)
        }
    assert all(line["pass@2"] == (1.0 if line["correct"] else None) for line in lines)
    cells = tmp_path / "cells"
    assert main(["evaluate", str(path), "--corrupt", "jpeg", "--severity", "3", "-o", str(cells)]) == 0
    assert "4 of 8 questions" in capsys.readouterr().out
    summary = json.loads((cells / "summary.json").read_text())["benchmarks"]["held-out"]
    assert summary["answered"] == 4
    assert {row["skipped"] for row in summary["skipped"]} == {"not applicable"}


def test_a_set_that_nothing_can_be_judged_in_says_so(tmp_path):
    with pytest.raises(ValueError, match=r"'right'.* to none of the 3 questions \(test\.jsonl:\d, .*evaluate\.reward"):
        Trainer(parse(tmp_path, **unanswered(tmp_path, [None, "", None]))).run()


def test_a_gain_is_over_what_both_sides_could_judge():
    gain = paired_gain([1.0, None, 0.0, 0.0], [1.0, 1.0, None, 1.0])
    assert (gain.value, gain.n) == (0.5, 2)
    with pytest.raises(ValueError, match="both sides"):
        paired_gain([None], [1.0])


def test_a_resumed_run_knows_where_it_began(tmp_path):
    fields = questions(tmp_path, MISSING) | {"checkpoint__final": True}
    first = Trainer(parse(tmp_path, **fields)).run()
    resumed = Trainer(parse(tmp_path, **(fields | {"run__steps": 2})), resume=True).run()
    assert resumed.before.accuracy == first.before.accuracy
    assert resumed.gain is not None
    assert resumed.gain.n == 8


def test_the_command_prints_before_and_after_of_a_resumed_run(tmp_path, capsys):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(settings(tmp_path, **questions(tmp_path), checkpoint__final=True)))
    assert main(["train", str(path), "--no-report"]) == 0
    capsys.readouterr()
    assert main(["train", str(path), "--no-report", "--resume", "run.steps=2"]) == 0
    printed = capsys.readouterr().out
    for word in ("before", "after", "gain (paired)", "on disk"):
        assert word in printed


def test_the_curve_has_five_points_unless_the_run_is_short_or_says_otherwise(tmp_path):
    block = parse(tmp_path).evaluate
    steps = {n: [s for s in range(1, n) if block.interval(n) and s % block.interval(n) == 0] for n in (3, 20, 60, 201)}
    assert steps == {3: [], 20: [5, 10, 15], 60: [15, 30, 45], 201: [51, 102, 153]}
    assert parse(tmp_path, evaluate__every=0).evaluate.interval(60) == 0
    assert parse(tmp_path, evaluate__every=7).evaluate.interval(60) == 7
    run = parse(tmp_path, **questions(tmp_path, good=3) | {"run__steps": 3, "evaluate__every": 2})
    Trainer(run).run()
    rows = [json.loads(line) for line in (tmp_path / "run" / "evaluations.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 2, 3]
    with pytest.raises(ValueError, match=r"evaluate\.every"):
        parse(tmp_path, evaluate__every="often")
