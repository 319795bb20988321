"""Every recipe of configs/methods for ten real steps on the two shipped tiny models, and what each costs.

Two measurements per recipe and model, each in a process of its own:

* a training run of 10 steps with the held-out accuracy before and after: passes, rollouts, peak memory, reward;
* the training side of a step (score passes, credit, update) against plain GRPO's on the same responses, the two timed
  in turns: the median of the ratios of neighbours. Plain GRPO is the recipe-free config; both sides make the same
  number of optimizer steps per batch, so a ratio above 1 is what the method adds. A strategy that samples in its own
  way is timed on its own batch (marked *), which may hold another number of responses.

    python scripts/run_all_methods.py --output DIR          # resumes: finished cells are kept
    python scripts/run_all_methods.py --output DIR --table benchmarks/methods.md
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

MODELS = {"text": "text_math", "vlm": "easy_vqa"}
SIZES = [
    "rollout.prompts=16",
    "rollout.group=8",
    "train.mini_batches=2",
    "evaluate.limit=60",
    "check.parity=false",
    "check.image_probe=false",
]  # their passes are not the method's
STEPS, REPEATS = 10, 11


PAGE = """# Every recipe, ten steps

Written by `scripts/run_all_methods.py`: each recipe of `configs/methods` for 10 real steps on the shipped tiny Qwen3
(`configs/text_math.yaml`) and tiny Qwen2.5-VL (`configs/easy_vqa.yaml`), 8 prompts x 8 responses a step (16 x 8 where
time is measured), 2 optimizer steps per batch, one thread. This shows that everything runs and what it costs; ten
steps say nothing about which method is better.

* time: the training side of a step (score passes, credit, update) over plain GRPO's (no KL) on the same responses,
  timed in turns (CPU time), median of {repeats} [quartiles]. * = on the strategy's own batch, which may hold another
  number of responses. Groups of equal rewards are taken out of the timed batches: plain GRPO leaves them out of its
  update, a term or penalty on every token (KL, entropy, PAPO, UCAS) or credit without groups (REINFORCE++) does not.
* passes: response positions scored per step and view, in units of the batch's response tokens. Plain GRPO has 2 clean
  ones here: old log-probs and update. Below it: responses without credit are left out of the update's forward.
* sampled: responses generated per step (plain sampling: 64). memory: peak resident memory of the run, MiB.
* reward: mean of the first and of the last three steps. accuracy: 60 held-out questions, greedy, before and after.

