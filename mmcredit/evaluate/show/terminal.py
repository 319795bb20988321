"""What an evaluation says in the terminal, and its summary as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table

from mmcredit.evaluate.judge.results import Results, scoring_note
from mmcredit.report.files import replace_file
from mmcredit.version import __version__

if TYPE_CHECKING:
    from rich.console import Console

    from mmcredit.config import RunConfig
    from mmcredit.evaluate.ask.answer_lines import Rows
    from mmcredit.evaluate.ask.cells import Cell
    from mmcredit.intervals import Interval
    from mmcredit.rollout.engine import Sampling

MAX_GROUPS = 24  # of one subgroup table in the terminal; summary.json and the page have all


def about(config: RunConfig, cells: Sequence[Cell], sampling: Sampling, corruption_seed: int) -> dict[str, Any]:
    """What was evaluated, and how."""
    return {
        "mmcredit": __version__,
        "model": config.model.path,
        "dtype": config.model.dtype,
        "sampling": sampling.model_dump(mode="json"),
        "attempts": config.evaluate.samples,
        "seed": config.run.seed,
        "corruption_seed": corruption_seed,
        "cells": [cell.label for cell in cells],
    }


def write_summary(results: Sequence[Results], about: Mapping[str, Any], path: Path) -> Path:
    """Every number, as JSON."""
    content = {**about, "benchmarks": {result.name: result.as_dict() for result in results}}
    replace_file(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    return path


def print_resumed(rows: Rows, console: Console) -> None:
    """What was found of an earlier, killed evaluation."""
    if rows.kept:
        console.print(f"{rows.path.name}: going on after {rows.kept} finished rows", highlight=False)
    if rows.damaged or rows.unfinished:
        console.print(
            f"{rows.path.name}: {rows.damaged} line cut off and {rows.unfinished} rows of an unfinished question "
            "dropped; they are answered again",
            highlight=False,
        )


def print_results(found: Results, console: Console) -> None:
    """All tables of one set of questions."""
    summary = found.summary
    how = f"{found.attempts} answers each" if found.attempts > 1 else "one answer each"
    scoring = f", scoring {summary.scoring}" if summary.split else ""
    console.print(f"\n{found.name}: {summary.items} of {found.questions} questions, {how}{scoring}", highlight=False)
    table = Table("clean images", "value", "95 % interval", "n")
    for name, value in found.overall.items():
        starred = f"{name} *" if name == summary.headline and len(summary.overall) > 1 else name
        table.add_row(starred, *_numbers(value))
    console.print(table)
    if summary.groups:
        console.print(_groups(found))
    if found.robustness:
        console.print(_robustness(found))
    _print_notes(found, console)


def _groups(found: Results) -> Table:
    """The headline metric of every subgroup; the accuracy where no group of an axis has the headline."""
    summary = found.summary
    table = Table("subgroup", "metric", "value", "95 % interval", "n")
    for axis, groups in summary.groups.items():
        metric = summary.headline if any(summary.headline in g for g in groups.values()) else "accuracy"
        table.add_section()
        table.add_row(f"by {axis}", style="dim")
        for group, metrics in list(groups.items())[:MAX_GROUPS]:
            if metric in metrics:
                table.add_row(group, metric, *_numbers(metrics[metric]))
        if len(groups) > MAX_GROUPS:
            table.add_row(f"... and {len(groups) - MAX_GROUPS} more in summary.json", style="dim")
    return table


def _robustness(found: Results) -> Table:
    severities = sorted({s for row in found.robustness for s in row.severities})
    table = Table(
        "images",
        *(f"s{s}" for s in severities),
        "accuracy",
        "drop",
        "rel.",
        title=f"Robustness: {found.compared} questions, percent",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for column in table.columns:
        column.no_wrap = True
    for before, row in zip([None, *found.robustness], found.robustness, strict=False):
        if before is not None and row.kind != before.kind:
            table.add_section()
            if row.kind != "mean":
                table.add_row(f"{row.kind} operators", style="dim")
        per = [f"{100 * row.severities[s]:.1f}" if s in row.severities else "" for s in severities]
        drop = ["", ""]
        if row.drop is not None:
            drop = [_bracketed(row.drop), "–" if row.relative is None else f"{100 * row.relative:.1f}"]
        table.add_row(row.name, *per, _bracketed(row.accuracy), *drop)
    return table


def _print_notes(found: Results, console: Console) -> None:
    summary = found.summary
    by = ", ".join(f"{name} {count}" for name, count in summary.scored_by.items())
    console.print(f"  scored by: {by}; no answer found in {summary.unparsed} responses", highlight=False)
    note = scoring_note(found)
    for text in [note, *found.notes]:
        if text is not None:
            console.print(f"  note: {text}", style="yellow", highlight=False, markup=False)
    if summary.flags:
        flags = ", ".join(f"{name} {count}" for name, count in summary.flags.items())
        console.print(f"  flags: {flags}", highlight=False, markup=False)
    for reason, ids in found.skipped_by_reason().items():
        more = ", ..." if len(ids) > 5 else ""
        console.print(f"  skipped, {reason}: {len(ids)} ({', '.join(ids[:5])}{more})", highlight=False, markup=False)
    console.print(
        f"  mean length {found.mean_tokens:.1f} tokens, truncated {found.truncated:.1%}, {found.seconds:.0f} s",
        highlight=False,
    )


def print_judging(about: Mapping[str, Any], console: Console) -> None:
    """What was asked of worker processes and of the judge model, where there was anything."""
    for name in ("referee", "judge"):
        if about[name]:
            counts = ", ".join(f"{key} {count}" for key, count in about[name].items())
            console.print(f"{name}: {counts}", highlight=False)
    for message in about["judge_errors"]:
        console.print(f"judge: {message}", highlight=False, markup=False)


def _numbers(value: Interval) -> tuple[str, str, str]:
    return f"{100 * value.value:.1f} %", f"{100 * value.low:.1f} .. {100 * value.high:.1f}", str(value.n)


def _bracketed(value: Interval) -> str:
    return f"{100 * value.value:.1f} [{100 * value.low:.1f}, {100 * value.high:.1f}]"
