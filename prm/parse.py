"""What a verifier wrote, read: the flagged strings, and a status that never takes a broken answer for a clean one.

A verification is a `<think>` block and an `<answer>` block; the answer is the sentence "The response is correct" or a
Python list of strings copied from the response.
"""

from __future__ import annotations

import ast
import json
import re
import threading
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Status = Literal["clean", "flagged", "parse_error", "prm_error"]
STATUSES: tuple[Status, ...] = ("clean", "flagged", "parse_error", "prm_error")
SENTINEL = "the response is correct"
_OPEN, _CLOSE, _THINK_END = "<answer>", "</answer>", "</think>"
_MAX_LITERAL = 200_000  # characters; nothing a verifier writes is longer, and literal_eval is not for more
_PAIRS = {'"': '"', "'": "'", "“": "”", "”": "”", "„": "“", "‘": "’", "’": "’", "`": "`", "«": "»"}
_QUOTES = "".join(dict.fromkeys([*_PAIRS, *_PAIRS.values()]))
_FENCE = re.compile(r"\A(`{3,}|~{3,})[^\n`]*\n(.*?)\n?[ \t]*\1\s*\Z", re.DOTALL)
_INLINE_FENCE = re.compile(r"\A```(?:[A-Za-z]+[ \t]+)?(.*?)```\Z", re.DOTALL)
# An item begins after the line's start, a bracket or a comma; its quote closes before a comma, a bracket, a comment.
_ITEM = re.compile(
    "|".join(
        rf"(?:(?<=^)|(?<=[\[,]))\s*{re.escape(a)}((?:\\.|[^\\])*?){re.escape(b)}(?=\s*(?:,|\]|\#|//|$))"
        for a, b in _PAIRS.items()
    )
)
_ESCAPE = re.compile(r"\\(.)")
_SIMPLE_ESCAPES = {"n": "\n", "t": "\t", "r": "\r"}
_warnings_lock = threading.Lock()  # warnings.catch_warnings is not for several threads at once


@dataclass(frozen=True)
class Verification:
    """One verifier's word on one response.

    `clean`: nothing contradicts the image. `flagged`: `strings` do. `parse_error`: it answered, but not in the format.
    `prm_error`: it did not answer (time-out, broken connection, broken image); what it would have said is unknown.
    """

    strings: tuple[str, ...] = ()
    status: Status = "clean"
    think: str = ""
    dropped: int = 0  # list items that were no strings
    raw: str = ""
    error: str = ""  # prm_error: what went wrong
    usage: Mapping[str, float] = field(default_factory=dict)  # calls, prompt_tokens, new_tokens, seconds, cache_hits
    # Characters [start, end) in the response, one per string, from a verifier that knows them (an oracle).
    places: tuple[tuple[int, int], ...] | None = None


def failed(error: str, usage: Mapping[str, float] | None = None) -> Verification:
    """The verification of a response that no verifier answered for."""
    return Verification(status="prm_error", error=error, usage=usage or {})


def parse_verification(raw: str | None, cut: bool = False) -> Verification:
    """The flagged strings and the status of a verifier's whole output; `cut`: it was stopped by its length limit.

    The last complete answer block after the last `</think>` counts, so a response quoted in the thoughts is not
    taken for the answer. The block may be fenced, have prose around its outermost `[...]`, or be JSON. List items that
    are not strings are dropped and counted; a list of nothing else is a parse error. The sentinel counts only if it is
    the whole block (any case, quotes and full stop optional). In thoughts that were cut off no answer is looked for.
    """
    raw = raw or ""
    unfinished = cut and raw.rfind("<think>") > raw.rfind(_THINK_END)
    block = None if unfinished else _last_block(raw)
    if block is None:
        return Verification(status="parse_error", think=_think(raw), raw=raw)
    start, end = block
    found = _read_block(raw[start + len(_OPEN) : end])
    if found is None:
        found = _read_list_of_tags(raw, start, end)
    think = _think(raw[:start])
    if found is None:
        return Verification(status="parse_error", think=think, raw=raw)
    strings, dropped = found
    status: Status = "flagged" if strings else "parse_error" if dropped else "clean"
    return Verification(strings, status, think, dropped, raw)