{machine}
"""


def settings(model: str, recipe: str | None, folder: Path, *overrides: str) -> Any:
    """The config of a cell."""
    from mmcredit import config

    common = [
        f"run.dir={folder}", f"run.steps={STEPS}", "run.threads=1", "train.warmup_steps=0", "log.tensorboard=false",
        "log.samples_every=0", "checkpoint.every=0", "checkpoint.final=false", *SIZES,
    ]  # fmt: skip
    return config.load(MODELS[model], recipe, [*common, *overrides])


def train_cell(model: str, recipe: str, folder: Path) -> dict[str, Any]:
    """Ten steps: passes per step by view, responses sampled and trained, memory, rewards, accuracy."""
    from mmcredit.train.loop import train

    outcome = train(settings(model, recipe, folder / "run", "rollout.prompts=8"))
    rows = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    cost = json.loads((folder / "run" / "cost.json").read_text())
    rewards = [row["reward/mean"] for row in rows]
    tokens = sum(row["response/tokens"] for row in rows)
    assert outcome.before is not None
    assert outcome.after is not None
    return {
        "passes": {view: found["positions"] / tokens for view, found in cost["passes"].items() if view != "rollout"},
        "responses": cost["stages"]["rollout"]["responses"] / STEPS,
        "tokens": cost["stages"]["rollout"]["tokens"] / STEPS,
        "memory_mb": cost["peak_memory_mb"],
        "reward_first": statistics.mean(rewards[:3]),
        "reward_last": statistics.mean(rewards[-3:]),
        "before": outcome.before.accuracy.value,
        "after": outcome.after.accuracy.value,
        "finite": all(row["policy/grad_norm"] == row["policy/grad_norm"] for row in rows),
        "skipped": sum(row["policy/skipped_updates"] for row in rows),
    }


def cost_cells(model: str, recipes: list[str], folder: Path, output: Path) -> None:
    """The training side of a step of each recipe against plain GRPO's, timed in turns: CPU seconds of this process,
    which other processes on the machine disturb less than wall clock."""
    from bench_common import in_turns, quartiles, with_signal

    from mmcredit.train.loop import Trainer

    still = ("train.learning_rate=1e-12", "rollout.prompts=16")  # both sides go on from the same weights
    plain = Trainer(settings(model, None, folder / "plain", *still))
    batch = with_signal(plain.stage.run(1))

    for recipe in recipes:
        other = Trainer(settings(model, recipe, folder / recipe, *still))
        own = any(strategy.name != "dynamic_sampling" for strategy in other.parts.strategies)
        theirs = with_signal(other.stage.run(1)) if own else batch
        pairs = in_turns((plain, batch), (other, theirs), REPEATS)
        other.close()
        ratio, low, high = quartiles([b / a for a, b in pairs])
        found = {
            "ratio": ratio, "low": low, "high": high, "own_batch": own,
            "grpo_seconds": statistics.median(a for a, _ in pairs), "rows": len(theirs), "grpo_rows": len(batch),
        }  # fmt: skip
        (output / f"cost-{model}-{recipe}.json").write_text(json.dumps(found, indent=1))
        print(f"{model} {recipe} {found['ratio']:.3f}", flush=True)
    plain.close()


def cell(kind: str, model: str, recipes: list[str], output: Path) -> None:
    """Measure cells and write their JSON."""
    import tempfile

    from mmcredit.deferred import load_now

    load_now()
    with tempfile.TemporaryDirectory() as folder:
        if kind == "cost":
            cost_cells(model, recipes, Path(folder), output)
            return
        for recipe in recipes:
            found = train_cell(model, recipe, Path(folder))
            (output / f"train-{model}-{recipe}.json").write_text(json.dumps(found, indent=1))


def table(output: Path) -> str:
    """The page of all finished cells."""
    from bench_common import machine

    from mmcredit import config_files

    lines = [PAGE.format(repeats=REPEATS, machine=machine().partition("; command")[0] + ".")]
    for model, base in MODELS.items():
        lines += [
            "", f"## {model}: `configs/{base}.yaml`", "",
            "| recipe | time / GRPO | passes | sampled | memory | reward | accuracy |",
            "|---|---|---|---|---|---|---|",
        ]  # fmt: skip
        for recipe in config_files.recipes():
            train, cost = (output / f"{kind}-{model}-{recipe}.json" for kind in ("train", "cost"))
            if not train.exists() or not cost.exists():
                lines.append(f"| {recipe} | not run | | | | | |")
                continue
            t, c = json.loads(train.read_text()), json.loads(cost.read_text())
            passes = ", ".join(f"{view} {count:.2f}" for view, count in t["passes"].items() if count)
            star = "*" if c["own_batch"] else ""
            time_ratio = f"{c['ratio']:.2f} [{c['low']:.2f}, {c['high']:.2f}]{star}"
            lines.append(
                f"| {recipe} | {time_ratio} | {passes} | {t['responses']:.0f} | "
                f"{t['memory_mb']:.0f} | {t['reward_first']:.3f} -> {t['reward_last']:.3f} | "
                f"{100 * t['before']:.1f} -> {100 * t['after']:.1f} % |"
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run what is missing, write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--output", type=Path, required=True, help="folder of the cells' JSON files")
    parser.add_argument("--only", nargs="*", help="recipes (default: all)")
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--kinds", nargs="*", default=["train", "cost"], choices=["train", "cost"])
    parser.add_argument("--table", type=Path, help="write the Markdown table here")
    parser.add_argument("--cell", nargs=3, metavar=("KIND", "MODEL", "RECIPES"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    if options.cell:
        kind, model, recipes = options.cell
        cell(kind, model, recipes.split(","), options.output)
        return
    from rich.progress import track

    from mmcredit import config_files

    recipes = options.only or list(config_files.recipes())
    missing: list[tuple[str, str, str]] = []
    for kind in options.kinds:
        for model in options.models:
            names = [r for r in recipes if not (options.output / f"{kind}-{model}-{r}.json").exists()]
            # A training run has a process of its own, for its peak memory; costs of one model share one process.
            missing += [(kind, model, ",".join(names))] if kind == "cost" and names else []
            missing += [(kind, model, name) for name in names] if kind == "train" else []
    failed = []
    for kind, model, names in track(missing, "cells"):
        command = [sys.executable, __file__, "--output", str(options.output), "--cell", kind, model, names]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            failed.append((kind, model, names))
            print(f"{kind} {model} {names} failed:\n{result.stderr[-2000:]}", file=sys.stderr)
    if options.table is not None:
        options.table.write_text(table(options.output))
    if failed:
        sys.exit(f"{len(failed)} processes failed: {failed}")


if __name__ == "__main__":
    main()
