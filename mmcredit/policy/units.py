"""Units of a response: words, numbers, identifiers, and the tokens that spell them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

By = Literal["word", "number", "identifier", "token"]

# A space before a word belongs to it, as byte-level tokens have it.
_PATTERNS: dict[str, re.Pattern[str]] = {
    "word": re.compile(r" ?[^\W_]+(?:['’][^\W_]+)*"),
    "number": re.compile(r" ?\d+(?:[.,]\d+)*"),
    "identifier": re.compile(r" ?[^\W\d]\w*"),
}


def units_of(text: str, spans: Sequence[tuple[int, int]], by: By) -> list[int]:
    """Per token the number of its unit, -1 for a token outside of every unit (and for empty ones).

    `spans`: the characters [start, end) of each token in `text`. A token belongs to the first unit that it has a part
    in. `token`: every token is a unit of its own.
    """
    if by == "token":
        return list(range(len(spans)))
    found = [match.span() for match in _PATTERNS[by].finditer(text)]
    out, at = [], 0
    for start, end in spans:
        while at < len(found) and found[at][1] <= start:
            at += 1
        inside = at < len(found) and end > start and start < found[at][1] and end > found[at][0]
        out.append(at if inside else -1)
    return out
