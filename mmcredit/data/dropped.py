"""What was left out, and why: nothing is dropped without being counted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


class UnusableSample(ValueError):
    """A sample that cannot be used. `reason` is the kind of trouble, for the count; the message says more."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


def reason_of(error: BaseException, default: str = "not usable") -> str:
    """The reason to count `error` under: its own, or that of the error it was raised from."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, UnusableSample):
            return seen.reason
        seen = seen.__cause__
    return default


class Dropped:
    """Counts by reason, with the first few sample ids of each.

    >>> dropped = Dropped()
    >>> dropped.add("prompt over the limit", "train/17")
    >>> str(dropped)
    '1 dropped: prompt over the limit: 1 (train/17)'
    """

    def __init__(self, examples: int = 5) -> None:
        self.max_examples = examples
        self.counts: dict[str, int] = {}
        self.examples: dict[str, list[str]] = {}

    def add(self, reason: str, sample_id: str, count: int = 1) -> None:
        """Count `sample_id` under `reason`. Keep reasons few: put numbers and names into the message, not here."""
        self.counts[reason] = self.counts.get(reason, 0) + count
        examples = self.examples.setdefault(reason, [])
        if len(examples) < self.max_examples and sample_id not in examples:
            examples.append(sample_id)

    def update(self, other: Dropped) -> None:
        """Add the counts of `other`."""
        for reason, count in other.counts.items():
            examples = other.examples.get(reason, [])
            self.counts[reason] = self.counts.get(reason, 0) + count
            mine = self.examples.setdefault(reason, [])
            mine.extend([name for name in examples if name not in mine][: self.max_examples - len(mine)])

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    def __bool__(self) -> bool:
        return bool(self.counts)

    def __iter__(self) -> Iterator[tuple[str, int, list[str]]]:
        """(reason, count, first sample ids), most frequent first."""
        for reason in sorted(self.counts, key=lambda r: (-self.counts[r], r)):
            yield reason, self.counts[reason], list(self.examples.get(reason, []))

    def __str__(self) -> str:
        if not self:
            return "0 dropped"
        parts = []
        for reason, count, examples in self:
            more = ", ..." if count > len(examples) else ""
            parts.append(f"{reason}: {count} ({', '.join(examples)}{more})")
        return f"{self.total} dropped: " + "; ".join(parts)

    def state_dict(self) -> dict[str, Any]:
        """JSON-able state."""
        return {"counts": dict(self.counts), "examples": {reason: list(ids) for reason, ids in self.examples.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.counts = {str(reason): int(count) for reason, count in state["counts"].items()}
        self.examples = {str(reason): [str(i) for i in ids] for reason, ids in state["examples"].items()}
