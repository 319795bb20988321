"""Short answers that are no options: yes or no, ChartQA's relaxed accuracy, MMMU's open questions."""

from __future__ import annotations

import re
from collections.abc import Sequence

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_DIGITS_COMMA = re.compile(r"\d,\d")


def yes_no(response: str) -> str | None:
    """VLMEvalKit's reading: "yes" or "no" if exactly one of the words occurs after VQA's removal of punctuation.

    ``*``, ``'`` and ``:`` are no punctuation there, so ``**Yes**`` and "yes:" are neither. Full stops that do not
    touch a digit are removed, the first 32 of them.
    """
    text = response.lower()
    cleaned = text
    for sign in _PUNCTUATION:
        alone = f"{sign} " in text or f" {sign}" in text or _DIGITS_COMMA.search(text) is not None
        cleaned = cleaned.replace(sign, "" if alone else " ")
    words = set(re.sub(r"(?<!\d)\.(?!\d)", "", cleaned, count=32).split())
    found = words & {"yes", "no"}
    return found.pop() if len(found) == 1 else None


def pope(response: str) -> str:
    """POPE's reading: "no" if a token before the first full stop is No, no or not; everything else is "yes"."""
    tokens = response.partition(".")[0].replace(",", "").split(" ")
    return "no" if any(token in ("No", "no", "not") for token in tokens) else "yes"


def to_float(text: str) -> float | None:
    """ChartQA's number: a trailing per cent sign divides by 100; None for anything that `float` refuses."""
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None


def relaxed(prediction: str, target: str, tolerance: float = 0.05) -> bool:
    """ChartQA's relaxed accuracy: within 5 % of a number that is not 0, else equal texts whatever the case."""
    value, wanted = to_float(prediction), to_float(target)
    if value is not None and wanted:  # neither None nor 0
        return abs(value - wanted) / abs(wanted) <= tolerance
    return prediction.lower() == target.lower()


# --- MMMU's open questions --------------------------------------------------------------------------------------------

_MARKS = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
_TRIVIAL = (":", ",", ".", "!", "?", ";", "'")
_NUMBERS = (
    re.compile(r"-?\b\d{1,3}(?:,\d{3})+\b"),
    re.compile(r"-?\d+(?:\.\d+)?[eE][+-]?\d+"),
    re.compile(r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])"),
)


def mmmu_form(text: str) -> list[str | float]:
    """MMMU's normal form: a number rounded to 2, else lower case; a single character with a blank on either side."""
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        pass
    text = text.lower()
    return [f" {text}", f"{text} "] if len(text) == 1 else [text]


def mmmu_open(response: str) -> set[str | float]:
    """What MMMU takes for answers in a response to an open question: key phrases and all numbers in them."""
    response = response.strip().strip(".").lower()
    lines = response.split("\n")  # upstream also splits before capitals, of which none are left after lowering
    keys = []
    for number, line in enumerate(lines):
        marks = (*_MARKS, "=") if number == len(lines) - 1 else _MARKS
        tails = [line.rpartition(mark)[2].strip() for mark in marks if mark in line]
        shortest = ""
        for tail in tails:
            if not shortest or len(tail) < len(shortest):
                shortest = tail
        if shortest and shortest not in _TRIVIAL:
            keys.append(shortest)
    keys = keys or [response]
    numbers = [found for key in keys for pattern in _NUMBERS for found in pattern.findall(key)]
    return {value for text in (*keys, *numbers) for value in mmmu_form(text)}


def mmmu_open_right(found: set[str | float], references: Sequence[str]) -> bool:
    """Whether a found text contains a reference, or a found number is one."""
    wanted = {value for reference in references for value in mmmu_form(reference)}
    texts = [value for value in wanted if isinstance(value, str)]
    return any(any(text in value for text in texts) if isinstance(value, str) else value in wanted for value in found)
