"""ssToken against plain supervised training: held-out loss over all tokens, and accuracy.

    python scripts/effect_sstoken.py --seeds 0 1 2 --output runs/effect_sstoken

Goes on training the tiny Qwen2.5-VL of scenes on ideal responses under every selection, the same number of steps, and
writes `sstoken.md`. A run whose results are there is not repeated.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import time
from argparse import Namespace
from pathlib import Path

from rich.console import Console

from mmcredit import config as run_config
from mmcredit.evaluate.held_out import evaluate_model
from mmcredit.supervised.command import run as fit
from mmcredit.supervised.config import SFTConfig, load

START = "model.path=builtin:tiny-qwen2_5-vl-scenes; train.learning_rate=5e-4; "
# REL counts from the 320th sample on: before, the model has hardly moved from the one it is compared with.
SSTOKEN = START + "selection={sstoken: {rho: 0.6, rel_warmup_samples: 320%s}}"
SELECTIONS = {
    "all tokens": START + "selection=null",
    "sstoken": SSTOKEN % "",
    "rel alone": SSTOKEN % ", token_select: rel",
    "attention alone": SSTOKEN % ", token_select: attn",
    "random": SSTOKEN % ", token_select: random",
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


def one(folder: Path, change: str, seed: int, options: Namespace) -> dict[str, float]:
    """Train and measure one run of `sft_scenes` under a change of its config."""
    shutil.rmtree(folder, ignore_errors=True)
    words = [
        f"run.dir={folder}", f"run.seed={seed}", "run.threads=1", "log.tensorboard=false", *change.split("; "),
        f"train.steps={options.steps}", f"data.train.scenes.size={32 * options.steps}", "evaluate.limit=200",
    ]  # fmt: skip
    fit(load(SFTConfig, "sft_scenes", words), Namespace(resume=False), Console(quiet=True))
    last = json.loads((folder / "held_out.jsonl").read_text().splitlines()[-1])
    config = run_config.load("scenes", None, ["evaluate.limit=300", "evaluate.temperature=0", "run.threads=1"])
    config.model = config.model.at(str(folder / "model"))
    began = time.process_time()
    found, _ = evaluate_model(config)
    spent = time.process_time() - began
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return {"loss": last["value"], "accuracy": found.accuracy.value, "answer_seconds": spent}


def study(doc: str | None, cases: dict[str, str], measures: dict[str, str], name: str) -> None:
    """Every case under every seed, and the table."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output", type=Path, default=Path(f"runs/effect_{name}"))
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--cases", nargs="+", default=list(cases), choices=list(cases))
    parser.add_argument("--runs", type=int, default=10**6, help="train so many now; call again for the rest")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    file = options.output / f"{name}.json"
    results = json.loads(file.read_text()) if file.exists() else {}
    for seed in options.seeds:
        for case in options.cases:
            if not options.runs or str(seed) in results.setdefault(case, {}):
                continue
            options.runs -= 1
            own = one(options.output / f"{case.replace(' ', '_')}-{seed}", cases[case], seed, options)
            results[case][str(seed)] = own
            file.write_text(json.dumps(results, indent=1))
            print(case, seed, own, flush=True)
    lines = ["| | " + " | ".join(measures.values()) + " | runs |", "|---|" + "---|" * (len(measures) + 1)]
    for case, seeds in ((case, own) for case, own in results.items() if own):
        cells = [interval([s[key] for s in seeds.values()]) for key in measures]
        lines.append(f"| {case} | " + " | ".join(cells) + f" | {len(seeds)} |")
    (options.output / f"{name}.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    study(__doc__, SELECTIONS, MEASURES, "sstoken")
