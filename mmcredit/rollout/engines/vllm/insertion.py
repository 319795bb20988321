"""Responses that are given something in their middle: vLLM stops them, and they are sent again with it behind them.

A response that says a token of its reaction's `stops` ends as a request. Its prompt, what it has said and what it is
given form the next request, of which vLLM's prefix cache holds all but the newest part. It draws on with the numbers of
its own seed, so that it says what it would have said in one go.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch

from mmcredit.rollout.engine import Request, Response, Sampling
from mmcredit.rollout.engines.vllm.media import engine_input
from mmcredit.rollout.history import History
from mmcredit.rollout.reaction import STRAGGLERS, Promised, Reply, Said

if TYPE_CHECKING:
    from mmcredit.policy.policy import Policy
    from mmcredit.policy.prompt import Prompt


class Sampler(Protocol):
    """What is asked of the engine."""

    policy: Policy
    counts: dict[str, int]
    waited: float

    @property
    def llm_engine(self) -> Any:
        """vLLM's own engine."""
        ...

    def said(
        self, prompt: Prompt, prefix: Sequence[int], output: Any, sampling: Sampling
    ) -> tuple[list[int], list[float], str]:
        """Tokens, log-probs and how it ended, of an output of vLLM."""
        ...


class Parameters(Protocol):
    """Makes vLLM's parameters of one request."""

    def __call__(self, seed: int, limit: int, prefix: int, drawn: int, stops: Sequence[int]) -> Any:
        """`limit` tokens at most; of the prompt the last `prefix` ids belong to the response, `drawn` of them sampled;
        `stops` end the request besides what ends the response."""
        ...


@dataclass
class Turn:
    """A response under way."""

    request: Request
    member: int
    limit: int
    history: History
    reply: Reply | Promised | None = None  # what it waits for
    stopped: bool = False

    @property
    def prefix(self) -> list[int]:
        """Ids behind the prompt."""
        return [*(int(t) for t in self.request.prefix), *self.history.tokens]

    def response(self) -> Response:
        """As the engine returns it."""
        h = self.history
        end: Literal["stop", "length"] = "stop" if self.stopped else "length"
        answered = self.request.reaction is not None
        notes, inserted = dict(h.notes), tuple(h.inserted)
        return Response(self.request.tag, self.member, h.tokens, h.logprobs, end, notes, inserted, answered)


class Insertions:
    """One call of the engine whose requests have reactions, or media that vLLM is not to read itself."""

    def __init__(self, engine: Sampler, sampling: Sampling, end_ids: Sequence[int], parameters: Parameters) -> None:
        self.engine, self.sampling, self.end_ids, self.parameters = engine, sampling, frozenset(end_ids), parameters
        self.llm = engine.llm_engine
        self.running: dict[str, Turn] = {}
        self.waiting: list[Turn] = []
        self.sent = 0

    def __call__(self, requests: Sequence[Request], progress: Callable[[int], None] | None) -> list[Response]:
        """Responses in request order, members in seed order."""
        turns = [
            Turn(request, member, request.new_tokens(self.sampling.max_new_tokens), History(request.room))
            for request in requests
            for member in range(len(request.seeds))
        ]
        try:
            for turn in turns:
                self._send(turn)
            while self.running or self.waiting:
                before = len(turns) - len(self.running) - len(self.waiting)
                if self.waiting and len(self.waiting) >= STRAGGLERS * len(self.running):
                    self._redeem()
                else:
                    for output in self.llm.step():
                        if output.finished:
                            self._stopped(self.running.pop(output.request_id), output)
                done = len(turns) - len(self.running) - len(self.waiting) - before
                if progress is not None and done:
                    progress(done)
        except BaseException:
            self.llm.abort_request(list(self.running))
            raise
        return [turn.response() for turn in turns]

    def _send(self, turn: Turn) -> None:
        request, history = turn.request, turn.history
        prompt, prefix = request.prompt, turn.prefix
        start = len(prompt) + len(request.prefix)
        parts = [(0, prompt), *((start + one.at, one.piece) for one in history.inserted)]
        stops = () if request.reaction is None else tuple(request.reaction.stops)
        seed = int(request.seeds[turn.member])
        given = self.parameters(seed, turn.limit - history.sampled, len(prefix), history.sampled, stops)
        name = f"turn-{id(self)}-{self.sent}"
        self.sent += 1
        self.llm.add_request(name, engine_input(self.engine.policy, [*prompt.tokens.tolist(), *prefix], parts), given)
        self.running[name] = turn

    def _stopped(self, turn: Turn, output: Any) -> None:
        """A request has ended: with its response, or behind a token that is reacted to."""
        request, history = turn.request, turn.history
        tokens, logprobs, end = self.engine.said(request.prompt, turn.prefix, output, self.sampling)
        history.say(tokens, logprobs)
        self.engine.counts["requests"] += 1
        self.engine.counts["cached_tokens"] += output.num_cached_tokens or 0
        stops = () if request.reaction is None else request.reaction.stops
        reacts = end == "token" and tokens[-1] in stops and tokens[-1] not in self.end_ids
        left = turn.limit - history.sampled
        if request.reaction is None or not reacts or not left:
            turn.stopped = end != "length" and not reacts
            return
        said = Said(
            request.prompt, request.tag, turn.member, tuple(history.tokens), tuple(history.inserted), history.room, left
        )
        with torch.inference_mode(False):  # tensors that it makes are for training, too
            turn.reply = request.reaction(said)
        if isinstance(turn.reply, Reply) and turn.reply.piece is None and not turn.reply.end:
            self._go_on(turn, turn.reply)
        else:
            self.waiting.append(turn)

    def _redeem(self) -> None:
        """All that wait are given what they were promised."""
        waiting, self.waiting = self.waiting, []
        for turn in waiting:
            assert turn.reply is not None
            began = time.perf_counter()
            reply = turn.reply if isinstance(turn.reply, Reply) else turn.reply.result()
            self.engine.waited += time.perf_counter() - began
            self._go_on(turn, reply)

    def _go_on(self, turn: Turn, reply: Reply) -> None:
        turn.history.notes |= reply.notes
        if reply.end:
            turn.stopped = True
            return
        if reply.piece is not None:
            turn.history.give(reply.piece, turn.request.prompt.sample_id)
            self.engine.counts["insertions"] += 1
            self.engine.counts["inserted_tokens"] += len(reply.piece)
        self._send(turn)
