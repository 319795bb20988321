"""What a rollout engine is: prompts in, responses with the sampler's own log-probs out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

from mmcredit.policy.prompt import Prompt

if TYPE_CHECKING:
    from mmcredit.rollout.reaction import Reaction
    from mmcredit.rollouts import Inserted


class Sampling(BaseModel):
    """How tokens are drawn."""

    model_config = ConfigDict(extra="forbid")

    temperature: float = Field(1.0, ge=0, description="softmax temperature; 0 = greedy")
    top_p: float = Field(1.0, gt=0, le=1, description="nucleus mass kept")
    top_k: int = Field(0, ge=0, description="number of most likely tokens kept; 0 = all")
    max_new_tokens: int = Field(64, ge=1, description="response length limit in tokens")
    min_new_tokens: int = Field(0, ge=0, description="end tokens are withheld before this length")
    stop: tuple[str, ...] = Field((), description="strings that end a response (kept in it)")
    stop_token_ids: tuple[int, ...] = Field((), description="further ids that end a response (kept in it)")


def with_stops(sampling: Sampling, stop: Sequence[str]) -> Sampling:
    """The sampling with the stop strings of the policy's chat layout besides its own."""
    every = tuple(dict.fromkeys((*sampling.stop, *stop)))
    return sampling if every == sampling.stop else sampling.model_copy(update={"stop": every})


@dataclass(frozen=True)
class Request:
    """One prompt to sample from: one response per seed.

    `prefix` holds ids that every response starts with (continuations); they are not sampled again, and not returned.
    """

    prompt: Prompt
    seeds: Sequence[int]
    prefix: Sequence[int] = ()
    tag: int = 0  # the caller's own number, handed back
    limit: int | None = None  # tokens to sample at most, where that is fewer than the sampling's max_new_tokens
    reaction: Reaction | None = None  # what may be inserted; for engines that serve it (`takes_reactions`)

    @property
    def room(self) -> int:
        """Tokens that may be inserted into a response, which do not count towards the limit of sampled ones."""
        return 0 if self.reaction is None else self.reaction.room

    def new_tokens(self, most: int) -> int:
        """Tokens to sample at most, where the sampling's max_new_tokens is `most`."""
        return most if self.limit is None else min(self.limit, most)


@dataclass(frozen=True)
class Response:
    """One sampled response."""

    tag: int
    member: int  # which seed of the request
    tokens: list[int]  # ids exactly as sampled, the end token included, and what was inserted between them
    logprobs: list[float]  # of each token under the distribution at the sampling temperature (full softmax, nats)
    finish: Literal["stop", "length"]
    notes: dict[str, float] = field(default_factory=dict)  # of a reaction
    inserted: tuple[Inserted, ...] = ()  # at their places in `tokens`; their log-probs are 0
    answered: bool = False  # its request had a reaction: what was asked for in it was answered, or noted

    @property
    def sampled(self) -> int:
        """Tokens that the policy said."""
        return len(self.tokens) - sum(len(one.piece) for one in self.inserted)


class RolloutEngine(Protocol):
    """A rollout engine. `sync` makes it sample from the policy's present weights and drops every stale cache."""

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, progress: Callable[[int], None] | None = None
    ) -> list[Response]:
        """Responses in request order, members in seed order. The same seeds give the same responses.

        `progress` is told the number of responses that have finished since the last call.
        """
        ...

    def sync(self) -> None:
        """Take over the policy's present weights."""
        ...

    def close(self) -> None:
        """Free what the engine holds."""
        ...
