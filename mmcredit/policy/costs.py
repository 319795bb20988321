"""What the forwards cost, counted per view where they happen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields

from mmcredit.policy.passes import View


@dataclass
class ViewCost:
    """Counters of one view.

    `flops` is the usual estimate, 2 x parameters x tokens per forward (3x that with a backward, 4x with gradient
    checkpointing): body parameters times body tokens, head parameters times response positions, tower parameters times
    patches; the quadratic part of attention is left out. `seconds` is wall clock of the forward alone (on CUDA, of
    issuing it).
    """

    forwards: int = 0
    tokens: int = 0  # rows of the language model's body, padding included where the layout has it
    positions: int = 0  # response positions given to the head
    tower_calls: int = 0
    patches: int = 0  # patches the vision tower encoded
    flops: float = 0.0
    seconds: float = 0.0

    def __add__(self, other: ViewCost) -> ViewCost:
        return ViewCost(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


class Costs:
    """Counters since the last reset, by view."""

    def __init__(self) -> None:
        self.views: dict[str, ViewCost] = {}
        self.purpose = "rollout"  # what responses are sampled for

    @contextmanager
    def sampling_for(self, purpose: str) -> Iterator[None]:
        """Inside the block sampling is counted as `purpose` (evaluate) and not as rollout."""
        before, self.purpose = self.purpose, purpose
        try:
            yield
        finally:
            self.purpose = before

    def sampling(self) -> ViewCost:
        """The counters of sampling: forwards of prefill and decode, tokens they computed, and wall time of the calls to
        the engine. An engine that cannot count its forwards has prompt and response tokens, and seconds."""
        return self.views.setdefault(self.purpose, ViewCost())

    def of(self, view: View) -> ViewCost:
        """The counters of a view; reported as ``blind``, ``corrupted#2``, ``clean@reference``."""
        name = view.name + (f"#{view.index}" if view.index else "")
        name += "" if view.weights == "policy" else f"@{view.weights}"
        return self.views.setdefault(name, ViewCost())

    def total(self) -> ViewCost:
        """The sum over all views."""
        return sum(self.views.values(), ViewCost())

    def read(self) -> dict[str, dict[str, float]]:
        """{view: {counter: value}}."""
        return {name: asdict(cost) for name, cost in self.views.items()}

    def reset(self) -> None:
        """All counters to 0."""
        self.views.clear()
