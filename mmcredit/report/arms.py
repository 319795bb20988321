"""Runs sorted into arms (equal but for the seed) and tasks (equal questions), and what is refused."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from mmcredit.intervals import Interval, paired_gain
from mmcredit.report import summary
from mmcredit.report.records import Run, load_run

IGNORED = ("run.name", "run.dir", "run.seed", "run.threads")
OF_TASK = ("data.", "model.", "evaluate.", "rewards")  # settings that say what is learned, not how


@dataclass
class Arm:
    """Runs that differ by their seed only: one method."""

    label: str
    runs: list[Run] = field(default_factory=list)
    tasks: list[int] = field(default_factory=list)  # of each run


@dataclass(frozen=True)
class Pair:
    """An arm against the first one, on one task."""

    arm: str
    task: str
    gain: Interval  # mean difference of the share of right answers per question, seeds averaged; over questions
    seeds: tuple[int, int]


@dataclass(frozen=True)
class Compared:
    """All runs in their places."""

    arms: list[Arm]
    tasks: list[str]
    notes: list[str]
    pairs: list[Pair]

    def scores(self, arm: Arm) -> list[np.ndarray]:
        """Last held-out accuracy of each run, by task."""
        return [
            np.array([accuracy(r) for r, t in zip(arm.runs, arm.tasks, strict=True) if t == task])
            for task in range(len(self.tasks))
        ]


def sort_runs(run_dirs: Sequence[str | Path]) -> Compared:
    """Read the runs and sort them.

    Raises ValueError for fewer than two runs, one given twice, a directory that is no run, a run without a held-out
    evaluation after its first step, and arms that did not answer the same questions.
    """
    paths = [Path(p) for p in run_dirs]
    if len(paths) < 2:
        raise ValueError(f"a comparison takes at least 2 runs, got {len(paths)}")
    places = [p.resolve() for p in paths]
    for path, place in zip(paths, places, strict=True):
        if places.count(place) > 1:
            raise ValueError(f"run {path} is given twice")
    runs = [load_run(p) for p in paths]
    notes = []
    for run in runs:
        if not run.evaluations:
            raise ValueError(
                f"{run.path} holds no held-out evaluation: nothing to compare; set data.evaluate, or let it go on"
            )
        if not run.answers:
            notes.append(
                f"{run.path.name} does not keep its answers question by question (a run of an older version): it "
                "enters no paired difference."
            )
        if (text := summary.unfinished(run)) is not None:
            notes.append(f"{run.path.name}: {text}")
    arms = _arms(runs)
    tasks = _tasks(arms)
    notes += _same_seed(arms)
    compared = Compared(arms, tasks, notes, [])
    compared.pairs.extend(_pairs(compared))
    return compared


def _same_seed(arms: Sequence[Arm]) -> list[str]:
    """What to say of runs that are no independent repetitions: one seed, or the very same numbers."""
    said = []
    for arm in arms:
        known: dict[Any, Run] = {}
        for run in arm.runs:
            key = (_questions(run), summary.at(run.config, "run.seed"))
            first = known.setdefault(key, run)
            if first is not run:
                copied = [row.get("reward/mean") for row in first.metrics] == [
                    row.get("reward/mean") for row in run.metrics
                ]
                what = (
                    "hold the same numbers: one is a copy of the other" if copied else f"have one run.seed ({key[1]})"
                )
                said.append(
                    f"{arm.label}: {first.path} and {run.path} {what}; an interval over seeds takes them for two"
                )
    return said


def accuracy(run: Run) -> float:
    """The last held-out accuracy."""
    found = [summary.number(row.get("accuracy")) for row in run.evaluations]
    known = [value for value in found if value is not None]
    if not known:
        raise ValueError(f"{run.path}: no evaluation states an accuracy")
    return known[-1]


def last_answers(run: Run) -> dict[str, float]:
    """Share of right answers by question, at the last evaluation; {} in runs of older versions."""
    return {str(k): float(v) for k, v in run.answers[-1]["right"].items()} if run.answers else {}


def leaves(value: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted settings of a config."""
    if isinstance(value, Mapping) and value:
        return {
            key: leaf
            for name, item in value.items()
            for key, leaf in leaves(item, f"{prefix}.{name}" if prefix else str(name)).items()
        }
    return {prefix: value}


