"""What the DPO family does on pairs of a scenes run: held-out accuracy, and how often the reasoning is false.

    python scripts/effect_preference.py --seeds 0 1 2 --output runs/effect_preference

Samples pairs once (a scenes run at learning rate 0 with a scene oracle as verifier, all batches frozen), trains every
loss on them from the shipped model, answers the held-out questions at temperature 1, writes `preference.md` and
`preference.json`. A run whose results are there is not repeated.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
from argparse import Namespace
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from mmcredit import config as run_config
from mmcredit.data.scenes.claims import check, claims
from mmcredit.data.scenes.graph import Scene
from mmcredit.evaluate.held_out import evaluate_model
from mmcredit.prepare import held_out_samples
from mmcredit.train.loop import Trainer

LOSSES: dict[str, tuple[str, ...]] = {
    "dpo": ("loss={dpo: {beta: 0.1}}",),
    "tgdpo, flagged spans": ("loss={tgdpo: {beta: 0.1, alpha: 0.5, signal: hallucinated, scale: -1.0}}",),
    "t_reg": ("loss={t_reg: {beta: 0.1, alpha: 0.25}}",),
    "tab_po": ("loss={tab_po: {beta: 0.5, lam: 0.5, diff_mode: lcs}}",),
    "dpo, clean against flagged": ("loss={dpo: {beta: 0.1}}", "data.from_run.by=verifier"),
}
T95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}  # Student's t, n - 1 degrees of freedom
MEASURES = {"accuracy": "accuracy", "false_claim": "responses with a false claim", "claims": "claims per response"}


def pairs_run(folder: Path, steps: int) -> Path:
    """Frozen rollouts of the shipped model: a run whose learning rate is next to nothing."""
    run = folder / "pairs"
    if not (run / "done").exists():
        shutil.rmtree(run, ignore_errors=True)
        words = [
            f"run.dir={run}", f"run.steps={steps}", "train.learning_rate=1e-12", "log.rollouts_every=1",
            "log.samples_every=0", "data.evaluate=null", "checkpoint.final=false", "run.threads=1",
            "verifiers=[{scene_oracle: {groups: all}}]", "log.tensorboard=false",
        ]  # fmt: skip
        Trainer(run_config.load("scenes", None, words)).run()
        (run / "done").touch()
    return run


def measure(model: str, questions: int) -> dict[str, float]:
    """Shares over the held-out questions, one response each, at temperature 1."""
    config = run_config.load("scenes", None, [f"evaluate.limit={questions}", "run.threads=1"])
    config.model = config.model.at(model)
    scenes = {sample.id: Scene.from_json(sample.meta["scene"]) for sample in held_out_samples(config)}
    _, rows = evaluate_model(config)
    found = [(claims(row["response"]), scenes[row["id"]]) for row in rows]
    false = [any(check(claim, scene) == "false" for claim in own) for own, scene in found]
    return {
        "accuracy": sum(row["correct"] or 0 for row in rows) / len(rows),
        "false_claim": sum(false) / len(rows),
        "claims": sum(len(own) for own, _ in found) / len(rows),
    }


@contextmanager
def quiet(name: str, total: int | None = None):
    """In place of a progress bar."""
    yield lambda count: None


def train(run: Path, folder: Path, words: tuple[str, ...], seed: int, options: Namespace) -> None:
    """One preference run."""
    from mmcredit.preference.command import run as fit
    from mmcredit.preference.config import DPOConfig
    from mmcredit.supervised.config import load

    shutil.rmtree(folder, ignore_errors=True)
    every = [
        f"data.from_run.run={run}", f"run.dir={folder}", f"run.seed={seed}", "run.threads=1", "log.tensorboard=false",
        f"train.epochs={options.epochs}", f"train.learning_rate={options.rate}", *words,
    ]  # fmt: skip
    fit(load(DPOConfig, "dpo_scenes", every), Namespace(resume=False), Console(quiet=True), quiet)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)


def interval(values: list[float]) -> str:
    """Mean with Student's 95 % interval over seeds."""
    mean = sum(values) / len(values)
    if len(values) < 2:
        return f"{mean:.3f}"
    spread = math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))
    return f"{mean:.3f} ± {T95[len(values)] * spread / math.sqrt(len(values)):.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output", type=Path, default=Path("runs/effect_preference"))
    parser.add_argument("--steps", type=int, default=24, help="rollout batches that pairs come from")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--rate", default="1e-4", help="learning rate")
    parser.add_argument("--questions", type=int, default=500)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    run = pairs_run(options.output, options.steps)
    results: dict[str, dict[str, Any]] = {}
    file = options.output / "preference.json"
    if file.exists():
        results = json.loads(file.read_text())
    if "before" not in results:
        results["before"] = {"0": measure("builtin:tiny-qwen2_5-vl-scenes", options.questions)}
    for seed in options.seeds:
        for name, words in LOSSES.items():
            if str(seed) in results.setdefault(name, {}):
                continue
            folder = options.output / f"{name.replace(' ', '_').replace(',', '')}-{seed}"
            train(run, folder, words, seed, options)
            results[name][str(seed)] = measure(str(folder / "model"), options.questions)
            file.write_text(json.dumps(results, indent=1))
            print(name, seed, results[name][str(seed)], flush=True)
    lines = ["| | " + " | ".join(MEASURES.values()) + " |", "|---|" + "---|" * len(MEASURES)]
    for name, seeds in results.items():
        cells = [interval([own[key] for own in seeds.values()]) for key in MEASURES]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    (options.output / "preference.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
