"""The reference answers of a row: from one column, several that agree, or a list of alternatives."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

import numpy as np

from mmcredit.answers.references import unwrapped
from mmcredit.data.columns import KNOWN, Columns, get, is_nan, pick, plain
from mmcredit.data.dropped import UnusableSample

BOX_NUMBERS = 4  # a list of this many numbers is a rectangle, one value
EXACT_FLOAT = 2.0**53  # whole floats below it are the integers they were before a missing value made them floats
_WORDS = 4  # a longer text is a sentence: it may say the same as a short one in other words


@dataclass(frozen=True)
class Reference:
    """What a row says is right."""

    column: str | None = None  # the one that was taken
    texts: tuple[str, ...] = ()  # accepted answers; none: the row has no reference
    notes: tuple[str, ...] = ()  # what was decided


def read(row: Mapping[str, Any], columns: Columns, where: str) -> Reference:
    """The reference of a row: the named column, else the first known one that has a value.

    Raises UnusableSample if two known columns hold answers that differ. Two that may differ (a sentence or LaTeX
    beside a short answer) are no error: the first is taken, and a note says so. A worked `solution` beside an answer
    is the usual case and worth no word.
    """
    if columns.answer is not None:
        name, value = pick(row, columns, "answer", where)
        return Reference(name, *_texts_and_notes(value))
    found = [(name, texts_of(get(row, name))) for name in KNOWN["answer"]]
    filled = [(name, texts) for name, texts in found if texts]
    if not filled:
        return Reference()
    name, texts = filled[0]
    notes: list[str] = []
    for other, values in filled[1:]:
        worked = other == "solution" and all(unwrapped(text) == text and len(text.split()) > 1 for text in values)
        verdict = None if worked else same(texts, values)
        if verdict is False:
            raise UnusableSample(
                f"{where}: columns {name!r} ({_short(texts)}) and {other!r} ({_short(values)}) both hold a reference "
                f"answer and disagree; say in columns.answer which one counts",
                "references disagree",
            )
        if verdict is None and other != "solution":
            notes.append(f"columns {name} and {other} both hold a reference in different words; {name} counts")
    own, more = _texts_and_notes(get(row, name))
    return Reference(name, own, (*notes, *more))


def texts_of(value: Any) -> tuple[str, ...]:
    """The accepted answers that a value stands for, as texts without blanks and repetitions.

    None, NaN and white space are no answer. A whole float is the integer that it was before a missing value in its
    column made it one: 26.0 is "26". A list of texts or numbers means any of them; a list of four numbers is one
    rectangle, and it, nested lists and mappings become their JSON text.
    """
    return _texts_and_notes(value)[0]


def _texts_and_notes(value: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, list | tuple | set):
        items = [item.tolist() if isinstance(item, np.generic) else item for item in value]
        if len(items) == BOX_NUMBERS and all(_is_number(item) for item in items):
            return (json.dumps(plain(items)),), (
                f"a list of {BOX_NUMBERS} numbers is one reference, not {BOX_NUMBERS}",
            )
        if any(isinstance(item, list | tuple | set | dict | np.ndarray) for item in items):
            return (json.dumps(plain(items), ensure_ascii=False),), ()
        return tuple(dict.fromkeys(text for item in items if (text := _text(item)) is not None)), ()
    text = _text(value)
    return () if text is None else (text,), ()


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and not is_nan(value)


def _text(value: Any) -> str | None:
    """A single value as text; None if it is none."""
    if value is None or is_nan(value):
        return None
    if isinstance(value, str):
        return value if value.strip() else None
    if isinstance(value, float | Decimal) and abs(float(value)) < EXACT_FLOAT and value == int(value):
        return str(int(value))
    found = plain(value)
    return found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)


def same(texts: Sequence[str], others: Sequence[str]) -> bool | None:
    """Whether two lists of accepted answers share one. None if that cannot be told from their spelling."""
    mine, theirs = [_spelling(text) for text in texts], [_spelling(text) for text in others]
    if not set(mine).isdisjoint(theirs):
        return True
    if any(_number(a) is not None and _number(a) == _number(b) for a in mine for b in theirs):
        return True
    return False if all(_is_short(text) for text in (*mine, *theirs)) else None


def _spelling(text: str) -> str:
    """Out of its wrapping, without case, white space at the ends, dollars and a final stop."""
    found = unicodedata.normalize("NFKC", unwrapped(text)).casefold()
    return re.sub(r"(?<=\d),(?=\d{3})", "", " ".join(found.split()).strip("$ ").rstrip(". "))


def _number(text: str) -> Decimal | None:
    try:
        return Decimal(text)
    except InvalidOperation:
        return None


def _is_short(text: str) -> bool:
    """A plain word or number, of which one spelling means one thing: no LaTeX, no sentence, no fraction or unit."""
    return len(text.split()) <= _WORDS and not re.search(r"[\\{}^_=/()\[\]<>]|\d\s*%|\d\s*[a-z]", text)


def _short(texts: Sequence[str]) -> str:
    shown = [text if len(text) <= 40 else text[:37] + "..." for text in texts[:3]]
    return ", ".join(repr(text) for text in shown)
