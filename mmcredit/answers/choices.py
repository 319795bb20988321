"""The choices of a multiple-choice question, in the forms in which data sets store them."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_LABEL = re.compile(r"\s*[(\[]?([A-Z])\s*[).:\]、．]\s*(.*)", re.DOTALL)
_INLINE = re.compile(r"(?:\A|(?<=[\s,;]))[(\[]?([A-Z])\s?[).:\]、．]\s*")


def choices_of(value: Any, name: str = "choices") -> list[str]:
    r"""The texts of the choices, first = A; without any an empty list.

    A list of texts or numbers, labelled or not ("A. red"); a mapping of letters to texts, or of ``label`` and ``text``
    to lists; a list of mappings with ``text`` (and ``label``); a text: JSON of any of these, a list as Python prints
    it, or "A. red\nB. blue" in one line or several. Raises ValueError for anything else, and for labels that do not
    count up from A.
    """
    if value is None:
        return []
    if isinstance(value, str):
        return _of_text(value, name)
    if isinstance(value, Mapping):
        texts, labels = value.get("text"), value.get("label")
        if isinstance(texts, list | tuple):
            return _labelled(list(labels) if isinstance(labels, list | tuple) else None, list(texts), value, name)
        filled = {key: item for key, item in value.items() if item is not None}  # tables give every row all keys
        return _labelled([str(key).strip() for key in filled], list(filled.values()), value, name)
    if not isinstance(value, Sequence):
        raise _refused(value, name)
    if value and all(isinstance(item, Mapping) and "text" in item for item in value):
        labels = [item.get("label", item.get("id")) for item in value]
        return _labelled(None if None in labels else labels, [item["text"] for item in value], value, name)
    return _without_labels([_text(item, value, name) for item in value])


def _of_text(value: str, name: str) -> list[str]:
    text = value.strip()
    if not text:
        return []
    if text[0] in "[{(":
        for read in (json.loads, ast.literal_eval):
            try:
                found = read(text)
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                continue
            if isinstance(found, list | tuple | dict):
                return choices_of(found, name)
    labels = list(_INLINE.finditer(text))
    kept: list[re.Match[str]] = []
    for match in labels:  # "A. vitamin C. B. iron": only the label that is due counts
        if len(kept) < len(_LETTERS) and match[1] == _LETTERS[len(kept)]:
            kept.append(match)
    if len(kept) < 2 or kept[0].start() > 0:
        raise _refused(value, name)
    ends = [match.start() for match in kept[1:]] + [len(text)]
    return [text[match.end() : end].strip(" \t\r\n,;") for match, end in zip(kept, ends, strict=True)]


def _labelled(labels: list[Any] | None, texts: list[Any], value: Any, name: str) -> list[str]:
    found = [_text(item, value, name) for item in texts]
    if labels is None:
        return _without_labels(found)
    names = [str(label).strip(" ().").upper() for label in labels]
    if len(names) != len(found):
        raise _refused(value, name)
    for wanted in (list(_LETTERS), [str(i) for i in range(26)], [str(i + 1) for i in range(26)]):
        places = wanted[: len(names)]
        if sorted(names, key=lambda each: (len(each), each)) == places:
            return [found[names.index(place)] for place in places]
    raise _refused(value, name)


def _without_labels(texts: list[str]) -> list[str]:
    """The texts without "A. ", "B) " and so on, if every one of them has its own."""
    matches = [_LABEL.fullmatch(text) for text in texts]
    if len(texts) > 1 and all(m and m[1] == _LETTERS[i] for i, m in enumerate(matches[:26])):
        return [m[2].strip() for m in matches if m]
    return texts


def _text(item: Any, value: Any, name: str) -> str:
    if isinstance(item, bool) or not isinstance(item, str | int | float):
        if isinstance(item, bool):
            return str(item)
        raise _refused(value, name)
    return str(item)


def _refused(value: Any, name: str) -> ValueError:
    return ValueError(
        f"meta[{name!r}] must list the choices (a list of texts, letters with texts, or 'A. x' lines), "
        f"got {str(value)[:100]!r}"
    )
