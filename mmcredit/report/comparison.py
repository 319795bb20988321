"""Several runs on one page: what each reached and cost, where their configs differ, their curves over each other."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from mmcredit.report import summary
from mmcredit.report.files import replace_file
from mmcredit.report.glossary import meaning_of
from mmcredit.report.page import curves, evaluation_curves, fill, run_name
from mmcredit.report.records import Run, load_run

MAX_RUNS = 8  # as many as there are colours that can be told apart


def render_comparison(run_dirs: Sequence[str | Path], path: str | Path) -> Path:
    """Write a page that compares two to eight runs to `path`, and return it.

    Raises ValueError for another number of runs, and for a directory that is no run.
    """
    if not 2 <= len(run_dirs) <= MAX_RUNS:
        raise ValueError(f"a comparison takes 2 to {MAX_RUNS} runs, got {len(run_dirs)}")
    runs = [load_run(run_dir) for run_dir in run_dirs]
    labels = _labels(runs)
    shown = []
    for label, run in zip(labels, runs, strict=True):
        curve, sets = curves(run), evaluation_curves(run)
        accuracy = sets[0]["points"] if sets else []
        shown.append({"label": label, "steps": curve["steps"], "series": curve["series"], "accuracy": accuracy})
    metrics = list(dict.fromkeys(name for run in shown for name in run["series"]))
    entries = {name: entry for name in metrics if (entry := meaning_of(name)) is not None}
    data = {
        "runs": shown,
        "metrics": metrics,
        "samples": [],
        "evaluations": [{"name": run["label"], "mode": "", "points": run["accuracy"]} for run in shown],
        "curves": {
            "steps": sorted({step for run in shown for step in run["steps"]}),
            "series": {},
            "meaning": {name: [entry.meaning, entry.wrong] for name, entry in entries.items()},
        },
    }
    context = {
        "rows": [_row(label, run) for label, run in zip(labels, runs, strict=True)],
        "notes": [
            f"{label}: {text}" for label, run in zip(labels, runs, strict=True) if (text := summary.unfinished(run))
        ],
        "differences": differences([run.config for run in runs]),
    }
    target = Path(path)
    replace_file(target, fill("compare.html", ("common.js", "curves.js", "compare.js"), data, context))
    return target


def differences(configs: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """Dotted settings whose values are not the same in all configs, with the value in each (– if absent)."""
    flat = [dict(_leaves(config)) for config in configs]
    names = dict.fromkeys(name for leaves in flat for name in leaves)
    table = [(name, [_written(leaves[name]) if name in leaves else "–" for leaves in flat]) for name in names]
    ignored = ("run.name", "run.dir")
    return [(name, values) for name, values in table if len(set(values)) > 1 and name not in ignored]


def _written(value: Any) -> str:
    """A value as a config line has it."""
    return (
        yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True).removesuffix("...\n").strip()
    )


def _leaves(value: Any, prefix: str = "") -> list[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        return [
            leaf for key, item in value.items() for leaf in _leaves(item, f"{prefix}.{key}" if prefix else str(key))
        ]
    return [(prefix, value)]


def _labels(runs: Sequence[Run]) -> list[str]:
    """Run names; where two are equal, the directory is added; where those are equal too, a number."""
    names = [run_name(run) for run in runs]
    counts = Counter(names)
    names = [n if counts[n] == 1 else f"{n} ({run.path.resolve().name})" for n, run in zip(names, runs, strict=True)]
    counts = Counter(names)
    return [n if counts[n] == 1 else f"{n} #{i + 1}" for i, n in enumerate(names)]


def _row(label: str, run: Run) -> dict[str, Any]:
    rewards = [v for row in run.metrics if (v := summary.number(row.get("reward/mean"))) is not None]
    accuracy = summary.before_after(run)
    item = accuracy[0] if accuracy else {}
    cost = summary.cost_tables(run.cost)
    flops = [f for row in cost["passes"] if (f := row["counters"].get("flops")) is not None]
    steps = cost["steps"] or len(run.metrics)
    last = item.get("last", {}) if "gain" in item else {}
    return {
        "label": label,
        "credit": " + ".join(summary.method_names(run)),
        "steps": len(run.metrics),
        "before": item["first"]["accuracy"] if item else None,
        "after": last.get("accuracy"),
        "low": last.get("low"),
        "high": last.get("high"),
        "gain": item.get("gain"),
        "gain_low": item.get("gain_low"),
        "gain_high": item.get("gain_high"),
        "reward": statistics.fmean(rewards[-max(1, len(rewards) // 10) :]) if rewards else None,
        "seconds": cost["seconds"] or None,
        "per_step": cost["seconds"] / steps if cost["seconds"] and steps else None,
        "flops": sum(flops) if flops else None,
        "memory": cost["peak_memory_mb"],
    }
