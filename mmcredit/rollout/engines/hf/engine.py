"""The engine `hf`: a decode loop of our own over the model body of the policy."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

import torch

from mmcredit.rollout.drawing.sampler import Sampler, row_uniforms
from mmcredit.rollout.drawing.stop import StopCondition, StopStrings
from mmcredit.rollout.engine import Request, Response, Sampling, with_stops
from mmcredit.rollout.engines.hf.attention import rollout_attention
from mmcredit.rollout.engines.hf.decoder import Decoder
from mmcredit.rollout.engines.hf.loop import Finished, LogitsHook, Rows, decode
from mmcredit.rollout.engines.hf.prefill import Prefilled, prefill
from mmcredit.rollout.engines.hf.waiting import Reactions
from mmcredit.rollout.engines.hf.waves import Wave, plan_waves

if TYPE_CHECKING:
    from mmcredit.policy.policy import Policy
    from mmcredit.rollout.engines.hf.settings import Settings


class HFEngine:
    """The engine `hf`; see `HF` for what it promises. Not for use from several threads at once."""

    def __init__(self, policy: Policy, config: Settings) -> None:
        self.policy = policy
        self.config = config
        self.hook: LogitsHook | None = None  # called with (step, logits [N,V], rows) before every draw
        # What was read since opening: prompts, prefixes of continuations (each once per wave), and their tokens.
        # Insertions into responses, their tokens, and how often a response was taken up again (one token each).
        self.counts = dict.fromkeys(
            (
                "waves",
                "prompts",
                "prompt_tokens",
                "prefixes",
                "prefix_tokens",
                "insertions",
                "inserted_tokens",
                "resumed",
            ),
            0,
        )
        # Seconds: reading prompts, sampling, reading insertions, and waiting for what reactions had promised.
        self.spent = dict.fromkeys(("prompts", "sampling", "insertions", "waiting"), 0.0)
        self._strings: tuple[tuple[str, ...], StopStrings | None] = ((), None)  # of the last call

    @torch.no_grad()
    def generate(
        self, requests: Sequence[Request], sampling: Sampling, progress: Callable[[int], None] | None = None
    ) -> list[Response]:
        """Responses in request order, members in seed order.

        `progress` is told how many responses have just finished. Raises ValueError for a request that does
        not fit the model's positions and for a bad seed or stop string, RuntimeError for logits that are not finite.
        """
        order = [(i, member) for i, request in enumerate(requests) for member in range(len(request.seeds))]
        if not order:
            return []
        began = time.perf_counter()
        sampling = with_stops(sampling, self.policy.stop_strings)
        decoder = Decoder(self.policy)
        _check_lengths(requests, sampling, decoder)
        end_ids = {*self.policy.eos_token_ids, *sampling.stop_token_ids}
        sampler = Sampler(sampling, self.policy.suppressed_ids, end_ids, decoder.device)
        strings = self._stop_strings(sampling.stop, decoder)
        stop = StopCondition(end_ids, strings, sampling.min_new_tokens, decoder.vocabulary, decoder.device)
        reactions: Reactions | None = None
        if any(request.reaction is not None for request in requests):
            reactions = Reactions(requests, order, decoder.vocabulary, decoder.device, self.counts)
        out: list[Response | None] = [None] * len(order)

        def finish(done: list[Finished]) -> None:
            for one in done:
                i, member = order[one.response]
                if any(map(math.isnan, one.logprobs)):
                    raise RuntimeError(
                        f"sample {requests[i].prompt.sample_id}: the model's logits are not finite; the weights or the "
                        "prompt's features hold NaN or infinity"
                    )
                if reactions is not None:
                    one = reactions.whole(one)
                end: Literal["stop", "length"] = "stop" if one.stopped else "length"
                out[one.response] = Response(
                    requests[i].tag,
                    member,
                    one.tokens,
                    one.logprobs,
                    end,
                    dict(one.notes),
                    one.inserted,
                    requests[i].reaction is not None,
                )

        def ended(done: list[Finished]) -> None:
            finish(done)
            if progress is not None:
                progress(len(done))

        waves = plan_waves(requests, self.config.max_concurrent, self.config.max_cache_tokens, sampling.max_new_tokens)
        with rollout_attention(decoder.body):
            for wave in waves:
                seeds = [requests[order[n][0]].seeds[order[n][1]] for _, n in wave.rows]
                limits = [requests[order[n][0]].new_tokens(sampling.max_new_tokens) for _, n in wave.rows]
                rows = _rows(wave, seeds, limits, decoder.device)
                self._count(wave)
                with timed(self.spent, "prompts"):
                    ready = prefill(decoder, wave, wave.new_tokens, self.config.prefill_tokens)
                hook = self.wave_hook(wave, sampling)
                ready.cache.keeps_prompts = reactions is not None
                batch: tuple[Prefilled, Rows] | None = ready, rows
                while batch is not None:
                    with torch.inference_mode(), timed(self.spent, "sampling"):
                        decode(decoder, *batch, sampler, stop, finish, progress, hook, reactions)
                    batch = None
                    if reactions is not None and reactions.waiting:
                        with timed(self.spent, "insertions"):
                            batch = reactions.go_on(decoder, ready.cache, ended, self.config.prefill_tokens)
        if reactions is not None:
            self.spent["waiting"] += reactions.seconds
            self.spent["insertions"] -= reactions.seconds
        decoder.cost.seconds += time.perf_counter() - began
        assert all(response is not None for response in out)
        return [response for response in out if response is not None]

    def wave_hook(self, wave: Wave, sampling: Sampling) -> LogitsHook | None:
        """What looks at the logits of this wave before every draw. A subclass may make one that belongs to the wave."""
        return self.hook

    def _count(self, wave: Wave) -> None:
        prefixes = [len(prefix) for _, prefix in wave.stems if prefix]
        self.counts["waves"] += 1
        self.counts["prompts"] += len(wave.prompts)
        self.counts["prompt_tokens"] += sum(len(prompt) for prompt in wave.prompts)
        self.counts["prefixes"] += len(prefixes)
        self.counts["prefix_tokens"] += sum(prefixes)

    def _stop_strings(self, stop: tuple[str, ...], decoder: Decoder) -> StopStrings | None:
        if stop != self._strings[0]:
            made = StopStrings(stop, self.policy.tokenizer, decoder.vocabulary, decoder.device) if stop else None
            self._strings = (stop, made)
        return self._strings[1]

    def sync(self) -> None:
        """The engine reads the training model's weights; only features of a trained vision tower are dropped."""
        self.policy.weights_changed()

    def close(self) -> None:
        """Nothing is held between calls."""


