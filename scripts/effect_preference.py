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
    "dpo": ("loss={dpo: {beta: 0.3}}",),
    "tgdpo, flagged spans, alpha 0.5": ("loss={tgdpo: {beta: 0.3, alpha: 0.5, signal: hallucinated, scale: -1.0}}",),
    "tgdpo, flagged spans, alpha 0.1": ("loss={tgdpo: {beta: 0.3, alpha: 0.1, signal: hallucinated, scale: -1.0}}",),
    "t_reg": ("loss={t_reg: {beta: 0.3, alpha: 0.25}}",),
    # Its margins are means over about 45 tokens where the others have sums.
    "tab_po": ("loss={tab_po: {beta: 12.0, lam: 0.5, diff_mode: lcs}}",),
    "dpo, clean against flagged": ("loss={dpo: {beta: 0.3}}", "data.from_run.by=verifier"),
}
CHUNK = 8  # batches sampled by one trainer
T95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}  # Student's t, n - 1 degrees of freedom
MEASURES = {
    "accuracy": "accuracy",
    "false_claim": "responses with a false claim",
    "claims": "claims per response",
    "pairs": "held-out pairs put right",
}


def pairs_run(folder: Path, steps: int) -> Path:
    """Frozen rollouts of the shipped model as it is, with a scene oracle's flags: `steps` batches of a scenes run,
    sampled and never trained on. Batches that are there are not sampled again."""
    run, done = folder / "pairs", 0
    while done < steps:
        count = min(CHUNK, steps - done)
        if not (run / f"done-{done + count}").exists():
            own = folder / "sampling"
            shutil.rmtree(own, ignore_errors=True)
            words = [
                f"run.dir={own}", f"run.steps={count}", f"run.seed={done}", f"data.train.scenes.seed={1 + done}",
                "data.evaluate=null", "run.threads=1", "verifiers=[{scene_oracle: {groups: all}}]",
                "log.tensorboard=false",
            ]  # fmt: skip
            trainer = Trainer(run_config.load("scenes", None, words))
            trainer.run_dir = run
            for step in range(count):
                batch = trainer.stage.run(step)
                trainer._freeze(trainer.stage.verified(batch, batch.rollouts), done + step)
            trainer.close()
            (run / f"done-{done + count}").touch()
        done += count
    return run


def measure(model: str, questions: int) -> dict[str, float]:
    """Shares over the held-out questions, one response each, at temperature 1."""
    words = [f"evaluate.limit={questions}", f"data.evaluate.scenes.size={questions}", "run.threads=1"]
    config = run_config.load("scenes", None, words)
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
        "evaluate.limit=200",
        f"train.epochs={options.epochs}", f"train.learning_rate={options.rate}", *words,
    ]  # fmt: skip
    fit(load(DPOConfig, "dpo_scenes", every), Namespace(resume=False), Console(quiet=True), quiet)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)


def pairs_right(folder: Path) -> float:
    """Share of held-out pairs whose margin is positive after training."""
    rows = [json.loads(line) for line in (folder / "held_out.jsonl").read_text().splitlines()]
    return float([row["value"] for row in rows if row["name"] == "accuracy"][-1])


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
    parser.add_argument("--steps", type=int, default=48, help="rollout batches that pairs come from")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--rate", default="3e-4", help="learning rate")
    parser.add_argument("--questions", type=int, default=500)
    parser.add_argument("--losses", nargs="+", default=list(LOSSES), choices=list(LOSSES))
    parser.add_argument("--runs", type=int, default=10**6, help="train so many now; call again for the rest")
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
            if name not in options.losses or not options.runs or str(seed) in results.setdefault(name, {}):
                continue
            options.runs -= 1
            folder = options.output / f"{name.replace(' ', '_').replace(',', '')}-{seed}"
            train(run, folder, words, seed, options)
            results[name][str(seed)] = measure(str(folder / "model"), options.questions)
            results[name][str(seed)]["pairs"] = pairs_right(folder)
            file.write_text(json.dumps(results, indent=1))
            print(name, seed, results[name][str(seed)], flush=True)
    lines = ["| | " + " | ".join(MEASURES.values()) + " |", "|---|" + "---|" * len(MEASURES)]
    for name, seeds in results.items():
        if not seeds:
            continue
        cells = [interval([own.get(key, 0.5) for own in seeds.values()]) for key in MEASURES]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    (options.output / "preference.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
