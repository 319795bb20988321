"""Answers of several responses to one question, compared and counted."""

from __future__ import annotations

import re
from collections.abc import Sequence

from mmcredit.answers.extract import last_boxed, last_tag, normalise

_LETTER = re.compile(r"\(?([a-h])(?:\)|[.:,]|\s|$)")


def answer_key(text: str) -> str | None:
    """What a response votes for: its option letter if it names one first, else its answer in lower case; or None."""
    tagged = last_tag(text)
    found = last_boxed(text) if tagged is None else tagged
    if found is None:
        return None
    plain = normalise(found)
    letter = _LETTER.match(plain)
    alone = letter is not None and (len(plain) <= 3 or plain[letter.end(1) : letter.end(1) + 1] in ".:)")
    return letter.group(1) if letter is not None and alone else plain or None


def majority(texts: Sequence[str]) -> int:
    """Number of the response that the commonest answer stands in first; ties go to the answer that appeared first.

    Responses without an answer do not vote; without any vote it is the first response.
    """
    counts: dict[str, int] = {}
    first: dict[str, int] = {}
    for i, text in enumerate(texts):
        key = answer_key(text)
        if key is not None:
            counts[key] = counts.get(key, 0) + 1
            first.setdefault(key, i)
    if not counts:
        return 0
    most = max(counts.values())
    return min(first[key] for key, count in counts.items() if count == most)


def fewest_flags(flags: Sequence[float]) -> int:
    """Number of the response with the fewest flags, the first among equals; unknown ones count as infinitely many."""
    return min(range(len(flags)), key=lambda i: (flags[i], i))
