"""How much a step samples and trains on, from the config alone: plain sampling, and what every strategy makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from mmcredit.components import build_all


class Run(Protocol):
    """The block of a run config that is looked at."""

    rollout: Any


@dataclass(frozen=True)
class Volume:
    """Counts of one step. Bounds hold if every response runs to its limit; short responses make all of them smaller."""

    prompts: int  # groups that are sampled, at least
    most_prompts: int
    responses: int  # sampled at least; continuations, segments and probes included
    most_responses: int
    most_tokens: int  # sampled tokens
    rows: int  # responses that are trained on, at most
    row_prompts: int  # prompts they belong to, at most
    row_tokens: int  # of the longest of them, behind its prompt
    lines: tuple[str, ...] = ()  # what each strategy does to plain sampling, innermost first

    def asked(self, least: float, most: float) -> Volume:
        """The same with `least` to `most` times the prompts sampled and as many trained on as before."""
        return replace(
            self,
            prompts=round(self.prompts * least),
            most_prompts=round(self.most_prompts * most),
            responses=round(self.responses * least),
            most_responses=round(self.most_responses * most),
            most_tokens=round(self.most_tokens * most),
        )

    def more(self, least: int, most: int, tokens: int, line: str) -> Volume:
        """The same with further responses (`least` to `most`, of `tokens` tokens in all), which are not trained on."""
        return replace(
            self,
            responses=self.responses + least,
            most_responses=self.most_responses + most,
            most_tokens=self.most_tokens + tokens,
            lines=(*self.lines, line),
        )

    def noting(self, line: str) -> Volume:
        """The same with a further line."""
        return replace(self, lines=(*self.lines, line))


def plain(run: Run) -> Volume:
    """A step without strategies: every prompt `rollout.group` times."""
    prompts, rows, limit = run.rollout.prompts, run.rollout.prompts * run.rollout.group, _limit(run)
    return Volume(prompts, prompts, rows, rows, rows * limit, rows, prompts, limit)


def sampled(run: Run) -> Volume:
    """A step of `run` with all its strategies."""
    volume = plain(run)
    for strategy in reversed(build_all("strategy", run.rollout.strategies)):
        volume = strategy.volume(volume, run)  # type: ignore[attr-defined]
    return volume


def chain_tokens(limit: int, interval: int, bound: int | None) -> tuple[int, int]:
    """(boundaries, tokens of one continuation from each) of a response of `limit` tokens with a boundary before every
    `interval`-th: a continuation from token t may be `limit` - t long. At most `bound` boundaries."""
    if bound is not None:
        interval = max(interval, -(-limit // bound))
    starts = range(0, limit, interval)
    return len(starts), sum(limit - start for start in starts)


def tree_size(branching: Sequence[int], limit: int, segment: int, trees: int, max_leaves: int) -> tuple[int, int, int]:
    """(segments, leaves, tokens) of `trees` trees if no segment ends by itself; levels are narrowed as the growth does
    where their leaves would be more than `max_leaves`."""
    front, segments, tokens, left = trees, 0, 0, limit
    for depth, width in enumerate(branching):
        front *= max(1, min(width, max_leaves // front))
        length = left if depth + 1 == len(branching) else min(segment, left)
        segments, tokens, left = segments + front, tokens + front * length, left - length
    return segments, front, tokens


def _limit(run: Run) -> int:
    return run.rollout.sampling.max_new_tokens
