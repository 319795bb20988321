"""What vision credit does on the embedded tasks: GRPO, PGPO, VPPO, PAPO, NoisyRollout, ROMA over seeds.

Every run has the same model, steps, prompts and responses per step, so the same budget of rollouts; only the recipe
differs (its dynamic sampling is switched off: it would sample more). After training the held-out questions are answered
greedily on clean images and on every corruption operator, those that ROMA trains with (seen) and others (unseen).

    python scripts/effect_vision.py run --output DIR      # resumes: finished cells are kept, written as they come
    python scripts/effect_vision.py table --output DIR --markdown benchmarks/effect_vision.md \\
        --plot benchmarks/effect_vision.svg

A cell that was killed starts over. `--part 0/2` and `--part 1/2` share the cells between two processes.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

PAGE = """# Vision credit on the embedded tasks

Written by `scripts/effect_vision.py`: the tiny Qwen2.5-VL shipped for each task, {steps} steps with the same prompts
and responses for every method, then {questions} held-out questions (easy-VQA greedy, scenes at T = 1), clean and under
every operator of the suite at severity {severity}. Accuracy in percent, mean over seeds with Student's 95 % interval;
gains against GRPO are paired by seed (same data order, same questions). Whatever came out is here: an interval that
holds 0 says that this study cannot tell the method from GRPO. NoisyRollout trains the vision tower as all others do
here; its paper freezes it. `s` is training time beside another run.

{machine}
"""
HEAD = ("method", "seeds", "clean", "seen", "unseen", "clean - GRPO", "seen - GRPO", "unseen - GRPO", "s")
METHODS = ("grpo", "pgpo", "vppo", "papo", "noisy_rollout", "roma")
TASKS = {"easy_vqa": "easy_vqa", "scenes": "scenes"}
# Student's t, two-sided 95 %, by degrees of freedom.
T95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}


def cell(task: str, method: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Train one run and answer its held-out questions, clean and corrupted: right or wrong per question."""
    import tempfile

    from mmcredit import config
    from mmcredit.deferred import load_now

    load_now()

    from mmcredit.corruptions.suite import Suite
    from mmcredit.train.loop import Trainer
    from mmcredit.train.setup import versions

    with tempfile.TemporaryDirectory() as folder:
        strategies = [] if method == "noisy_rollout" else ["rollout.strategies=[]"]
        # The plain baseline is the config's own loss: DAPO-like, no KL, as the recipes of the other methods.
        run = config.load(
            TASKS[task],
            None if method == "grpo" else method,
            [
                f"run.dir={folder}/run", f"run.seed={seed}", f"run.steps={options.steps}", "run.threads=1",
                "rollout.sampling.top_p=1.0", "model.freeze_vision=false", f"evaluate.limit={options.questions}",
                "log.tensorboard=false", "log.samples_every=0", "checkpoint.every=0", "checkpoint.final=false",
                *strategies, *options.set,
            ],
        )  # fmt: skip
        began = time.perf_counter()
        trainer = Trainer(run)
        outcome = trainer.run()
        trained = time.perf_counter() - began
        assert outcome.before is not None
        assert outcome.after is not None
        suite = Suite(eval_severities=tuple(options.severity))
        with trainer.parts.pool as pool:  # its workers ended with the run; they start again here
            corrupted = answers(trainer, pool, suite)
    return {
        "task": task, "method": method, "seed": seed, "steps": options.steps, "questions": len(outcome.after.correct),
        "severity": options.severity, "set": options.set, "seconds": trained, "training_seconds": outcome.seconds,
        "before": outcome.before.correct, "clean": outcome.after.correct, "corrupted": corrupted,
        "commit": versions()["commit"],
    }  # fmt: skip


def answers(trainer: Any, pool: Any, suite: Any) -> dict[str, dict[str, list[float]]]:
    """Right (1) or wrong (0) per held-out question, by split and cell: the same pixels for every method."""
    from mmcredit.evaluate.held_out import evaluation_sampling, evaluation_seeds
    from mmcredit.evaluate.judge.robustness import evaluate_cells, reward_judge

    config, parts = trainer.config, trainer.parts
    cells = {split: suite.cells(split) for split in ("seen", "unseen")}
    found = evaluate_cells(
        parts.policy, parts.engine, parts.held_out, reward_judge(pool, config.evaluate.reward or pool.names[0]),
        [*cells["seen"], *cells["unseen"]], sampling=evaluation_sampling(config),
        seeds=lambda sample: evaluation_seeds(config, sample), max_prompt_tokens=config.data.max_prompt_tokens,
    )  # fmt: skip
    labels = {split: [f"{operator.title}:{severity}" for operator, severity in own] for split, own in cells.items()}
    return {split: {label: list(found.correct[label]) for label in own} for split, own in labels.items()}


def run(options: argparse.Namespace) -> None:
    """All cells that are missing, seeds outermost: a study that is cut short has whole seeds."""
    from rich.progress import track

    options.output.mkdir(parents=True, exist_ok=True)
    cells = [(t, m, s) for s in options.seeds for t in options.tasks for m in options.methods]
    index, parts = (int(x) for x in options.part.split("/"))
    mine = [c for c in cells[index::parts] if not _file(options.output, *c).exists()]
    for task, method, seed in track(mine, "runs"):
        if _file(options.output, task, method, seed).exists():  # another process on this folder was faster
            continue
        arguments = ["--steps", str(options.steps), "--questions", str(options.questions)]
        arguments += ["--severity", *map(str, options.severity), *(["--set", *options.set] if options.set else [])]
        command = [
            sys.executable,
            __file__,
            "cell",
            task,
            method,
            str(seed),
            "--output",
            str(options.output),
            *arguments,
        ]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            print(f"{task} {method} {seed} failed:\n{result.stderr[-3000:]}", file=sys.stderr)


