"""Rollouts of the next step, sampled while this one trains (`rollout.ahead: 1`).

When the batch of step t is there, the plain requests of step t+1 are handed to the engine, which samples them from the
weights that it has: those before the update of step t. So a response is at most one step old when it is trained on.
What a strategy asks beyond the plain first round is sampled when it asks, from weights that are not older.

A checkpoint waits for what is in flight (the next step would wait for it first thing) and holds its responses. A run
that goes on from there has the same batch without the weights that sampled it; what was in flight when a run was killed
is sampled again, by the same seeds from the checkpoint's weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from mmcredit.rollout.engine import Request, Response

if TYPE_CHECKING:
    from mmcredit.rollout.batch import Ask
    from mmcredit.rollout.engine import Sampling

# prompt and reaction (the objects), seeds, prefix, limit
Key = tuple[int, int, tuple[int, ...], tuple[int, ...], int | None]


@dataclass
class Flight:
    """The first round of a step, asked for before the step."""

    step: int
    before: dict[str, Any]  # state of the prompt stream before its prompts were taken
    asks: list[Ask]
    wait: Callable[..., list[Response]] | None  # until the responses are here
    responses: list[Response]


class Ahead:
    """Keeps one step in flight. With `steps` 0 it does nothing."""

    def __init__(self, stage: Any, steps: int) -> None:
        """`stage`: the `SamplingStage` that asks."""
        self.stage, self.steps = stage, steps
        self.flight: Flight | None = None
        self._ready: dict[Key, list[Response]] = {}
        if steps:
            stage.engine.keep_weights = True  # of lost servers, while the policy trains

    def start(self, step: int) -> None:
        """Begin to sample the first round of `step`, if the run has it."""
        if not self.steps or step >= self.stage.total_steps:
            return
        before = self.stage.stream.state_dict()
        asks = self.stage.first_asks(step)
        wait = self.stage.engine.submit(_requests(asks), self.stage.sampling)
        self.flight = Flight(step, before, asks, wait, [])

    def land(self) -> None:
        """Wait for what is in flight: afterwards the engine may be asked for something else, or be given weights."""
        flight = self.flight
        if flight is not None and flight.wait is not None:
            flight.responses, flight.wait = flight.wait(self.stage.bar.advance), None

    def asks(self, step: int) -> list[Ask]:
        """The first round of `step`, which has landed; its responses are here for `take` from now on."""
        flight, self.flight = self.flight, None
        assert flight is not None
        assert flight.step == step, f"step {flight.step} was sampled ahead, not {step}"
        by_tag: dict[int, list[Response]] = {}
        for response in flight.responses:
            by_tag.setdefault(response.tag, []).append(response)
        self._ready = {_key(r): by_tag.get(r.tag, []) for r in _requests(flight.asks)}
        return flight.asks

    def take(self, requests: Sequence[Request], sampling: Sampling) -> list[list[Response] | None]:
        """For each request the responses that were sampled ahead, or None. Handed out once."""
        if not self._ready or sampling != self.stage.sampling:
            return [None] * len(requests)
        return [self._ready.pop(_key(request), None) for request in requests]

    # -- memory -------------------------------------------------------------------------------------------------

    def stream_state(self) -> dict[str, Any]:
        """State of the prompt stream for a checkpoint: what is in flight takes its prompts again."""
        return self.stage.stream.state_dict() if self.flight is None else self.flight.before

    def state_dict(self) -> dict[str, Any]:
        """What is in flight, landed."""
        self.land()
        if self.flight is None:
            return {}
        return {"step": self.flight.step, "responses": [asdict(r) for r in self.flight.responses]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave; the stream must be where `stream_state` said."""
        self.flight = None
        if state and self.steps:
            before = self.stage.stream.state_dict()
            asks = self.stage.first_asks(state["step"])
            self.flight = Flight(state["step"], before, asks, None, [Response(**r) for r in state["responses"]])


def _requests(asks: Sequence[Ask]) -> list[Request]:
    return [Request(ask.shown or ask.prompt, ask.seeds, ask.prefix, tag=i) for i, ask in enumerate(asks)]


def _key(request: Request) -> Key:
    return id(request.prompt), id(request.reaction), tuple(request.seeds), tuple(request.prefix), request.limit
