"""Operators of our step on rows of scripts/bench_trl.py, which calls this: where the time goes that is not arithmetic.

Groups and clock: `Operators` in bench_common. "Between operators" is what the step's CPU time holds besides: Python,
autograd's bookkeeping, dispatch, and the profiler's own work; the CPU time of steps without it stands beside.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from bench_common import GROUPS, OTHER, Operators, best_rate
from bench_trl_floor import floor
from bench_trl_row import data, make_model, our_side
from torch.profiler import ProfilerActivity, profile


def operators(row: dict[str, Any], repeats: int) -> dict[str, Any]:
    """CPU seconds of the training side without and with the profiler, and the operators' part of the latter."""
    torch.set_num_threads(row["threads"])
    with tempfile.TemporaryDirectory() as name, contextlib.redirect_stdout(sys.stderr):
        folder = Path(name)
        make_model(row, folder / "model")
        content, _ = data(row, folder, folder / "model")
        trainer = our_side({**row, "steps": 100}, folder / "model", folder, content)
        batches = []
        make = trainer.stage.run

        def made(step: int) -> Any:
            batches.append((make(step), time.process_time()))
            return batches[-1][0]

        trainer.stage.run = made  # type: ignore[method-assign]
        plain = []
        for number in range(1 + repeats):
            trainer._one_step(number)
            trainer.step += 1
            plain.append(time.process_time() - batches[-1][1])
        ops = Operators()
        profiled = []
        for number in range(1 + repeats, 1 + 2 * repeats):
            recorder = profile(activities=[ProfilerActivity.CPU])

            def started(step: int, recorder: Any = recorder) -> Any:
                batch = make(step)
                recorder.start()
                batches.append((batch, time.process_time()))
                return batch

            trainer.stage.run = started  # type: ignore[method-assign]
            trainer._one_step(number)
            profiled.append(time.process_time() - batches[-1][1])
            recorder.stop()
            trainer.step += 1
            ops.add(recorder)
        policy = trainer.parts.policy
        prompt = statistics.mean(len(policy.encode(trainer.parts.samples[i])) for i in range(8))
        grid = policy.encode(trainer.parts.samples[0]).media.get("image_grid_thw")
        patches = 0 if grid is None else int(grid.prod())
        bound = floor(policy.body, row, prompt, patches, float(batches[-1][0].rollouts.mask.sum()))
        trainer.close()
    groups = ops.groups()
    groups["between operators"] = statistics.median(profiled) - sum(groups.values())
    return {
        "plain": statistics.median(plain[1:]),
        "profiled": statistics.median(profiled),
        "groups": groups,
        "calls": ops.count(),
        "most": ops.most(12),
        "floor": bound["training"]["shared"],
        "rate": best_rate(),
    }


def main() -> None:
    """Print a table for rows given as pairs of a name and JSON."""
    names, specs = sys.argv[1::2], [json.loads(spec) for spec in sys.argv[2::2]]
    every = [operators(spec, 8) for spec in specs]
    print(f"training side, share of the profiled step | {' | '.join(names)}")
    print("---|" + "---|" * len(names))
    keys = [*GROUPS, OTHER, "between operators"]
    for key in keys:
        print(f"{key} | " + " | ".join(f"{100 * one['groups'].get(key, 0.0) / one['profiled']:.0f} %" for one in every))
    print("CPU s, without the profiler | " + " | ".join(f"{one['plain']:.3f}" for one in every))
    print("CPU s, with it | " + " | ".join(f"{one['profiled']:.3f}" for one in every))
    print("operator calls | " + " | ".join(f"{one['calls']}" for one in every))
    print("floor, GFLOP | " + " | ".join(f"{one['floor'] / 1e9:.1f}" for one in every))
    print(
        "floor at the rate of a 1024 x 1024 product, CPU s | "
        + " | ".join(f"{one['floor'] / one['rate']:.3f} ({one['rate'] / 1e9:.0f} GFLOP/s)" for one in every)
    )
    for name, one in zip(names, every, strict=True):
        print(f"\n{name}, ms and calls of the operators that take most: {one['most']}")


if __name__ == "__main__":
    main()