def _file(output: Path, task: str, method: str, seed: int) -> Path:
    return output / f"{task}-{method}-{seed}.json"


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def scores(found: dict[str, Any]) -> dict[str, float]:
    """Accuracy of a cell: before, clean, and the mean over the operators of each split."""
    splits = {
        split: mean([mean(right) for name, right in found["corrupted"][split].items()]) for split in ("seen", "unseen")
    }
    return {"before": mean(found["before"]), "clean": mean(found["clean"]), **splits}


def interval(values: list[float]) -> tuple[float, float]:
    """Mean and half-width of Student's 95 % interval over seeds; no width from one seed."""
    half = math.nan
    if len(values) > 1:
        half = T95[len(values) - 1] * statistics.stdev(values) / math.sqrt(len(values))
    return mean(values), half


def table(options: argparse.Namespace) -> None:
    """Markdown and plot of all finished cells."""
    from bench_common import machine

    cells = [json.loads(path.read_text()) for path in sorted(options.output.glob("*-*-*.json"))]
    if not cells:
        sys.exit(f"no finished cells in {options.output}")
    first = cells[0]
    severity = ", ".join(map(str, first["severity"]))
    sizes = {
        "steps": first["steps"],
        "questions": first["questions"],
        "severity": severity,
        "machine": machine().partition("; command")[0] + ".",
    }
    lines = [PAGE.format(**sizes)]
    plotted: dict[str, dict[str, dict[str, tuple[float, float]]]] = {}
    for task in sorted({c["task"] for c in cells}):
        by: dict[str, dict[int, dict[str, float]]] = {}
        seconds: dict[str, list[float]] = {}
        for found in cells:
            if found["task"] == task:
                by.setdefault(found["method"], {})[found["seed"]] = scores(found)
                seconds.setdefault(found["method"], []).append(found["training_seconds"])
        before = mean([s["before"] for runs in by.values() for s in runs.values()])
        lines += [
            f"## {task}", "", f"Before training: {100 * before:.1f} % clean.", "",
            "| " + " | ".join(HEAD) + " |", "|---" * len(HEAD) + "|",
        ]  # fmt: skip
        for method in [m for m in METHODS if m in by]:
            row = [method, str(len(by[method]))]
            for name in ("clean", "seen", "unseen"):
                value, half = interval([100 * s[name] for s in by[method].values()])
                plotted.setdefault(task, {}).setdefault(name, {})[method] = (value, half)
                row.append(f"{value:.1f}" + ("" if math.isnan(half) else f" ± {half:.1f}"))
            for name in ("clean", "seen", "unseen"):
                shared = sorted(set(by[method]) & set(by.get("grpo", {})))
                if method == "grpo" or not shared:
                    row.append("")
                    continue
                value, half = interval([100 * (by[method][s][name] - by["grpo"][s][name]) for s in shared])
                row.append(f"{value:+.1f}" + ("" if math.isnan(half) else f" ± {half:.1f}"))
            row.append(f"{mean(seconds[method]):.0f}")
            lines.append("| " + " | ".join(row) + " |")
        lines.append("")
    options.markdown.write_text("\n".join(lines))
    if options.plot is not None:
        draw(plotted, options.plot)


def draw(plotted: dict[str, dict[str, dict[str, tuple[float, float]]]], path: Path) -> None:
    """Dots with intervals: a row per task, a panel per kind of image."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        len(plotted), 3, figsize=(10, 2.6 * len(plotted)), squeeze=False, sharey=True, layout="constrained"
    )
    for row, (task, panels) in zip(axes, plotted.items(), strict=True):
        for axis, (name, methods) in zip(row, panels.items(), strict=True):
            order = [m for m in METHODS[::-1] if m in methods]
            values = [methods[m][0] for m in order]
            halves = [0.0 if math.isnan(methods[m][1]) else methods[m][1] for m in order]
            axis.errorbar(values, order, xerr=halves, fmt="o", capsize=3)
            axis.set_title(f"{task}: {name}")
            axis.grid(axis="x", alpha=0.3)
            axis.set_xlabel("accuracy, %")
    figure.savefig(path)


def main() -> None:
    """Commands run, table, cell."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    actions = parser.add_subparsers(dest="action", required=True)
    for name in ("run", "cell"):
        action = actions.add_parser(name)
        if name == "cell":
            action.add_argument("task")
            action.add_argument("method")
            action.add_argument("seed", type=int)
        action.add_argument("--output", type=Path, required=True)
        action.add_argument("--steps", type=int, default=200)
        action.add_argument("--questions", type=int, default=500)
        action.add_argument("--severity", type=int, nargs="+", default=[3])
        action.add_argument(
            "--set", nargs="*", default=[], metavar="key.sub=value", help="further overrides, all cells"
        )
        if name == "run":
            action.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
            action.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
            action.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
            action.add_argument("--part", default="0/1", metavar="I/N")
    action = actions.add_parser("table")
    action.add_argument("--output", type=Path, required=True)
    action.add_argument("--markdown", type=Path, required=True)
    action.add_argument("--plot", type=Path)
    options = parser.parse_args()
    if options.action == "run":
        run(options)
    elif options.action == "table":
        table(options)
    else:
        options.output.mkdir(parents=True, exist_ok=True)
        found = cell(options.task, options.method, options.seed, options)
        path = _file(options.output, options.task, options.method, options.seed)
        path.with_suffix(".part").write_text(json.dumps(found))
        path.with_suffix(".part").rename(path)


if __name__ == "__main__":
    main()
