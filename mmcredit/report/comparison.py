"""Several runs and seeds of several methods: `compare.html`, `compare.parquet`, and a table for the terminal."""

from __future__ import annotations

import io
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmcredit.report import summary
from mmcredit.report.aggregate import interquartile_mean, probability_of_improvement, stratified_bootstrap
from mmcredit.report.arms import Arm, Compared, accuracy, differences, sort_runs
from mmcredit.report.files import replace_file
from mmcredit.report.gallery import short
from mmcredit.report.glossary import meaning_of
from mmcredit.report.page import curves, fill, run_name
from mmcredit.report.records import Run

MAX_ARMS = 8  # as many as there are colours that can be told apart
PAGE, TABLE = "compare.html", "compare.parquet"


def compare(run_dirs: Sequence[str | Path], folder: str | Path) -> tuple[Compared, list[dict[str, Any]], list[Path]]:
    """Write the page and the table of two or more runs into `folder`. Returns the sorted runs, the rows, the files.

    Raises ValueError as `sort_runs`, and for more than `MAX_ARMS` methods.
    """
    compared = sort_runs(run_dirs)
    if len(compared.arms) > MAX_ARMS:
        raise ValueError(f"a comparison shows at most {MAX_ARMS} methods, got {len(compared.arms)}")
    rows = [_arm_row(compared, arm) for arm in compared.arms]
    runs = [
        _run_row(arm.label, compared.tasks[task], run)
        for arm in compared.arms
        for run, task in zip(arm.runs, arm.tasks, strict=True)
    ]
    shown = [_curves(arm, task, compared) for task in range(len(compared.tasks)) for arm in compared.arms]
    metrics = list(dict.fromkeys(name for item in shown for name in item["series"]))
    entries = {name: entry for name in metrics if (entry := meaning_of(name)) is not None}
    data = {
        "arms": [arm.label for arm in compared.arms],
        "shown": shown,
        "metrics": metrics,
        "tasks": compared.tasks,
        "points": runs,
        "samples": [],
        "evaluations": [{"name": s["label"], "mode": "", "points": s["accuracy"]} for s in shown],
        "curves": {
            "steps": sorted({step for item in shown for step in item["steps"]}),
            "series": {},
            "meaning": {name: [entry.meaning, entry.wrong] for name, entry in entries.items()},
        },
    }
    table = differences([arm.runs[0].config for arm in compared.arms])
    context = {
        "rows": rows,
        "runs": runs,
        "notes": compared.notes,
        "pairs": compared.pairs,
        "first": compared.arms[0].label,
        "tasks": compared.tasks,
        "differences": [(name, values) for name, values in table if name != "run.seed"],
    }
    folder = Path(folder)
    replace_file(
        folder / PAGE, fill("compare.html", ("common.js", "curves.js", "compare.js", "sort.js"), data, context)
    )
    return compared, rows, [folder / PAGE, _parquet(runs, folder / TABLE)]


def _parquet(rows: list[dict[str, Any]], path: Path) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink, compression="zstd")
    replace_file(path, sink.getvalue())
    return path


def _arm_row(compared: Compared, arm: Arm) -> dict[str, Any]:
    """One method: interquartile mean over runs and tasks, probability of improvement over the first, and cost."""
    scores, first = compared.scores(arm), compared.scores(compared.arms[0])
    interval = stratified_bootstrap(interquartile_mean, scores)
    row: dict[str, Any] = {
        "label": arm.label,
        "runs": len(arm.runs),
        "iqm": interquartile_mean(scores),
        "iqm_low": None if interval is None else interval[0],
        "iqm_high": None if interval is None else interval[1],
        "better": None,
        "better_low": None,
        "better_high": None,
    }
    if arm is not compared.arms[0]:
        row["better"] = probability_of_improvement(scores, first)
        around = stratified_bootstrap(probability_of_improvement, scores, first)
        row["better_low"], row["better_high"] = around or (None, None)
    costs = [_cost(run) for run in arm.runs]
    for name in ("seconds", "flops", "tokens", "memory"):
        known = [value for cost in costs if (value := cost[name]) is not None]
        row[name] = float(np.mean(known)) if known else None
    return row


def _cost(run: Run) -> dict[str, float | None]:
    cost = summary.cost_tables(run.cost)
    flops = [f for row in cost["passes"] if (f := row["counters"].get("flops")) is not None]
    tokens = [row["tokens"] for row in cost["stages"] if row["name"] == "rollout" and row["tokens"] is not None]
    return {
        "seconds": cost["seconds"] or None,
        "flops": sum(flops) if flops else None,
        "tokens": tokens[0] if tokens else None,
        "memory": cost["peak_memory_mb"],
    }


def _run_row(label: str, task: str, run: Run) -> dict[str, Any]:
    rewards = [v for row in run.metrics if (v := summary.number(row.get("reward/mean"))) is not None]
    pairs = summary.before_after(run)
    item = pairs[0] if pairs else {}
    last = item.get("last", {})
    return {
        "arm": label,
        "task": task,
        "run": run_name(run),
        "path": str(run.path),
        "seed": summary.number(summary.at(run.config, "run.seed")),
        "steps": len(run.metrics),
        "before": item["first"]["accuracy"] if item else None,
        "after": accuracy(run),
        "low": last.get("low"),
        "high": last.get("high"),
        "questions": last.get("n"),
        "reward": statistics.fmean(rewards[-max(1, len(rewards) // 10) :]) if rewards else None,
        **_cost(run),
    }


def _curves(arm: Arm, task: int, compared: Compared) -> dict[str, Any]:
    """Mean over the runs of an arm and task at every step that all of them have, and their least and greatest."""
    runs = [run for run, t in zip(arm.runs, arm.tasks, strict=True) if t == task]
    found = [curves(run) for run in runs]
    steps = sorted(set.intersection(*(set(f["steps"]) for f in found))) if found else []
    places = [{step: i for i, step in enumerate(f["steps"])} for f in found]
    series: dict[str, list[float | None]] = {}
    bands: dict[str, list[list[float]]] = {}
    for name in dict.fromkeys(n for f in found for n in f["series"]):
        if not all(name in f["series"] for f in found):
            continue
        rows = [[f["series"][name][place[step]] for f, place in zip(found, places, strict=True)] for step in steps]
        series[name] = [None if None in row else short(float(np.mean(row))) for row in rows]  # type: ignore[arg-type]
        if len(runs) > 1:
            bands[name] = [
                [step, short(min(row)), short(max(row))]  # type: ignore[type-var, arg-type, list-item]
                for step, row in zip(steps, rows, strict=True)
                if None not in row
            ]
    more = f" on {compared.tasks[task]}" if len(compared.tasks) > 1 else ""
    return {
        "label": f"{arm.label}{more}",
        "arm": compared.arms.index(arm),
        "runs": len(runs),
        "steps": steps,
        "series": series,
        "bands": bands,
        "accuracy": _accuracy(runs),
    }


def _accuracy(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Mean held-out accuracy at the steps that all runs evaluated; with it the range of several seeds, or the interval
    of one."""
    tables = []
    for run in runs:
        pairs = summary.before_after(run)
        tables.append({row["step"]: row for row in pairs[0]["rows"]} if pairs else {})
    steps = sorted(set.intersection(*(set(t) for t in tables))) if tables else []
    points = []
    for step in steps:
        rows = [t[step] for t in tables]
        values = [row["accuracy"] for row in rows]
        low, high = (min(values), max(values)) if len(rows) > 1 else (rows[0]["low"], rows[0]["high"])
        points.append({"step": step, "accuracy": statistics.fmean(values), "low": low, "high": high})
    return points
