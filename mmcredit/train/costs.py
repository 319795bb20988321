"""What a run spends: seconds, tokens and memory per stage, passes per view, seconds per method."""

from __future__ import annotations

import resource
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch


def summed(parts: Iterable[Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    """Counters by view, added up: those of several ranks, or of what came before."""
    found: dict[str, dict[str, float]] = {}
    for own in parts:
        for view, counters in own.items():
            known = found.setdefault(view, {})
            for name, value in counters.items():
                known[name] = known.get(name, 0.0) + value
    return found


class Costs:
    """Running totals of a run; `stage` times a block, `last` holds the seconds of the present step."""

    def __init__(self) -> None:
        self.stages: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
        self.methods: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
        self.last: dict[str, float] = {}
        self.steps = 0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the block's wall time to stage `name`."""
        began = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - began
            self.stages[name]["seconds"] += seconds
            self.last[name] = self.last.get(name, 0.0) + seconds

    def add(self, name: str, **amounts: float) -> None:
        """Add amounts (tokens, items, ...) to stage `name`."""
        for key, value in amounts.items():
            self.stages[name][key] += value

    def new_step(self) -> None:
        """Begin a step: `last` starts empty."""
        self.last = {}
        self.steps += 1

    def as_dict(self, passes: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
        """The account as plain data, for `cost.json`."""
        return {
            "stages": {k: dict(v) for k, v in self.stages.items()},
            "passes": {k: dict(v) for k, v in passes.items()},
            "methods": {k: dict(v) for k, v in self.methods.items()},
            "peak_memory_mb": peak_memory_mb(),
            "steps": self.steps,
        }

    def state_dict(self) -> dict[str, Any]:
        """Totals, for the checkpoint: a resumed run goes on counting."""
        return {
            "stages": {k: dict(v) for k, v in self.stages.items()},
            "methods": {k: dict(v) for k, v in self.methods.items()},
            "steps": self.steps,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        for mine, theirs in ((self.stages, state["stages"]), (self.methods, state["methods"])):
            mine.clear()
            for name, amounts in theirs.items():
                mine[name].update(amounts)
        self.steps = state["steps"]


def peak_memory_mb() -> float:
    """Largest memory of this process so far: device memory on CUDA, resident set otherwise, MiB."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
