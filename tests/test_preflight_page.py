"""What `mmcredit check` prints, and its exit code."""

from __future__ import annotations

import io
import json

import yaml
from rich.console import Console
from runs import settings

from mmcredit import cli, commands
from mmcredit import config as configs
from mmcredit.policy.policy import Policy
from mmcredit.train.preflight.look import look
from mmcredit.train.preflight.page import shortened, show


def printed(found, width):
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    show(found, console)
    return console.file.getvalue()


def test_the_page_reads_well_in_80_columns(tmp_path):
    """Nothing is cut off or folded within a word of a table, and everything that was found is there."""
    method = {"spo_tree": {}}
    values = settings(
        tmp_path,
        data__evaluate={"easy_vqa": {"split": "test", "limit": 6}},
        rewards=["exact_answer", "format"],
        credit=["spo_tree"],
        rollout__strategies=[method],
    )
    run = configs.parse(values)
    found = look(run, Policy.load(run.model), 6)
    text = printed(found, 80)
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    for part in (
        "sample easy_vqa/train/0 of data.train, as the model reads it",
        "<|vision_start|><image: 4 tokens><|vision_end|>",
        "reference: ",
        "an ideal response: ",
        "its reward: 2 (exact_answer 1, format 1)",
        "exact_answer looks for <answer>; none of 6 prompts mention it",
        "data.evaluate",
        "6 of 6",
        "spo_tree: a 4-2-2 tree for each prompt, up to 112 segments and 64 leaves",
        "memory at most",
        "free (",
        "nothing to complain about",
    ):
        assert part in " ".join(text.split()) or part in text, part
    assert printed(found, 200)


def test_a_long_prompt_is_shown_by_its_ends():
    text = "a" * 5000 + "b" * 5000
    short = shortened(text, 100)
    assert short.startswith("a" * 50 + "\n... 9900 characters ...\n")
    assert short.endswith("b" * 50)
    assert shortened("short") == "short"


def write(tmp_path, rows, **changes):
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    values = settings(
        tmp_path, data__train={"jsonl": {"path": str(tmp_path / "train.jsonl")}}, rewards=["number"], **changes
    )
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(values))
    return str(path)


def test_exit_codes(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(commands, "console", Console(width=80))
    good = [{"prompt": f"What is {i}?", "answer": str(i)} for i in range(8)]
    assert cli.main(["check", write(tmp_path, good)]) == 0  # a vision model without an image: a warning
    out = capsys.readouterr().out
    assert "warning: " in out
    assert "error: " not in out
    assert cli.main(["check", write(tmp_path, [{"prompt": "What?", "answer": "red"}] * 8)]) == 1
    assert "error: " in capsys.readouterr().out
    assert cli.main(["check", write(tmp_path, good), "--samples", "0"]) == 2
    assert "--samples must be at least 1, got 0" in capsys.readouterr().err


def test_the_help_tells_the_exit_codes(capsys):
    try:
        cli.main(["check", "--help"])
    except SystemExit as end:
        code = end.code
    assert code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "Exit code: 0 if a run can start (warnings included), 1 if" in text
    assert "2 for a wrong command or config" in text
