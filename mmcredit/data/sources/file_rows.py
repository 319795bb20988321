"""The rows of several files as one table."""

from __future__ import annotations

import bisect
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol

from mmcredit.data.sources.files import DataFile


class Part(Protocol):
    """One file."""

    file: DataFile

    @property
    def keys(self) -> Iterable[str]:
        """Its columns."""

    @property
    def broken(self) -> Collection[int]:
        """Numbers of the rows that `read` refuses."""

    def __len__(self) -> int: ...

    def all(self) -> Iterator[dict[str, Any]]:
        """Its rows in order, an empty one for each that is broken."""

    def read(self, index: int) -> dict[str, Any]:
        """One row. Raises UnusableSample for a broken one."""

    def place(self, index: int) -> str:
        """Where a row stands, FILE:LINE."""


class FileRows:
    """The rows of files, one after another (`base.Rows`)."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self._parts = parts
        self._ends = list(accumulate(len(part) for part in parts))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def columns(self) -> list[str]:
        return list(dict.fromkeys(key for part in self._parts for key in part.keys))

    def column(self, name: str) -> Iterator[Any]:
        for part in self._parts:
            for row in part.all():
                yield row.get(name)

    def read(self, index: int) -> dict[str, Any]:
        part, local = self._find(index)
        return part.read(local)

    def place(self, index: int) -> str:
        part, local = self._find(index)
        return part.place(local)

    def id(self, index: int) -> str:
        return self.place(index)

    def folder(self, index: int) -> Path:
        """The folder of the file of row `index`, where the paths of its media may start."""
        return self._find(index)[0].file.path.parent

    def unreadable(self) -> set[int]:
        """Numbers of the rows that `read` refuses; in `column` they have no values."""
        starts = [end - len(part) for end, part in zip(self._ends, self._parts, strict=True)]
        return {start + row for start, part in zip(starts, self._parts, strict=True) for row in part.broken}

    def _find(self, index: int) -> tuple[Part, int]:
        number = bisect.bisect_right(self._ends, index)
        part = self._parts[number]
        return part, index - self._ends[number] + len(part)
