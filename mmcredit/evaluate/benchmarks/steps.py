"""What judging may ask, and the steps of judging one response: a generator that asks by ``yield``."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from mmcredit.evaluate.benchmarks.scoring import Score
from mmcredit.judge import Ask as Ask  # what is asked is a part of the steps


@dataclass(frozen=True)
class Compare:
    """Is `given` equal to `reference` by this reward? The reply is True or False."""

    given: str
    reference: str
    reward: str  # name of a reward component with a field `extract`, which is set to "whole"
    sample: str = field(default="", compare=False)  # for messages


T = TypeVar("T")
Asking = Generator[Compare | Ask, Any, T]  # steps that end in a T
Steps = Asking[Score]


def decided(score: Score) -> Steps:
    """Steps that ask nothing."""
    yield from ()
    return score
