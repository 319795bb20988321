"""The value that judging gives: `Score`; and with what it is added up: `Scored`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from mmcredit.data.sample import Sample

# official: the benchmark's own rule decided, without a model. rule: the official way asks a model, a rule stood in.
ScoredBy = Literal["official", "rule", "judge"]


@dataclass(frozen=True)
class Score:
    """The verdict on one response."""

    correct: bool
    extracted: str | None  # the answer that was found, as it was compared; None if there was none
    rule: str  # the name of the rule that decided, such as "option letter" or "relaxed accuracy"
    scored_by: ScoredBy = "official"
    flags: tuple[str, ...] = ()  # "judge failed", "no unique option", ...: counted in the summary

    @property
    def parse_ok(self) -> bool:
        """Whether an answer was found in the response."""
        return self.extracted is not None

    def as_dict(self) -> dict[str, Any]:
        """Plain values for a JSON line."""
        return {**asdict(self), "flags": list(self.flags)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Score:
        """The score that `as_dict` wrote."""
        return cls(**{**values, "flags": tuple(values.get("flags", ()))})


@dataclass(frozen=True)
class Scored:
    """A judged response with what its summary needs of the sample; no picture is held."""

    id: str
    score: Score
    meta: Mapping[str, Any] = field(default_factory=dict)
    attempt: int = 0  # which of the k responses to this sample

    @classmethod
    def of(cls, sample: Sample, score: Score, attempt: int = 0) -> Scored:
        """From a sample; its `meta` is all that is kept."""
        return cls(sample.id, score, sample.meta, attempt)
