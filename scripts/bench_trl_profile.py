"""Operators of our step on rows of scripts/bench_trl.py, which calls this: where the time goes that is not arithmetic.

Seconds are those of the operators themselves (torch.profiler, self time), grouped. The profiler's clock is wall time,
which other work on the machine lengthens: of the n-th call of an operator the fastest of all profiled steps counts.
"Between operators" is what the step's CPU time holds besides: Python, autograd's bookkeeping, dispatch, and the
profiler's own work; the CPU time of steps without it stands beside.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from bench_trl_floor import floor
from bench_trl_row import data, make_model, our_side
from torch.profiler import ProfilerActivity, profile

GROUPS = {
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "mkldnn_convolution", "slow_conv"),
    "attention": ("_flash_attention", "_scaled_dot_product"),
    "optimizer": ("_fused_adam", "_foreach", "Optimizer", "aten::_fused"),
    "softmax and its gradient": ("softmax", "logsumexp"),
    "copies and gathers": (
        "copy_", "cat", "index", "gather", "scatter", "embedding", "clone", "fill_", "zero_", "stack", "repeat",
    ),
    "views, sizes, allocation": (
        "view", "reshape", "as_strided", "transpose", "slice", "select", "empty", "aten::t", "expand", "unsqueeze",
        "permute", "split", "chunk", "narrow", "detach", "alias", "squeeze", "aten::to", "resize", "aten::_to_copy",
    ),
}  # fmt: skip


def group_of(name: str) -> str:
    """What a row of the table adds up; the rest is elementwise work and sums."""
    for group, parts in GROUPS.items():
        if any(name == part or (part in name and part != "aten::t") for part in parts):
            return group
    return "elementwise and sums"


def best_rate() -> float:
    """FLOP a second of a large float32 matrix product on the threads in use."""
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    best = 1e9
    for _ in range(6):
        began = time.process_time()
        torch.mm(a, b)
        best = min(best, time.process_time() - began)
    return 2.0 * 1024**3 / best


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
        fastest: dict[tuple[str, int], float] = {}  # (operator, number of its call in the step) -> seconds
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
            calls: Counter[str] = Counter()
            for event in recorder.events():
                if event.name.startswith(("ProfilerStep", "PyTorch Profiler")):
                    continue
                key = (event.name, calls[event.name])
                calls[event.name] += 1
                fastest[key] = min(fastest.get(key, 1e9), event.self_cpu_time_total / 1e6)
        policy = trainer.parts.policy
        prompt = statistics.mean(len(policy.encode(trainer.parts.samples[i])) for i in range(8))
        grid = policy.encode(trainer.parts.samples[0]).media.get("image_grid_thw")
        patches = 0 if grid is None else int(grid.prod())
        bound = floor(policy.body, row, prompt, patches, float(batches[-1][0].rollouts.mask.sum()))
        trainer.close()
    by_name: Counter[str] = Counter()
    for (event_name, number), seconds in fastest.items():
        if number < calls[event_name]:  # as many as the last step had
            by_name[event_name] += seconds
    groups: Counter[str] = Counter()
    for event_name, seconds in by_name.items():
        groups[group_of(event_name)] += seconds
    groups["between operators"] = statistics.median(profiled) - sum(groups.values())
    most = ", ".join(f"{n.removeprefix('aten::')} {1000 * s:.1f} ({calls[n]})" for n, s in by_name.most_common(12))
    return {
        "plain": statistics.median(plain[1:]),
        "profiled": statistics.median(profiled),
        "groups": groups,
        "calls": sum(calls[n] for n in calls if n.startswith("aten::")),
        "most": most,
        "floor": bound["training"]["shared"],
        "rate": best_rate(),
    }


def main() -> None:
    """Print a table for rows given as pairs of a name and JSON."""
    names, specs = sys.argv[1::2], [json.loads(spec) for spec in sys.argv[2::2]]
    every = [operators(spec, 8) for spec in specs]
    print(f"training side, share of the profiled step | {' | '.join(names)}")
    print("---|" + "---|" * len(names))
    keys = [*GROUPS, "elementwise and sums", "between operators"]
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