@contextmanager
def timed(spent: dict[str, float], name: str) -> Iterator[None]:
    """Add the block's wall time to `spent`."""
    began = time.perf_counter()
    try:
        yield
    finally:
        spent[name] += time.perf_counter() - began


def _rows(wave: Wave, seeds: Sequence[int], limits: Sequence[int], device: torch.device) -> Rows:
    count, new_tokens = len(wave.rows), wave.new_tokens
    return Rows(
        responses=torch.tensor([n for _, n in wave.rows]),
        prefixes=[wave.stems[stem][1] for stem, _ in wave.rows],
        tokens=torch.zeros(new_tokens, count, dtype=torch.int64, device=device),
        logprobs=torch.zeros(new_tokens, count, device=device),
        uniforms=row_uniforms(seeds, new_tokens).to(device),
        limits=torch.tensor(limits, device=device),
    )


def _check_lengths(requests: Sequence[Request], sampling: Sampling, decoder: Decoder) -> None:
    for request in requests:
        prompt, prefix, new_tokens = request.prompt, len(request.prefix), request.new_tokens(sampling.max_new_tokens)
        if request.reaction is not None and sampling.min_new_tokens:
            raise ValueError(
                f"min_new_tokens is {sampling.min_new_tokens}, but a response that is stopped for insertions would "
                "count it anew; set rollout.sampling.min_new_tokens to 0"
            )
        if request.reaction is not None and not decoder.takes_insertions:
            raise ValueError(
                f"sample {prompt.sample_id}: {type(decoder.body).__name__} has sliding windows or layers of another "
                "kind, and engine 'hf' inserts nothing into its responses; take another model (model.path)"
            )
        if prefix and decoder.hybrid:
            raise ValueError(
                f"sample {prompt.sample_id}: a response is to be continued, and engine 'hf' does not carry the states "
                f"of {type(decoder.body).__name__}'s linear attention through prefixes; take a strategy without them"
            )
        room = request.room
        inserted = f" + inserted tokens {room}" if room else ""
        remedy = "lower max_new_tokens or the prompt limit" + (", or what may be inserted" if room else "")
        if new_tokens < 1:
            raise ValueError(f"sample {prompt.sample_id}: a request's limit must be at least 1, got {request.limit}")
        if not len(prompt):
            raise ValueError(f"sample {prompt.sample_id}: the prompt is empty")
        last = prompt.next_position + prefix + new_tokens + room
        if decoder.max_positions is not None and last > decoder.max_positions:
            raise ValueError(
                f"sample {prompt.sample_id}: prompt positions {prompt.next_position} + prefix {prefix} + "
                f"max_new_tokens {new_tokens}{inserted} = {last} exceed the model's {decoder.max_positions} "
                f"positions; {remedy}"
            )
