"""Numbers in words: "twenty-one", "two thirds", "three hundred and five", "one half", "3rd"."""

from __future__ import annotations

import re
from fractions import Fraction

_SMALL = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_PARTS = {
    "half": 2, "halves": 2, "third": 3, "fourth": 4, "quarter": 4, "fifth": 5, "sixth": 6, "seventh": 7, "eighth": 8,
    "ninth": 9, "tenth": 10, "hundredth": 100, "thousandth": 1000,
}  # fmt: skip
_PLACES = (
    "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth",
    "eleventh", "twelfth",
)  # fmt: skip
_WORDS = {word: value for value, word in enumerate(_SMALL)} | {word: 10 * (i + 2) for i, word in enumerate(_TENS)}


def spelled(text: str) -> str | None:
    """The number that a text spells, as digits or a fraction of digits; None for any other text."""
    words = re.split(r"[\s-]+", text.casefold().strip())
    if not 0 < len(words) <= 12 or not all(word.isalpha() for word in words):
        return None
    if words == ["half"]:
        return "1/2"
    part = _PARTS.get(words[-1]) or _PARTS.get(words[-1].removesuffix("s"))
    if part is not None and len(words) > 1:
        top = 1 if words[:-1] in (["a"], ["an"]) else _whole(words[:-1])
        return None if top is None else str(Fraction(top, part))
    whole = _whole(words)
    return None if whole is None else str(whole)


def ordinal(text: str) -> str | None:
    """A place in a row ("first", "3rd", "22nd") as words: "place 1", "place 3", "place 22"; else None."""
    short = text.casefold().strip()
    if short in _PLACES:
        return f"place {_PLACES.index(short) + 1}"
    match = re.fullmatch(r"(\d+)\s*\^?\s*\{?\s*(?:\\text\s*)?\{?\s*(st|nd|rd|th)\s*\}{0,2}", short)
    if match is None or match[2] != _ending(int(match[1])):
        return None
    return f"place {int(match[1])}"


def _ending(place: int) -> str:
    return "th" if place % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(place % 10, "th")


def _whole(words: list[str]) -> int | None:
    """Units after tens, hundreds after units, thousands and millions downwards."""
    total, group, last = 0, 0, ""
    limit = 10**9
    for word in words:
        if word == "and" and last in ("hundred", "thousand", "million"):
            last = word
            continue
        value = _WORDS.get(word)
        if value is not None:
            below = group % 100
            if (below and not (below % 10 == 0 and below >= 20 and 1 <= value <= 9)) or (value == 0 and len(words) > 1):
                return None
            group += value
        elif word == "hundred" and 1 <= group <= 9:
            group *= 100
        elif word in ("thousand", "million") and group and (scale := 10 ** (3 if word == "thousand" else 6)) < limit:
            total, group, limit = total + group * scale, 0, scale
        else:
            return None
        last = word
    return None if last == "and" else total + group
