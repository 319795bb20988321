"""ssToken against plain supervised training: held-out loss over all tokens, and accuracy.

    python scripts/effect_sstoken.py --seeds 0 1 2 --output runs/effect_sstoken

Trains the untrained tiny Qwen2.5-VL on the ideal responses of scenes under every selection, the same number of steps,
and writes `sstoken.md`. A run whose results are there is not repeated.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
from argparse import Namespace
from pathlib import Path

from rich.console import Console

from mmcredit import config as run_config
from mmcredit.evaluate.held_out import evaluate_model
from mmcredit.supervised.command import run as fit
from mmcredit.supervised.config import SFTConfig, load

SELECTIONS = {
    "all tokens": "null",
    "sstoken": "{sstoken: {rho: 0.6}}",
    "rel alone": "{sstoken: {rho: 0.6, token_select: rel}}",
    "attention alone": "{sstoken: {rho: 0.6, token_select: attn}}",
    "random": "{sstoken: {rho: 0.6, token_select: random}}",
}
T95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}  # Student's t, n - 1 degrees of freedom
MEASURES = {"loss": "held-out loss, nats per token", "accuracy": "accuracy, greedy"}


def interval(values: list[float]) -> str:
    """Mean with Student's 95 % interval over seeds."""
    mean = sum(values) / len(values)
    if len(values) < 2:
        return f"{mean:.3f}"
    spread = math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))
    return f"{mean:.3f} ± {T95[len(values)] * spread / math.sqrt(len(values)):.3f}"


def one(folder: Path, selection: str, seed: int, options: Namespace) -> dict[str, float]:
    """Train and measure one run."""
    shutil.rmtree(folder, ignore_errors=True)
    words = [
        f"run.dir={folder}", f"run.seed={seed}", "run.threads=1", "log.tensorboard=false", f"selection={selection}",
        f"train.steps={options.steps}", f"data.train.scenes.size={32 * options.steps}", "evaluate.limit=200",
    ]  # fmt: skip
    fit(load(SFTConfig, "sft_scenes", words), Namespace(resume=False), Console(quiet=True))
    last = json.loads((folder / "held_out.jsonl").read_text().splitlines()[-1])
    config = run_config.load("scenes", None, ["evaluate.limit=300", "evaluate.temperature=0", "run.threads=1"])
    config.model = config.model.at(str(folder / "model"))
    found, _ = evaluate_model(config)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return {"loss": last["value"], "accuracy": found.accuracy.value}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output", type=Path, default=Path("runs/effect_sstoken"))
    parser.add_argument("--steps", type=int, default=60)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    file = options.output / "sstoken.json"
    results = json.loads(file.read_text()) if file.exists() else {}
    for seed in options.seeds:
        for name, selection in SELECTIONS.items():
            if str(seed) in results.setdefault(name, {}):
                continue
            own = one(options.output / f"{name.replace(' ', '_')}-{seed}", selection, seed, options)
            results[name][str(seed)] = own
            file.write_text(json.dumps(results, indent=1))
            print(name, seed, own, flush=True)
    lines = ["| | " + " | ".join(MEASURES.values()) + " |", "|---|" + "---|" * len(MEASURES)]
    for name, seeds in results.items():
        lines.append(f"| {name} | " + " | ".join(interval([s[key] for s in seeds.values()]) for key in MEASURES) + " |")
    (options.output / "sstoken.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