def reference_parse(raw: str) -> list[Any] | None:
    """The parser of the public release, rule by rule; None where it falls off its end. For parity and comparisons.

    Everything malformed is "nothing flagged" there: first `<answer>`, first `</answer>` after it, the sentinel anywhere
    in the block, else `literal_eval` of a block that begins with `[` and ends with `]`.
    """
    start = raw.find(_OPEN)
    end = raw.find(_CLOSE, start + len(_OPEN)) if start >= 0 else -1
    if start < 0 or end < 0:
        return []
    text = raw[start + len(_OPEN) : end].strip()
    if "The response is correct" in text:
        return []
    if text.startswith("[") and text.endswith("]"):
        value = _literal(text)
        return value if isinstance(value, list) else []
    return None


def _last_block(raw: str) -> tuple[int, int] | None:
    """(start of `<answer>`, start of `</answer>`) of the block that counts."""
    close = raw.rfind(_CLOSE)
    if close < 0:
        return None
    thought = raw.rfind(_THINK_END)
    if thought > close:  # nothing complete follows the thoughts
        return None
    start = raw.rfind(_OPEN, thought + 1 if thought >= 0 else 0, close)
    if start < 0 <= thought:
        # `</think>` inside a flagged string: the block began before it, and is not closed before it either.
        start = raw.rfind(_OPEN, 0, thought)
        if start < 0 or raw.find(_CLOSE, start) < thought:
            return None
        thought = raw.rfind(_THINK_END, 0, start)
    if start < 0:
        return None
    # Thoughts that never end may quote an answer block; only one at the very end is the verifier's own.
    if thought < 0 and "<think>" in raw[:start] and raw[close + len(_CLOSE) :].strip():
        return None
    return start, close


def _read_list_of_tags(raw: str, start: int, close: int) -> tuple[tuple[str, ...], int] | None:
    """A list whose strings hold `<answer>` themselves: the block began at an earlier one. Read whole or not at all."""
    for _ in range(20):
        start = raw.rfind(_OPEN, 0, start)
        if start < 0:
            return None
        text = _unfence(raw[start + len(_OPEN) : close].strip())
        value = _literal(text) if text.startswith("[") and text.endswith("]") else None
        if isinstance(value, list):
            return _strings(value)
    return None


def _read_block(block: str) -> tuple[tuple[str, ...], int] | None:
    """(strings, dropped items) of an answer block, None if it is neither a list nor the sentinel."""
    text = _unfence(block.strip())
    bare = " ".join(text.strip(_QUOTES + " \t\r\n.").split())
    if bare.casefold() == SENTINEL:
        return (), 0
    start, end = text.find("["), text.rfind("]")
    if start < 0 or end < start:
        return None
    return _read_list(text[start : end + 1])


def _read_list(text: str) -> tuple[tuple[str, ...], int] | None:
    value = _literal(text)
    if not isinstance(value, list):
        try:
            value = json.loads(text, strict=False)
        except (ValueError, RecursionError):
            value = None
    if isinstance(value, list):
        return _strings(value)
    lines = text[1:-1].splitlines()
    items = [item for line in lines for item in _items(line)]
    return (tuple(items), 0) if items else None


def _items(line: str) -> Iterator[str]:
    for match in _ITEM.finditer(line):
        content = next(group for group in match.groups() if group is not None)
        yield _ESCAPE.sub(lambda m: _SIMPLE_ESCAPES.get(m.group(1), m.group(1)), content)


def _strings(value: list[Any]) -> tuple[tuple[str, ...], int]:
    strings = tuple(item for item in value if isinstance(item, str))
    return strings, len(value) - len(strings)


def _literal(text: str) -> Any:
    if len(text) > _MAX_LITERAL:
        return None
    try:
        with _warnings_lock, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of unknown escapes in the verifier's strings
            return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


def _unfence(text: str) -> str:
    match = _FENCE.match(text) or _INLINE_FENCE.match(text)
    return match.group(match.lastindex or 0).strip() if match else text


def _think(text: str) -> str:
    """The thoughts: inside the think block, or all before the answer where there is none."""
    start = text.find("<think>")
    end = text.rfind(_THINK_END)
    if start < 0:
        return text[: end if end >= 0 else len(text)].strip()
    return text[start + len("<think>") : end if end > start else len(text)].strip()
