"""Learning curves of the quickstart's task under each pair of training and rollout engine: do they learn the same?

Runs `mmcredit train easy_vqa` (or `launch --processes 2`) per seed and prints a table of held-out accuracy before and
after. Needs the environment of scripts/setup_vllm.sh:  python scripts/effect_engines.py --seeds 0 1 2 --steps 60
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from bench_common import machine

PAIRS = {
    "local, hf": ([], 1),
    "local, vllm": (["rollout.engine=vllm"], 1),
    "deepspeed x 2, hf": (["train.engine=deepspeed"], 2),
    "deepspeed x 2, vllm": (["train.engine=deepspeed", "rollout.engine=vllm"], 2),
}


def main() -> None:
    """Run all pairs and seeds."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options.add_argument("--steps", type=int, default=60)
    options.add_argument("--questions", type=int, default=500)
    options.add_argument("--pairs", nargs="+", default=list(PAIRS), choices=list(PAIRS))
    chosen = options.parse_args()
    print(f"{machine()}\n\neasy_vqa, {chosen.steps} steps, {chosen.questions} held-out questions, greedy.\n")
    print("training and rollout engine | " + " | ".join(f"seed {s}: before, after, gain" for s in chosen.seeds))
    print("---|" + "---|" * len(chosen.seeds))
    with tempfile.TemporaryDirectory() as folder:
        for name in chosen.pairs:
            words, ranks = PAIRS[name]
            cells = [cell(Path(folder) / f"{i}", words, ranks, seed, chosen) for i, seed in enumerate(chosen.seeds)]
            print(f"{name} | " + " | ".join(cells), flush=True)


def cell(run_dir: Path, words: list[str], ranks: int, seed: int, chosen: argparse.Namespace) -> str:
    """Before, after and paired gain of one run, in points."""
    run_dir = run_dir.with_name(f"{run_dir.name}-{ranks}-{len(words)}-{seed}")
    command = ["launch", "--processes", str(ranks)] if ranks > 1 else ["train"]
    settings = [f"run.dir={run_dir}", f"run.seed={seed}", f"run.steps={chosen.steps}"]
    settings += [f"evaluate.limit={chosen.questions}", "log.tensorboard=false", "checkpoint.final=false"]
    program = [sys.executable, "-m", "mmcredit.cli", *command, "easy_vqa", "--no-report", *settings, *words]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(program)}: exit code {done.returncode}\n{done.stderr[-2000:]}")
    rows = [json.loads(line) for line in (run_dir / "evaluations.jsonl").read_text().splitlines()]
    first, last = rows[0], rows[-1]
    return (
        f"{100 * first['accuracy']:.1f}, {100 * last['accuracy']:.1f}, "
        f"+{100 * last['gain']:.1f} [{100 * last['gain_low']:.1f}, {100 * last['gain_high']:.1f}]"
    )


if __name__ == "__main__":
    main()
