"""What Perceval does on a task: accuracy, and how often a response says something false about the picture.

    python scripts/effect_perceval.py --task easy_vqa --seeds 0 1 2 3 4 --output runs/effect_perceval
    python scripts/effect_perceval.py --task scenes --seeds 0 1 2 --output runs/effect_perceval_scenes run.steps=60

Trains the task's config (`perceval_tasks.py`) under every arm, seed by seed; answers the held-out questions greedily
and at temperature 1; writes `perceval.md`, `perceval.json`, `perceval.svg` after each cell (an arm with a seed). A cell
whose result is there is not repeated, so the command goes on after a kill; one that was broken off begins again.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

from perceval_tasks import TASKS, Task

from mmcredit import config as run_config
from mmcredit.evaluate.held_out import evaluate_model
from mmcredit.train.loop import Trainer

T95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}  # Student's t, n - 1 degrees of freedom


def evaluate(task: Task, model: str | None, overrides: tuple[str, ...], temperature: float) -> dict[str, float]:
    """Measures of a model (none: the config's own) on the config's held-out questions."""
    from mmcredit.prepare import held_out_samples

    chosen = () if model is None else (f"model.path={model}",)
    run = run_config.load(
        task.config,
        None,
        [*overrides, *chosen, f"evaluate.temperature={temperature}", "verifiers=[]", "credit=[grpo]"],
    )
    _, rows = evaluate_model(run)
    return task.measure(rows, {s.id: dict(s.meta) for s in held_out_samples(run)})


def one(task: Task, arm: str, seed: int, folder: Path, overrides: tuple[str, ...]) -> dict[str, Any]:
    """Train and measure one arm with one seed; the result lies in `folder` when it is there already."""
    where = folder / re.sub(r"\W+", "_", arm) / f"seed-{seed}"
    done = where / "result.json"
    if done.is_file():
        return json.loads(done.read_text())
    if (where / "run").exists():
        shutil.rmtree(where / "run")  # a run that was broken off
    changes = [*overrides, *task.arms[arm], f"run.seed={seed}", f"run.dir={where / 'run'}", "log.tensorboard=false"]
    run = run_config.load(task.config, None, [*changes, "data.evaluate=null", "evaluate.every=0"])
    outcome = Trainer(run).run()
    model = str(where / "run" / "model")
    found: dict[str, Any] = {"arm": arm, "seed": seed, "seconds": outcome.seconds, "steps": outcome.steps}
    seeded = (*overrides, f"run.seed={seed}")
    found["greedy"] = evaluate(task, model, seeded, 0.0)
    found["sampled"] = evaluate(task, model, seeded, 1.0)
    costs = json.loads((where / "run" / "cost.json").read_text())
    found["verify"] = costs["stages"].get("verify", {})
    done.write_text(json.dumps(found, indent=1))
    return found


def interval(values: list[float], factor: float) -> str:
    """Mean and half width of the 95 % interval over seeds, times `factor`; of fewer than three seeds the values."""
    digits = 1 if factor == 100 else 2
    values = [factor * value for value in values]
    if len(values) < 3:
        return " / ".join(f"{value:.{digits}f}" for value in values)
    mean = sum(values) / len(values)
    sd = math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))
    return f"{mean:.{digits}f} ± {T95.get(len(values), 1.96) * sd / math.sqrt(len(values)):.{digits}f}"


def table(task: Task, results: list[dict[str, Any]], before: dict[str, Any], mode: str) -> str:
    """A Markdown table over seeds."""
    lines = _head(task, mode)
    lines.append("| before training | - | " + " | ".join(_cells(task, [before], mode, None)) + " |")
    for arm in task.arms:
        if found := [r for r in results if r["arm"] == arm]:
            lines.append(f"| {arm} | {len(found)} | " + " | ".join(_cells(task, found, mode, None)) + " |")
    return "\n".join(lines)


def paired(task: Task, results: list[dict[str, Any]], mode: str) -> str:
    """Differences to GRPO with the same seed."""
    base = {r["seed"]: r for r in results if r["arm"] == "GRPO"}
    lines = _head(task, f"{mode}, minus GRPO")
    for arm in task.arms:
        found = [r for r in results if r["arm"] == arm and r["seed"] in base and arm != "GRPO"]
        if found:
            lines.append(f"| {arm} | {len(found)} | " + " | ".join(_cells(task, found, mode, base)) + " |")
    return "\n".join(lines)


def _head(task: Task, title: str) -> list[str]:
    names = " | ".join(heading for heading, _ in task.measures.values())
    return [f"| {title} | seeds | {names} |", "|---|---|" + "---|" * len(task.measures)]


def _cells(task: Task, found: list[dict[str, Any]], mode: str, base: dict[int, Any] | None) -> list[str]:
    cells = []
    for name, (_, factor) in task.measures.items():
        values = [r[mode][name] - (0.0 if base is None else base[r["seed"]][mode][name]) for r in found]
        cells.append(interval(values, factor))
    return cells


def plot(task: Task, results: list[dict[str, Any]], before: dict[str, Any], path: Path) -> None:
    """Some measures of every arm at temperature 1: a point per seed, a bar at the mean, dotted before training."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "perceval"
    import matplotlib.pyplot as plt

    arms = [arm for arm in task.arms if any(r["arm"] == arm for r in results)]
    figure, axes = plt.subplots(1, len(task.plotted), figsize=(11, 3.6), sharey=True)
    for axis, name in zip(axes, task.plotted, strict=True):
        heading, factor = task.measures[name]
        for place, arm in enumerate(reversed(arms)):
            values = [factor * r["sampled"][name] for r in results if r["arm"] == arm]
            axis.plot(values, [place] * len(values), "o", alpha=0.6)
            axis.plot([sum(values) / len(values)] * 2, [place - 0.3, place + 0.3], "k-")
        axis.axvline(factor * before["sampled"][name], color="0.7", linestyle=":")
        axis.set(xlabel=heading + (", %" if factor == 100 else ""))
    axes[0].set_yticks(range(len(arms)), list(reversed(arms)))
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def write(task: Task, output: Path, before: dict[str, Any]) -> str:
    """Tables and plot of the cells that are there."""
    results = [json.loads(path.read_text()) for path in sorted(output.glob("*/seed-*/result.json"))]
    parts = [
        table(task, results, before, mode) + "\n\n" + paired(task, results, mode) for mode in ("greedy", "sampled")
    ]
    (output / "perceval.md").write_text("\n\n".join(parts) + "\n")
    (output / "perceval.json").write_text(json.dumps({"before": before, "runs": results}, indent=1))
    plot(task, results, before, output / "perceval.svg")
    return "\n\n".join(parts)


def main() -> None:
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("--task", choices=list(TASKS), default="easy_vqa")
    parse.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parse.add_argument("--arms", nargs="+", help="default: those of the study")
    parse.add_argument("--output", type=Path, default=Path("runs/effect_perceval"))
    parse.add_argument("--tables-only", action="store_true", help="write the tables of what is there")
    parse.add_argument("overrides", nargs="*", metavar="key=value", help="changes to the config")
    options = parse.parse_args()
    task = TASKS[options.task]
    if unknown := set(options.arms or ()) - set(task.arms):
        parse.error(f"{options.task} has no arm {sorted(unknown)[0]!r}; its arms: {', '.join(task.arms)}")
    overrides = tuple(options.overrides)
    options.output.mkdir(parents=True, exist_ok=True)
    start = options.output / "before.json"
    if not start.is_file():
        found = {"greedy": evaluate(task, None, overrides, 0.0), "sampled": evaluate(task, None, overrides, 1.0)}
        start.write_text(json.dumps({"overrides": overrides, **found}, indent=1))
    before = json.loads(start.read_text())
    if before["overrides"] != list(overrides):
        raise SystemExit(
            f"{options.output} holds cells with the overrides {before['overrides']}; give another --output"
        )
    for seed in options.seeds if not options.tables_only else ():
        for arm in options.arms or task.study:
            print(json.dumps(one(task, arm, seed, options.output, overrides)), flush=True)
            write(task, options.output, before)
    print(write(task, options.output, before))


if __name__ == "__main__":
    main()
