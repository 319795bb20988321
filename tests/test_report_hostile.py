"""What has broken viewers and loggers of others: brackets taken for markup, lone surrogates, NaN, clocks, copies.

Kinds of trl#3353, verifiers#284 (brackets), wandb#6253, claude-code-log#139 (characters), chainerui#16, guildai#211
(NaN), OneTrainer#583 (moved runs) and tensorboard#544 (two runs that are one).
"""

from __future__ import annotations

import io
import json
import re
import shutil
from dataclasses import replace

import pytest
from rich.console import Console
from runs import parse
from test_compare import write_run as compared_run
from test_report_page import open_page, sample, write_run

from mmcredit import commands
from mmcredit.cli import main
from mmcredit.report import summary
from mmcredit.report.arms import sort_runs
from mmcredit.report.page import render
from mmcredit.report.records import Records, load_run
from mmcredit.report.samples import read_samples
from mmcredit.train.loop import Trainer
from mmcredit.train.progress import Progress

BRACKETS = "[/INST] a[0] [bold]x[/] \\[y]"


def test_messages_with_brackets_are_printed_as_they_stand():
    out = io.StringIO()
    progress = Progress(console=Console(file=out, width=200))
    progress.say(BRACKETS, "yellow")
    assert out.getvalue().strip() == BRACKETS
    assert not commands.console._markup


def test_a_reward_that_quotes_brackets_does_not_end_the_run(tmp_path, capsys):
    path = tmp_path / "raising.py"
    path.write_text(f"def raising(item):\n    raise ValueError({BRACKETS!r} + item.response)\n")
    changes = {"rewards": [{"function": {"path": f"{path}:raising"}}], "run__steps": 1}
    Trainer(parse(tmp_path, **changes, check__max_reward_error_share=1.0), progress=Progress()).run()
    assert "[/INST]" in (tmp_path / "run" / "events.jsonl").read_text()
    assert "[/INST]" in capsys.readouterr().out


def test_a_path_with_brackets_is_said_whole(tmp_path, capsys):
    run_dir = write_run(tmp_path / "[bold]run[-1]")
    assert main(["report", str(run_dir)]) == 0
    assert "[bold]run[-1]" in capsys.readouterr().out.replace("\n", "")


def test_lone_surrogates_are_written_as_their_escapes(tmp_path):
    run_dir = write_run(tmp_path / "run")
    bad = "a\ud800b"
    with Records(run_dir, resume_step=9) as records:
        row = sample(0, 1.0, media=[])
        texts = dict.fromkeys(("sample_id", "question", "response", "answer", "prompt"), bad)
        records.samples.write(9, [replace(row, **texts)])
        records.evaluations.answers(9, bad, "greedy", {bad: 1.0})
        records.events.write(9, bad)
        records.metrics.write(9, {bad: 1.0})
        records.write_config(f"run: {{name: '{bad}'}}")
    assert read_samples(run_dir / "samples" / "step-000009.parquet")[0]["prompt"] == "a\\ud800b"
    assert load_run(run_dir).metrics[-1][bad] == 1.0  # the escape of JSON: it comes back as it was
    assert "a\\ud800b" in render(run_dir).read_text(encoding="utf-8")


def test_numbers_that_json_does_not_have_are_gaps(tmp_path):
    run_dir = write_run(tmp_path / "run")
    with (run_dir / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "time": NaN, "reward/mean": NaN, "x": Infinity, "y": -Infinity}\n')
        file.write('{"step": 6, "time": null, "reward/mean": [1]}\n{"step": 7, "time": "late", "x": "high"}\n[1]\n')
    with (run_dir / "evaluations.jsonl").open("a") as file:
        file.write(
            '{"step": 5, "name": "test", "mode": "greedy", "n": null, "accuracy": NaN, "low": null, "high": 1}\n'
        )
    (run_dir / "cost.json").write_text('{"stages": {"rollout": {"seconds": NaN}}, "passes": {}, "methods": {}}')
    html = open_page(run_dir).html
    assert not re.search(r"[:,\[](NaN|-?Infinity)[,\]}]", html)


def test_a_clock_that_is_put_back_takes_no_time_away(tmp_path):
    run_dir = write_run(tmp_path / "run", evaluations=False)
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_bytes().split(b"\n") if line]
    for row, seconds in zip(rows, (1000.0, 1010.0, 400.0, 425.0), strict=True):
        row["time"] = seconds
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert dict(summary.header(load_run(run_dir)))["wall time"] == "35 s"


def test_a_run_that_was_moved_is_read_where_it_is(tmp_path):
    run_dir = write_run(tmp_path / "before")
    shutil.move(run_dir, tmp_path / "after")
    assert render(tmp_path / "after").parent == tmp_path / "after"
    assert "data:image/png" in (tmp_path / "after" / "report.html").read_text(encoding="utf-8")


def test_two_runs_that_are_one_are_said_to_be(tmp_path):
    first = compared_run(tmp_path / "a" / "run")
    other = compared_run(tmp_path / "b" / "run", credit="tempo")  # the same name elsewhere is another run
    shutil.copytree(first, tmp_path / "copy")
    (note,) = sort_runs([first, other, tmp_path / "copy"]).notes
    assert "one is a copy of the other" in note
    again = compared_run(tmp_path / "c" / "run")
    rows = (again / "metrics.jsonl").read_text().replace('"reward/mean": 0.1', '"reward/mean": 0.2')
    (again / "metrics.jsonl").write_text(rows)
    (note,) = sort_runs([first, other, again]).notes
    assert "have one run.seed (0)" in note
    assert sort_runs([first, other, compared_run(tmp_path / "d" / "run", seed=1)]).notes == []
    link = tmp_path / "link"
    link.symlink_to(first)
    with pytest.raises(ValueError, match="given twice"):
        sort_runs([first, link])
