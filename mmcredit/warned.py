"""Python's warnings as a person wants them: one line each, once, without the source line."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Say = Callable[[str], None]
_listeners: list[Say] = []
_LONGEST = 400
_VARIES = re.compile(r"'[^']*'|\"[^\"]*\"|\S*/\S*|\d+(?:\.\d+)?")


@contextmanager
def one_line(say: Say) -> Iterator[None]:
    """Inside the block every warning goes to `say` (and to whoever listens) as one line, the first of its kind alone.

    Two are of one kind if they differ in numbers, names in quotes and paths only. How many were not repeated is said at
    the end. What Python's filters hide stays hidden.
    """
    before, seen, repeated = warnings.showwarning, set[str](), 0

    def show(message: Any, category: Any, filename: str, *_: Any, **__: Any) -> None:
        nonlocal repeated
        text = " ".join(str(message).split())
        kind = f"{category.__name__} {_VARIES.sub('#', text)}"
        if kind in seen:
            repeated += 1
            return
        seen.add(kind)
        home = re.search(r"[/\\](?:site|dist)-packages[/\\](\w+)", filename)
        source = f"{home.group(1)}: " if home is not None else ""
        line = source + (text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "...")
        for tell in (say, *_listeners):
            tell(line)

    # A module's registry of what it has warned of would swallow the kinds that differ in a number.
    with warnings.catch_warnings():
        warnings.showwarning = show
        try:
            yield
        finally:
            warnings.showwarning = before
            if repeated:
                say(f"{repeated} further warnings of these kinds were not repeated")


def listen(tell: Say) -> Callable[[], None]:
    """Have every line of `one_line` told to `tell` too; call the result to stop."""
    _listeners.append(tell)

    def stop() -> None:
        if tell in _listeners:
            _listeners.remove(tell)

    return stop