def differences(configs: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """Dotted settings whose values are not the same in all configs, with the value in each (– if absent)."""
    flat = [leaves(config) for config in configs]
    names = dict.fromkeys(name for found in flat for name in found)
    table = [(name, [written(found[name]) if name in found else "–" for found in flat]) for name in names]
    return [(name, values) for name, values in table if len(set(values)) > 1 and name not in ("run.name", "run.dir")]


def written(value: Any) -> str:
    """A value as a config line has it."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True)
    return text.removesuffix("...\n").strip()


def _arms(runs: Sequence[Run]) -> list[Arm]:
    """One arm per set of settings that say how it is learned; the credit names it, else what differs."""

    def how(run: Run, whole: bool) -> str:
        found = {k: v for k, v in leaves(run.config).items() if k not in IGNORED}
        return json.dumps({k: v for k, v in found.items() if whole or not k.startswith(OF_TASK)}, default=str)

    # Model and rewards belong to the task where there are several; on the same questions they are what is compared.
    apart: dict[tuple[str, str], set[str]] = {}
    for run in runs:
        apart.setdefault((how(run, False), _questions(run)), set()).add(how(run, True))
    whole = any(len(found) > 1 for found in apart.values())
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(how(run, whole), []).append(run)
    names = [" + ".join(summary.method_names(found[0])) or found[0].path.name for found in groups.values()]
    if len(set(names)) < len(names):
        firsts = [found[0].config for found in groups.values()]
        differ = [(k, v) for k, v in differences(firsts) if k not in IGNORED and (whole or not k.startswith(OF_TASK))]
        for i, name in enumerate(names):
            more = ", ".join(f"{k.rpartition('.')[2]}={v[i]}" for k, v in differ if k != "credit")[:80]
            credit = next((v[i] for k, v in differ if k == "credit"), "")
            names[i] = f"{credit or name}{f' ({more})' if more else ''}"
    for i, name in enumerate(names):
        if names.count(name) > 1:
            names[i] = f"{name} #{i + 1}"
    return [Arm(name, found) for name, found in zip(names, groups.values(), strict=True)]


def _tasks(arms: Sequence[Arm]) -> list[str]:
    """Number the tasks in the arms' runs. Runs with the same held-out questions are of one task."""
    known: dict[str, int] = {}
    names: list[str] = []
    for arm in arms:
        for run in arm.runs:
            key = _questions(run)
            if key not in known:
                known[key] = len(names)
                source = summary.entry_name(summary.at(run.config, "data.evaluate") or "held-out")
                names.append(source if source not in names else f"{source} #{names.count(source) + 1}")
            arm.tasks.append(known[key])
    for arm in arms:
        for task, name in enumerate(names):
            if task not in arm.tasks:
                others = ", ".join(str(r.path) for other in arms for r, t in zip(other.runs, other.tasks, strict=True)
                                   if t == task)  # fmt: skip
                raise ValueError(
                    f"the runs answered different questions: {arm.label!r} ({arm.runs[0].path}) has no run on the "
                    f"questions of {name} ({others}); compare runs with the same data.evaluate and evaluate.limit"
                )
    return names


def _questions(run: Run) -> str:
    """What the run was asked: its questions where they are kept, else the settings that choose them."""
    chosen = {k: v for k, v in leaves(run.config).items() if k.startswith(("data.evaluate", "evaluate."))}
    text = json.dumps(chosen, sort_keys=True, default=str)
    if not chosen or all(v is None for v in chosen.values()):
        text = "\n".join(sorted(last_answers(run)))
    return hashlib.sha256(text.encode()).hexdigest()


def _pairs(compared: Compared) -> list[Pair]:
    """Every later arm against the first, per task, over the questions that all their runs could judge."""
    first, *others = compared.arms
    found = []
    for task, name in enumerate(compared.tasks):
        base = _per_question(first, task)
        for arm in others:
            mine = _per_question(arm, task)
            if base is None or mine is None:
                continue
            shared = [q for q in base if q in mine]
            if not shared:
                raise ValueError(
                    f"{first.label!r} and {arm.label!r} share no question of {name}: their seeds chose different ones; "
                    "set evaluate.limit=null, or give the runs one run.seed each of a pair"
                )
            if len(shared) < max(len(base), len(mine)):
                compared.notes.append(
                    f"{arm.label} against {first.label} on {name}: {len(shared)} of {max(len(base), len(mine))} "
                    "questions are common to all their runs, and only these enter the difference."
                )
            seeds = (first.tasks.count(task), arm.tasks.count(task))
            answers = math.lcm(*seeds)  # a difference moves in steps of one answer in so many
            gain = paired_gain([base[q] for q in shared], [mine[q] for q in shared], answers)
            found.append(Pair(arm.label, name, gain, seeds))
    return found


def _per_question(arm: Arm, task: int) -> dict[str, float] | None:
    """Mean share of right answers per question over the arm's runs of a task; of questions that all of them judged."""
    tables = [last_answers(r) for r, t in zip(arm.runs, arm.tasks, strict=True) if t == task]
    if not tables or not all(tables):
        return None
    shared = [q for q in tables[0] if all(q in table for table in tables)]
    return {q: sum(table[q] for table in tables) / len(tables) for q in shared}
