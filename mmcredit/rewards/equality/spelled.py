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
_JOINTS = ("hundred", "thousand", "million", "and", "point")
_HOW_MANY = ("", "is", "are", "was", "were", "be", "only", "exactly", "just", "equals", "answer", "total", "of", "has")
_WORDS = {word: value for value, word in enumerate(_SMALL)} | {word: 10 * (i + 2) for i, word in enumerate(_TENS)}
NUMBER_WORDS = tuple(_WORDS)


def spelled(text: str) -> str | None:
    """The number that a text spells, as digits or a fraction of digits; None for any other text."""
    words = re.split(r"[\s-]+", text.casefold().strip())
    if not 0 < len(words) <= 12 or not all(word.isalpha() or word.isdigit() for word in words):
        return None
    if words[0] in ("minus", "negative") and len(words) > 1:
        value = _unsigned(words[1:])
        return None if value is None else str(-value)
    value = _unsigned(words)
    return None if value is None or all(word.isdigit() for word in words) else str(value)


def _unsigned(words: list[str]) -> Fraction | None:
    """A whole number, a fraction ("two thirds"), both ("two and a half") or a decimal ("three point one four")."""
    if words == ["half"]:
        return Fraction(1, 2)
    if "point" in words:
        place = words.index("point")
        whole, digits = _whole(words[:place] or ["zero"]), [_WORDS.get(word, 10) for word in words[place + 1 :]]
        if whole is None or not digits or max(digits) > 9:
            return None
        return whole + Fraction(int("".join(map(str, digits))), 10 ** len(digits))
    part = _PARTS.get(words[-1]) or _PARTS.get(words[-1].removesuffix("s"))
    if part is None:
        whole = _whole(words)
        return None if whole is None else Fraction(whole)
    if "and" in words:
        place = len(words) - 1 - words[::-1].index("and")
        whole, rest = _whole(words[:place]), _unsigned(words[place + 1 :])
        if whole is not None and rest is not None and 0 < rest < 1:
            return whole + rest
    if len(words) == 1:
        return None
    top = 1 if words[:-1] in (["a"], ["an"]) else _whole(words[:-1])
    return None if top is None else Fraction(top, part)


def only_number(text: str) -> str | None:
    """The number spelt in a text in which nothing else is a number ("There are five cats."), as `spelled` gives it.

    "One" counts only where it tells how many, at the front or behind "is" and the like: "the green one" does not.
    """
    words = re.findall(r"[^\W_]+", text.casefold())
    runs: list[list[int]] = []
    for place, word in enumerate(words[:200]):
        goes_on = bool(runs) and runs[-1][-1] == place - 1
        if goes_on and (word in _WORDS or word in _JOINTS):
            runs[-1].append(place)
        elif word in _WORDS:
            runs.append([place])
    if len(runs) != 1 or any(word.isdigit() for word in words) or len(words) > 200:
        return None
    run = runs[0]
    while words[run[-1]] in ("and", "point"):
        run = run[:-1]
    before, behind = words[run[0] - 1] if run[0] else "", words[run[-1] + 1] if run[-1] + 1 < len(words) else ""
    if words[run[0]] == "one" and len(run) == 1 and (before not in _HOW_MANY or behind == "of"):
        return None
    if behind in _PARTS or behind.removesuffix("s") in _PARTS or behind in ("squared", "cubed", "percent", "dozen"):
        return None
    sign = "minus " if before in ("minus", "negative") else ""
    return spelled(sign + " ".join(words[place] for place in run))


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
    if words and all(word.isdigit() and word.isascii() for word in words):
        return int(words[0]) if len(words) == 1 and len(words[0]) < 20 else None
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
