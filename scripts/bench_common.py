"""What the benchmark scripts share: the machine's description, memory of processes (Linux), operator profiles."""

from __future__ import annotations

import os
import platform
import statistics
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any


def resident(field: str, pid: int | str = "self") -> float:
    """KiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field):
            return float(line.split()[1])
    raise RuntimeError(f"{field} is not in /proc/{pid}/status")


def children() -> list[int]:
    """Process ids of the children of this process."""
    return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


def machine() -> str:
    """One line about where the figures come from."""
    import torch
    import transformers

    model = next((x.split(":")[1].strip() for x in _cpuinfo() if x.startswith("model name")), platform.processor())
    return (
        f"{model}, {os.cpu_count()} cores; Python {platform.python_version()}, torch {torch.__version__}, "
        f"transformers {transformers.__version__}; command: {' '.join([Path(sys.argv[0]).name, *sys.argv[1:]])}"
    )


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def with_signal(batch: Any) -> Any:
    """The groups whose rewards differ. Plain GRPO leaves the others out of its update, a term or penalty on every token
    does not: without them both sides forward the same responses."""
    from mmcredit.credit.groups import constant_groups

    index, groups = batch.rollouts.group_index()
    silent = constant_groups(batch.rollouts.rewards, index, groups)[index]
    return batch.select((~silent).nonzero()[:, 0].tolist()) if not bool(silent.all()) else batch


def training_side(trainer: Any, batch: Any) -> float:
    """CPU seconds of score passes, credit and update on a sampled batch, the making of corrupted images included."""
    trainer.costs.new_step()
    if trainer.parts.views is not None:
        trainer.parts.views.begin(1)  # forgets the images of the last call
    trainer.parts.policy.embed(batch.prompts)  # as after sampling, which reads the images with the present weights
    began = time.process_time()
    rollouts, _ = trainer._score(batch, 1)
    credit = trainer.parts.pipeline(rollouts, 1, trainer.config.run.steps)
    trainer.parts.updater(batch.prompts, rollouts, credit, 1, 0.1, None)
    return time.process_time() - began


def in_turns(one: tuple[Any, Any], other: tuple[Any, Any], repeats: int) -> list[tuple[float, float]]:
    """Seconds of the training sides of two (trainer, batch), neighbours in time, after a warm-up of each. Who goes
    first alternates: a drifting clock then favours no one."""
    for trainer, batch in (one, other):  # layouts are probed, caches filled
        training_side(trainer, batch)
    pairs = []
    for repeat in range(repeats):
        if repeat % 2:
            seconds = training_side(*one), training_side(*other)
        else:
            late = training_side(*other)
            seconds = training_side(*one), late
        pairs.append(seconds)
    return pairs


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """Median, lower and upper quartile."""
    values = sorted(values)
    return statistics.median(values), values[len(values) // 4], values[-1 - len(values) // 4]


GROUPS = {
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "mkldnn_convolution", "slow_conv"),
    "attention": ("_flash_attention", "_scaled_dot_product"),
    "optimizer": ("_fused_adam", "_foreach", "Optimizer", "aten::_fused"),
    "softmax and its gradient": ("softmax", "logsumexp"),
    "copies and gathers": (
        "copy_", "cat", "index", "gather", "scatter", "embedding", "clone", "fill_", "zero_", "stack", "repeat",
    ),
    "views, sizes, allocation": (
        "view", "reshape", "as_strided", "transpose", "slice", "select", "empty", "expand", "unsqueeze", "permute",
        "split", "chunk", "narrow", "detach", "alias", "squeeze", "aten::to", "resize", "aten::_to_copy",
    ),
}  # fmt: skip
OTHER = "elementwise and sums"


class Operators:
    """Seconds of operators (torch.profiler, self time) over several profiles of the same work.

    The profiler's clock is wall time, which other work on the machine lengthens: of the n-th call of an operator the
    fastest of all profiles counts.
    """

    def __init__(self) -> None:
        self.fastest: dict[tuple[str, int], float] = {}
        self.calls: Counter[str] = Counter()  # of the last profile

    def add(self, recorder: Any) -> None:
        """One more profile."""
        self.calls = Counter()
        for event in recorder.events():
            if event.name.startswith(("ProfilerStep", "PyTorch Profiler")):
                continue
            key = (event.name, self.calls[event.name])
            self.calls[event.name] += 1
            self.fastest[key] = min(self.fastest.get(key, 1e9), event.self_cpu_time_total / 1e6)

    def by_name(self) -> Counter[str]:
        """Seconds of each operator."""
        found: Counter[str] = Counter()
        for (name, number), seconds in self.fastest.items():
            if number < self.calls[name]:
                found[name] += seconds
        return found

    def groups(self) -> Counter[str]:
        """Seconds of each group."""
        found: Counter[str] = Counter()
        for name, seconds in self.by_name().items():
            group = next((g for g, parts in GROUPS.items() if any(part in name for part in parts)), OTHER)
            found[group] += seconds
        return found

    def most(self, count: int) -> str:
        """The operators that take most: name, ms (calls)."""
        found = self.by_name().most_common(count)
        return ", ".join(f"{name.removeprefix('aten::')} {1000 * s:.1f} ({self.calls[name]})" for name, s in found)

    def count(self) -> int:
        """Operator calls."""
        return sum(n for name, n in self.calls.items() if name.startswith("aten::"))


def best_rate() -> float:
    """FLOP a second of a large float32 matrix product on the threads in use, by CPU time."""
    import torch

    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    return 2.0 * 1024**3 / fastest(lambda: torch.mm(a, b), 6)


def fastest(work: Any, repeats: int) -> float:
    """CPU seconds of `work`, the least of a few."""
    best = float("inf")
    for _ in range(1 + repeats):
        began = time.process_time()
        work()
        best = min(best, time.process_time() - began)
    return best
