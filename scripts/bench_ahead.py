"""Seconds of a step with `rollout.ahead` 0 and 1 and a rollout server, beside the engine in process.

    python scripts/bench_ahead.py --steps 12 --rounds 2

A text model of a size at which sampling and training of a step take about as long. Each arm is a run of its own, one
thread in the trainer and one in the server, arms in turn. Wall time counts, since what is compared is whether two
processes work at the same time; the CPU time of both stands beside it: on a machine that lends them less than two cores
there is nothing to win.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent / "opponents"))
import tiny
import torch
from bench_common import machine

from mmcredit import config
from mmcredit.train.loop import Trainer

SERVER = {"server": {"engine": "hf", "threads": 1}}
ARMS: dict[str, dict[str, Any]] = {
    "hf, in process": {"engine": "hf"},
    "server, ahead 0": {"engine": SERVER},
    "server, ahead 1": {"engine": SERVER, "ahead": 1},
}
REWARD = "def share(item):\n    return sum(c in 'aeiou' for c in item.response) / max(1, len(item.response))\n"


def prepare(folder: Path, options: argparse.Namespace) -> None:
    """Model, prompts and reward."""
    tokenizer = tiny.tokenizer()
    model = tiny.qwen2(tokenizer, options.hidden, 4)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    rng = random.Random(0)
    rows = [
        {"prompt": "".join(str(rng.randrange(10)) for _ in range(options.prompt)), "answer": "1"} for _ in range(64)
    ]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "share.py").write_text(REWARD)


def measure(folder: Path, name: str, arm: dict[str, Any], options: argparse.Namespace) -> dict[str, float]:
    """Medians over the steps of one run, but the first two."""
    run = config.parse(
        {
            "run": {"dir": str(folder / f"run-{time.time_ns()}"), "steps": options.steps, "threads": 1},
            "model": {"path": str(folder / "model")},
            "data": {"train": {"jsonl": {"path": str(folder / "train.jsonl")}}},
            "rollout": {
                "prompts": 4, "group": 8, "sampling": {"max_new_tokens": options.new, "min_new_tokens": options.new},
                **arm,
            },
            "rewards": [{"function": {"path": f"{folder / 'share.py'}:share"}}],
            "objective": {"mismatch": {"kind": "token_tis"}},
            "train": {"learning_rate": 1e-4, "epochs": options.epochs},
            "log": {"tensorboard": False, "samples_every": 0},
            "checkpoint": {"every": 0, "final": False},
        }
    )  # fmt: skip
    trainer = Trainer(run)
    step, server = trainer._one_step, [each.pid for each in getattr(trainer.parts.engine, "processes", [])]
    clocks: list[tuple[float, float, float]] = []

    def timed(number: int) -> None:
        before = time.perf_counter(), time.process_time(), sum(map(cpu, server))
        step(number)
        now = time.perf_counter(), time.process_time(), sum(map(cpu, server))
        clocks.append(tuple(b - a for a, b in zip(before, now, strict=True)))  # type: ignore[arg-type]

    trainer._one_step = timed  # type: ignore[method-assign]
    trainer.run()
    rows = [json.loads(line) for line in (Path(run.run.dir) / "metrics.jsonl").read_text().splitlines()][2:]
    wall, own, served = (statistics.median(c[i] for c in clocks[2:]) for i in range(3))
    waited = statistics.median(row["cost/rollout_seconds"] for row in rows)
    stale = statistics.mean(row.get("rollout/staleness", 0.0) for row in rows)
    return {"wall": wall, "own": own, "served": served, "waited": waited, "stale": stale, "load": os.getloadavg()[0]}


def cpu(pid: int) -> float:
    """CPU seconds of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Measure and print Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=2, help="runs of each arm, in turn")
    parser.add_argument("--prompt", type=int, default=128, help="digits of a prompt")
    parser.add_argument("--new", type=int, default=48, help="sampled tokens")
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in ARMS}
    with tempfile.TemporaryDirectory() as place:
        prepare(Path(place), options)
        for _ in range(options.rounds):
            for name, arm in ARMS.items():
                found[name].append(measure(Path(place), name, arm, options))
                print(name, found[name][-1], file=sys.stderr, flush=True)
    print(machine())
    print("\narm | step, wall s | sampling or waiting, s | CPU s: trainer | server | cores in use | staleness | load")
    print("---|---|---|---|---|---|---|---")
    for name, runs in found.items():
        mean = {key: statistics.mean(run[key] for run in runs) for key in runs[0]}
        cores = (mean["own"] + mean["served"]) / mean["wall"]
        cells = [f"{mean['wall']:.2f}", f"{mean['waited']:.2f}", f"{mean['own']:.2f}", f"{mean['served']:.2f}"]
        print(" | ".join([name, *cells, f"{cores:.2f}", f"{mean['stale']:.2f}", f"{mean['load']:.1f}"]))


if __name__ == "__main__":
    main()
