"""Pairs from the frozen rollouts of a run: ids as they were sampled, with the signals that the run had computed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mmcredit.data.dropped import Dropped
from mmcredit.frozen import find, thaw, vocabulary_digest
from mmcredit.preference.pairs import EncodedPair, numbered
from mmcredit.seeds import derive

if TYPE_CHECKING:
    from torch import Tensor

    from mmcredit.frozen import Frozen
    from mmcredit.policy.policy import Policy
    from mmcredit.preference.config import FromRunBlock
    from mmcredit.rollouts import Rollouts

FLAGGED = "hallucinated"


def from_run(block: FromRunBlock, policy: Policy, seed: int, dropped: Dropped) -> list[EncodedPair]:
    """The pairs of every frozen batch of a run.

    `by: reward` pairs right with wrong responses of a group, `by: verifier` responses without a flagged token with ones
    that have some. A cut response is never the chosen one. Groups that give no pair are counted. Raises ValueError for
    a run without frozen rollouts, of another vocabulary, without the asked reward part or signal, or without pairs.
    """
    found: list[EncodedPair] = []
    own = vocabulary_digest(policy.tokenizer)
    batches = find(block.run)
    for path in batches:
        frozen = thaw(path)
        if frozen.tokenizer != own:
            raise ValueError(
                f"{path}: the run's tokenizer is not that of {policy.config.path}: ids would mean other tokens; set "
                "model.path to a model of the same vocabulary"
            )
        good, bad = sides(frozen, block)
        found += _pairs(frozen, good, bad, block, policy, seed, dropped)
    if not found:
        raise ValueError(f"{block.run}: its {len(batches)} frozen batches give no pair ({dropped})")
    return numbered(found)


def sides(frozen: Frozen, block: FromRunBlock) -> tuple[Tensor, Tensor]:
    """[B] bool twice: responses that may be chosen, and that may be rejected. Raises ValueError as `from_run`."""
    rollouts = frozen.rollouts
    if block.by == "verifier":
        if FLAGGED not in rollouts.signals:
            raise ValueError(
                f"{frozen.path} has no signal {FLAGGED!r}; pairs by verifier need a run with one (verifiers: ...)"
            )
        flagged = ((rollouts.signals[FLAGGED] > 0) & rollouts.mask).any(1)
        return ~flagged & ~rollouts.truncated, flagged
    known = list(rollouts.reward_parts)
    named = block.part or (frozen.config.get("evaluate") or {}).get("reward")
    wanted = str(named or (known[0] if known else "none"))
    if wanted not in rollouts.reward_parts:
        raise ValueError(f"{frozen.path} has no reward part {wanted!r}; known: {', '.join(known) or 'none'} (part)")
    part = rollouts.reward_parts[wanted]
    right = part > block.threshold
    return right & ~rollouts.truncated, (part <= block.threshold) & ~part.isnan()


def _pairs(
    frozen: Frozen, good: Tensor, bad: Tensor, block: FromRunBlock, policy: Policy, seed: int, dropped: Dropped
) -> list[EncodedPair]:
    rollouts = frozen.rollouts
    assert rollouts.samples is not None
    found = []
    for group, sample in enumerate(rollouts.samples):
        rows = (rollouts.group == group).nonzero()[:, 0].tolist()
        chosen, rejected = [r for r in rows if good[r]], [r for r in rows if bad[r]]
        texts = {r: policy.decode(_ids(rollouts, r)) for r in (*chosen, *rejected)}
        every = [(a, b) for a in chosen for b in rejected if texts[a] != texts[b]]
        if not every:
            dropped.add(_why(chosen, rejected, rows), sample.name)
            continue
        random.Random(derive(seed, "pairs", frozen.step, sample.id)).shuffle(every)
        for a, b in every[: block.per_group]:
            given = {
                name: (_row(values, rollouts, a), _row(values, rollouts, b))
                for name, values in rollouts.signals.items()
                if values.shape == rollouts.tokens.shape
            }
            found.append(EncodedPair(sample, tuple(_ids(rollouts, a)), tuple(_ids(rollouts, b)), given=given))
    return found


def _why(chosen: Sequence[int], rejected: Sequence[int], rows: Sequence[int]) -> str:
    if not rows:
        return "no responses"
    if not rejected:
        return "nothing to reject in the group"
    return "equal answers" if chosen else "nothing to choose in the group"


def _ids(rollouts: Rollouts, row: int) -> list[int]:
    found: list[int] = rollouts.tokens[row][rollouts.valid[row]].tolist()
    return found


def _row(values: Tensor, rollouts: Rollouts, row: int) -> Tensor:
    return values[row][rollouts.valid[row]].float()


def split(pairs: Sequence[EncodedPair], share: float, seed: int) -> tuple[list[EncodedPair], list[EncodedPair]]:
    """(train, held out): about `share` of the prompts are held out, with all of their pairs."""
    out = [derive(seed, "held-out pairs", p.sample.id) % 10_000 < share * 10_000 for p in pairs]
    return (
        [p for p, held in zip(pairs, out, strict=True) if not held],
        [p for p, held in zip(pairs, out, strict=True) if held],
    )
