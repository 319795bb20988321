"""What may be put into a response while it is sampled: the protocol between an engine and who reacts to tokens.

An engine that serves it (`takes_reactions`) stops a response behind a token of `stops`, hands it over, and goes on in
the same turn with what comes back, on the keys and values that it has (`hf`: nothing that was read is read again;
`vllm`: as far as its prefix cache reaches).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from mmcredit.policy.prompt import Prompt
    from mmcredit.rollouts import Inserted

# Promises are redeemed when this many responses wait for each one that goes on: a long one does not hold up all others,
# and most of a batch has been sampled while they were kept.
STRAGGLERS = 3


@dataclass(frozen=True)
class Said:
    """A response that has just said a token of `stops`."""

    prompt: Prompt
    tag: int  # of the request
    member: int  # which seed of it
    tokens: tuple[int, ...]  # behind the request's prefix: what was sampled and inserted; the last one stopped it
    inserted: tuple[Inserted, ...]
    room: int  # tokens that may still be inserted
    left: int  # tokens that may still be sampled, 1 at least


@dataclass(frozen=True)
class Reply:
    """How a response goes on: behind `piece`, as it is (None), or not at all (`end`).

    A piece is made by `PromptEncoder.piece`, ends in text and has `Said.room` tokens at most. `notes` go into
    `Response.notes`, the later of equal names stays.
    """

    piece: Prompt | None = None
    end: bool = False
    notes: Mapping[str, float] = field(default_factory=dict)


class Promised(Protocol):
    """A reply that is being made, a `concurrent.futures.Future` for instance."""

    def result(self) -> Reply:
        """The reply; waits for it. Called once, in the thread that samples."""
        ...


class Reaction(Protocol):
    """Decides what is inserted. It belongs to one request; equal responses must get equal replies."""

    @property
    def stops(self) -> tuple[int, ...]:
        """Ids behind which a response is handed over."""
        ...

    @property
    def room(self) -> int:
        """Tokens that may be inserted into a response, all together."""
        ...

    def __call__(self, said: Said) -> Reply | Promised:
        """The reply, or a promise of it: the response then waits while others are sampled. An engine asks for all
        promises at a moment that does not depend on how long they take."""
        ...
