"""What a verifier is: responses in, a verdict per response out, with the spans that are wrong.

A package registers a component of the kind `verifier` and a run names it:

    verifiers:
      - scene_oracle: {groups: unequal}
    credit: [grpo, perceval]

The component only holds settings. `open` gives the checker that does the work; it lives as long as the run, and its
`verify` is called from a thread of its own while the trainer samples on and scores. Shapes: B responses, T tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, get_args

import torch
from pydantic import Field

from mmcredit.components import Component

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from mmcredit.data.media import MediaLimits
    from mmcredit.data.sample import Sample
    from mmcredit.rollouts import Rollouts

# clean, flagged: an answer was had. parse_error: the verifier said something unreadable. prm_error: it could not be
# asked, or broke. skipped: not asked (not applicable). The last three are never taken for clean.
Status = Literal["clean", "flagged", "parse_error", "prm_error", "skipped"]
STATUSES: tuple[Status, ...] = get_args(Status)


@dataclass(frozen=True)
class VerifyItem:
    """One response to verify."""

    sample: Sample  # messages, media, meta; media are decoded with `RunContext.media`
    text: str  # the response decoded, special tokens skipped
    tokens: tuple[int, ...]  # its real tokens (`Rollouts.valid`), ids exactly as sampled: N of them
    sampled: tuple[bool, ...]  # [N] which of them the policy sampled; the others were inserted
    reward: float = 0.0  # total
    truncated: bool = False


@dataclass(frozen=True)
class Span:
    """One thing that the verifier says is wrong, and where it stands in the response."""

    text: str  # as the verifier said it
    tokens: tuple[tuple[int, int], ...] = ()  # ranges [start, end) in `VerifyItem.tokens`
    chars: tuple[tuple[int, int], ...] = ()  # ranges [start, end) in `VerifyItem.text`
    fate: str = "located"  # or why it has no range: not_found, empty, outside_zone, ...
    rung: str = ""  # how it was found: exact, trimmed, normalised, ...

    @property
    def located(self) -> bool:
        """Whether it marks any token."""
        return any(start < end for start, end in self.tokens)


@dataclass(frozen=True)
class Verdict:
    """What a verifier says of one response. Raises ValueError for an unknown status, or spans without `flagged`."""

    status: Status
    spans: tuple[Span, ...] = ()
    reason: str = ""  # of the other three statuses: a fixed phrase, by which they are counted ("no image", "timeout")
    detail: str = ""  # free text for the sample table: the verifier's reasoning, an error's message
    # Amounts spent on this response, added up in cost.json: calls, prompt_tokens, tokens, cache_hits, retries, ...
    usage: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise ValueError(f"a verdict's status is one of {', '.join(STATUSES)}, got {self.status!r}")
        if self.spans and self.status != "flagged":
            raise ValueError(f"spans belong to the status 'flagged', got {len(self.spans)} with {self.status!r}")

    @property
    def known(self) -> bool:
        """Whether the verifier answered: such responses enter rates, the others are counted beside them."""
        return self.status in ("clean", "flagged")


@dataclass(frozen=True)
class RunContext:
    """What a verifier may know of the run that opens it."""

    tokenizer: Any  # of the policy: `VerifyItem.tokens` are its ids
    run_dir: Path  # for caches and logs of its own
    seed: int  # of the run; a verifier draws from generators of its own, never from the global ones
    media: MediaLimits  # where media may lie, and how big they may be


class Checker(Protocol):
    """An opened verifier. Both methods are called from one thread, which is not the trainer's."""

    def verify(self, items: Sequence[VerifyItem]) -> Sequence[Verdict]:
        """A verdict per item, in order. What fails for one item is its status; an exception is `prm_error` for all.

        Bound its time: the trainer stops waiting after `Verifier.timeout`, but the call is not killed.
        """
        ...

    def close(self) -> None:
        """Free what is held. Called once, after the last `verify`."""
        ...


class Verifier(Component):
    """A verifier as a config names it. A subclass gives `open`, and `gives` and `signals` where it says more."""

    gives: ClassVar[tuple[str, ...]] = ("hallucinated",)  # signals it attaches to `Rollouts`

    groups: Literal["unequal", "all"] = Field(
        "unequal",
        description="groups that are verified: those whose rewards differ (behind grpo and its like the others have "
        "advantage 0), or all",
    )
    timeout: float = Field(
        600.0, gt=0, description="seconds that credit waits for a batch; what is missing then is a prm_error"
    )
    alarm_error_share: float = Field(
        0.2, ge=0, le=1, description="share of parse and verifier errors in a step above which an alarm is raised"
    )

    def open(self, context: RunContext) -> Checker:
        """The checker of a run. Raises ValueError for what the config gets wrong."""
        raise TypeError(f"{type(self).__name__} does not implement open(context)")

    def signals(self, verdicts: Sequence[Verdict], rollouts: Rollouts) -> dict[str, Tensor]:
        """The signals of `gives` for B verdicts. Here: `hallucinated` [B,T] bool, the tokens of located spans.

        Ranges are clamped to the response; padding is never marked. No verdict is no mark.
        """
        flagged = torch.zeros(rollouts.tokens.shape, dtype=torch.bool)
        valid = rollouts.valid.tolist()
        rows: list[int] = []
        columns: list[int] = []
        for row, verdict in enumerate(verdicts):
            if not verdict.spans:
                continue
            places = [column for column, there in enumerate(valid[row]) if there]
            for span in verdict.spans:
                for start, end in span.tokens:
                    columns += places[max(0, start) : max(0, end)]
            rows += [row] * (len(columns) - len(rows))
        flagged[rows, columns] = True
        return {"hallucinated": flagged.to(rollouts.tokens.device)}
