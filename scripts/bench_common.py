"""What the benchmark scripts share: the machine's description, and memory of processes (Linux)."""

from __future__ import annotations

import os
import platform
import statistics
import sys
import time
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
