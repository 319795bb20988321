"""Which token of a response belongs to which segment and to which call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING

import torch

from mmcredit.components import register
from mmcredit.rollout.strategies.base import Rest, Stage, Strategy, Window
from video.retrieval import FPS_END, STATUSES, Call, call_closed, parse_call
from video.tags import TagIds

if TYPE_CHECKING:
    from mmcredit.data.sample import Sample
    from mmcredit.rollout.batch import Ask, Batch
    from mmcredit.rollouts import Rollouts

RETRIEVAL, REASONING = 1, 2  # values of Rollouts.segments
THINK_END = "</think>"
Decode = Callable[[Sequence[int]], str]


def mark(rollouts: Rollouts, ids: TagIds, decode: Decode) -> tuple[Rollouts, list[list[Call]]]:
    """The rollouts with `segments` and two signals, and the calls of each response.

    `segments`: 1 on sampled tokens up to and including the first `</fps>` id, 2 on sampled tokens after it or of a
    response without one, 0 on inserted ones. `retrieval_call` [B,T] int64: 0 outside calls, 1 + place of the call's
    status in `video.retrieval.STATUSES` on the tokens from `<span>` to `</fps>`. `thought` [B,T] bool: sampled tokens
    up to and including the one that completes the first `</think>` (all, if it never comes). `decode` turns ids into
    text; statuses are those of the text: what became of a window is known to the strategy that inserts.
    """
    segments = torch.zeros_like(rollouts.tokens)
    calls = torch.zeros_like(rollouts.tokens)
    thought = torch.zeros_like(rollouts.mask)
    found: list[list[Call]] = []
    for row, (tokens, mask) in enumerate(zip(rollouts.tokens.tolist(), rollouts.mask.tolist(), strict=True)):
        places = [place for place, sampled in enumerate(mask) if sampled]
        sampled = [tokens[place] for place in places]
        ends = [i for i, token in enumerate(sampled) if token == ids.fps_end]
        boundary = ends[0] if ends else -1
        for i, place in enumerate(places):
            segments[row, place] = RETRIEVAL if i <= boundary else REASONING
        found.append(token_calls(sampled, ids, decode))
        for before, end, call in zip([-1, *ends], ends, found[-1], strict=False):
            own = [i for i in range(before + 1, end) if sampled[i] == ids.span]
            begin = own[-1] if own else end
            calls[row, places[begin : end + 1]] = STATUSES.index(call.status) + 1
        for place in places[: _thought_length(sampled, decode)]:
            thought[row, place] = True
    signals = {"retrieval_call": calls, "thought": thought}
    return rollouts.replace(segments=segments).with_signals(signals), found


def token_calls(sampled: Sequence[int], ids: TagIds, decode: Decode) -> list[Call]:
    """A call per `</fps>` id of the sampled tokens; one that is spelled out in other tokens is text."""
    found, at = [], 0
    for end, token in enumerate(sampled):
        if token == ids.fps_end:
            text = decode(sampled[: end + 1])
            found.append(call_closed(text, at, text.rindex(FPS_END)))
            at = len(text)
    return found


def _thought_length(tokens: list[int], decode: Decode) -> int:
    """How many tokens it takes until `</think>` is complete; all of them if it never is."""
    if THINK_END not in decode(tokens):
        return len(tokens)
    low, high = 0, len(tokens)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if THINK_END in decode(tokens[:middle]) else (middle, high)
    return high


def windows(rollouts: Rollouts, row: int, sample: Sample, decode: Decode) -> list[Window]:
    """What the calls of a response ask for, with their status, and the gold window of its sample where there is one."""
    found, place = [], 0
    for value, run in groupby(rollouts.signals["retrieval_call"][row].tolist()):
        count = len(list(run))
        if value:
            call = parse_call(decode(rollouts.tokens[row, place : place + count].tolist()))
            if call.end > call.start:  # a malformed one has no times
                status = STATUSES[int(value) - 1]
                found.append(Window("asked", call.start, call.end, call.fps, status, place, count))
        place += count
    gold = sample.meta.get("span")
    if gold is None and sample.meta.get("gt_span_start") is not None:
        gold = (sample.meta["gt_span_start"], sample.meta["gt_span_end"])
    if gold is not None:
        rate = sample.meta.get("fps")
        found.append(Window("gold", float(gold[0]), float(gold[1]), None if rate is None else float(rate)))
    return found


@register("strategy", "retrieval_segments")
class RetrievalSegments(Strategy):
    """Marks retrieval calls in responses, for `sd_grpo`: nothing is decoded and no frame is inserted.

    Gives `segments` (1 up to and including the first `</fps>`, 2 after it), and the signals `retrieval_call` (which
    tokens make a call, and its status) and `thought` (tokens up to `</think>`). The tags must be single tokens of the
    policy's tokenizer. Stand it outside of what samples.
    Cost: none. Noted: calls by status.
    """

    gives = ("segments", "retrieval_call", "thought")

    def __call__(self, asks: Sequence[Ask], rest: Rest, stage: Stage) -> Batch:
        batch = rest(asks)
        rollouts, calls = mark(batch.rollouts, TagIds.of(stage.policy.tokenizer), stage.decode)
        for each in calls:
            for call in each or [Call()]:
                stage.note(f"retrieval/{call.status}", 1.0)
        return replace(batch, rollouts=rollouts)

    def windows(self, rollouts: Rollouts, row: int, sample: Sample, decode: Decode) -> Sequence[Window]:
        return windows(rollouts, row, sample, decode)
