"""Hints that a judge reads out of what came after a response (OpenClaw-RL, arXiv 2603.10165, hindsight)."""

from __future__ import annotations

import re
from collections.abc import Sequence

LEAST = 11  # characters of a hint: the paper keeps those of more than 10

QUESTION = """### Conversation
{conversation}

### Response
{response}

### What came next ({role})
{next_turn}

Does what came next reveal something that would have made the response better? If so, end with \\boxed{{1}} and give \
it as a concrete hint of one to three sentences between [HINT_START] and [HINT_END]. If not, end with \\boxed{{-1}}."""

_BOXED = re.compile(r"\\boxed\{\s*([+-]?\d+)\s*\}")
_HINT = re.compile(r"\[HINT_START\](.*?)\[HINT_END\]", re.DOTALL)


def read_hint(reply: str) -> str | None:
    """The hint of one reply: between the marks, the last one, where the last boxed value is +1; else None."""
    votes, hints = _BOXED.findall(reply), _HINT.findall(reply)
    if not votes or int(votes[-1]) != 1 or not hints:
        return None
    return hints[-1].strip() or None


def best_hint(replies: Sequence[str], least: int = LEAST) -> str | None:
    """The longest hint of several replies that has at least `least` characters, the first of equal ones; None: none,
    and the sample has no teacher."""
    hints = [hint for hint in map(read_hint, replies) if hint is not None and len(hint) >= least]
    return max(hints, key=len) if hints else None
