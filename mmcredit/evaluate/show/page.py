"""`evaluate.html`: tables with intervals, and answers on clean and corrupted images side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmcredit.evaluate.judge.results import Results, scoring_note
from mmcredit.report.files import replace_file
from mmcredit.report.page import fill

if TYPE_CHECKING:
    from mmcredit.evaluate.show.examples import Example

MEANING = (
    (
        "interval",
        "95 %. Score intervals over the questions: Wilson's for right or wrong, its generalisation for shares of "
        "several answers; bootstrap for ratios",
    ),
    (
        "several attempts",
        "every metric is the mean over the attempts; pass@k: chance that one of k attempts is right; majority@k: "
        "chance that the most frequent of k answers is right",
    ),
    (
        "robustness",
        "the same questions in every row, those answered in all cells; an operator's accuracy is the mean over its "
        "severities, and each operator weighs the same in a mean",
    ),
    ("seen, unseen", "operators that training may corrupt with; operators kept for evaluation"),
    (
        "drop",
        "clean minus corrupted accuracy in points, score interval of the paired differences; relative: drop / clean",
    ),
    (
        "scored by",
        "official: the benchmark's own rule; judge: a judge model, as the official way wants; rule: the official way "
        "wants a judge model and a rule stood in; for held-out questions the run's reward is the rule",
    ),
    ("skipped", "questions that cannot be read, encoded or sampled; they count in no number, and all are listed"),
)


def write_page(
    results: Sequence[Results],
    shown: Sequence[Sequence[tuple[str, Sequence[Example]]]],
    about: Mapping[str, Any],
    path: Path,
) -> Path:
    """Write the page; `shown` holds, per result, headings with their examples."""
    context = {
        "model": about["model"],
        "facts": _facts(about),
        "results": [
            {
                "found": result,
                "overall": result.overall,
                "axes": [_axis(axis, groups) for axis, groups in result.summary.groups.items()],
                "severities": sorted({s for row in result.robustness for s in row.severities}),
                "cells": _cells(result),
                "note": scoring_note(result),
                "skipped": result.skipped_by_reason(),
                "examples": examples,
            }
            for result, examples in zip(results, shown, strict=True)
        ],
        "judge": {**about["referee"], **about["judge"]},
        "judge_errors": about["judge_errors"],
        "meaning": MEANING,
    }
    replace_file(path, fill("evaluate.html", (), {}, context))
    return path


def _facts(about: Mapping[str, Any]) -> list[tuple[str, str]]:
    sampling = about["sampling"]
    corrupted = len(about["cells"]) - 1
    return [
        ("model", f"{about['model']} ({about['dtype']})"),
        ("decoding", "greedy" if sampling["temperature"] == 0 else f"temperature {sampling['temperature']:g}"),
        ("answers per question", str(about["attempts"])),
        ("longest answer", f"{sampling['max_new_tokens']} tokens"),
        ("cells", "clean images" if not corrupted else f"clean and {corrupted} (operator, severity)"),
        ("seed", f"{about['seed']}, corruptions {about['corruption_seed']}"),
    ]


def _axis(axis: str, groups: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """A subgroup table: all metrics that any of its groups has."""
    metrics = list(dict.fromkeys(name for group in groups.values() for name in group))
    return {"name": axis, "metrics": metrics, "groups": groups}


def _cells(result: Results) -> list[dict[str, Any]]:
    """Headline metric per cell, where it is another one than accuracy."""
    headline = result.summary.headline
    if headline == "accuracy" or len(result.cells) == 1:
        return []
    return [{"label": label, "value": found.get(headline)} for label, found in result.cells.items()]
