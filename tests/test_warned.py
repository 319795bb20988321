"""Warnings: one line each, once per kind, without the source line."""

from __future__ import annotations

import json
import warnings

from runs import settings

from mmcredit import warned
from mmcredit.cli import main


def test_one_line_per_kind():
    said, heard = [], []
    stop = warned.listen(heard.append)
    before = warnings.showwarning
    with warned.one_line(said.append):
        warnings.warn("sample 'a' is 12 tokens\n   too long", stacklevel=1)
        for i in range(3):
            warnings.warn(f"sample 's{i}' is {i} tokens too long", stacklevel=1)
        warnings.warn("another thing", FutureWarning, stacklevel=1)
        warnings.warn("x" * 1000, stacklevel=1)
    stop()
    stop()
    assert warnings.showwarning is before
    assert said[:2] == ["sample 'a' is 12 tokens too long", "another thing"]
    assert len(said[2]) == 400
    assert said[3:] == ["3 further warnings of these kinds were not repeated"]
    assert heard == said[:3]
    with warned.one_line(said.append):
        pass
    assert len(said) == 4


def test_where_a_library_warns_its_name_stands():
    said = []
    with warned.one_line(said.append):
        warnings.warn_explicit("old", FutureWarning, "/x/lib/python3/site-packages/transformers/a/b.py", 7)
        warnings.warn_explicit("gone", DeprecationWarning, "/x/lib/python3/site-packages/torch/b.py", 7)
    assert said[0] == "transformers: old"


def test_a_command_says_a_warning_in_one_line_and_the_run_keeps_it(tmp_path, capsys):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(settings(tmp_path, run__steps=1)))
    # Every response is over this budget: each would warn, with other names and numbers.
    assert main(["train", str(path), "--no-report", "train.token_budget=8"]) == 0
    printed = capsys.readouterr().err
    lines = [line for line in printed.splitlines() if "exceed" in line]
    assert len(lines) == 1
    assert lines[0].startswith("mmcredit: note: sample ")
    assert "UserWarning" not in printed
    assert "warnings.warn" not in printed
    events = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    assert sum("exceed" in e["message"] for e in events) == 1
