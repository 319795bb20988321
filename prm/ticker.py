"""A line now and then while something long goes on."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


class Ticker:
    """Counts what is done; prints how much, and the time left, when `line_seconds` have passed since the last line."""

    def __init__(self, console: Console, what: str, total: int, line_seconds: float = 10.0) -> None:
        self.console, self.what, self.total, self.line_seconds = console, what, total, line_seconds
        self.done = 0
        self.began = self.told = time.monotonic()

    def __call__(self, count: int, more: str = "") -> None:
        """`count` further ones are done."""
        self.done += count
        now = time.monotonic()
        if now - self.told < self.line_seconds and not (more and self.done in (1, self.total)):
            return
        self.told = now
        left = round((now - self.began) / max(1, self.done) * (self.total - self.done))
        self.console.print(
            f"{self.what} {self.done:>5}/{self.total}  {more}{'  ' * bool(more)}left {left // 60}:{left % 60:02}",
            highlight=False,
        )
