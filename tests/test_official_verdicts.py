"""Verdicts of the official scorers, written down: `official_verdicts.jsonl`, and the driver that compares at large.

Every line is a case and what the official code says of it, at the commits of `benchmarks/scorers.md`: of option rules
the letter, of MATH-Vision [right, answer found], of MathVista [extraction, prediction, right], else right or wrong.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
SCRIPTS = HERE.parent / "scripts"
sys.path.insert(0, str(SCRIPTS))

from diff_scorers import BENCHMARKS, OURS  # noqa: E402
from scorer_cases import cases  # noqa: E402

VERDICTS: dict[str, list[tuple[Any, Any]]] = defaultdict(list)
for line in (HERE / "official_verdicts.jsonl").read_text(encoding="utf-8").splitlines():
    row = json.loads(line)
    VERDICTS[row["task"]].append((row["case"], row["verdict"]))


@pytest.mark.parametrize("task", sorted(VERDICTS))
def test_ours_agree_with_the_official_code(task: str) -> None:
    found = [case for case, _ in VERDICTS[task]]
    ours = json.loads(json.dumps(OURS[task](found)))
    apart = [(case, mine, theirs) for mine, (case, theirs) in zip(ours, VERDICTS[task], strict=True) if mine != theirs]
    assert not apart
    assert len(found) >= 4


def test_every_task_has_cases_and_verdicts_of_ours() -> None:
    generated = cases(seed=3, number=12)
    assert generated == cases(seed=3, number=12)
    assert generated["lmms"] != cases(seed=4, number=12)["lmms"]
    assert generated.keys() == OURS.keys() == BENCHMARKS.keys()
    for task, found in generated.items():
        assert len(OURS[task](found)) == len(found)


def test_the_driver_says_what_is_missing(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, SCRIPTS / "diff_scorers.py", "--official", tmp_path, "--cases", "2"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    rows = [text for text in run.stdout.splitlines() if "official code missing" in text]
    assert len(rows) == len(OURS)
