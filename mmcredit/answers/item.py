"""What is judged: one response and its reference, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class RewardItem:
    """One response to judge. Plain data: it crosses a process boundary as JSON."""

    response: str  # decoded text of the credited tokens, special tokens skipped
    answer: str | None
    prompt: str = ""  # text of the user's last turn
    num_tokens: int = 0
    truncated: bool = False
    sample_id: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)
    visual_share: float | None = None  # of the prompt's visual tokens, those the model saw; None: no media, or unknown
    # What a strategy that answers responses while they are sampled noted of this one; None: nobody would have answered.
    notes: Mapping[str, float] | None = None
