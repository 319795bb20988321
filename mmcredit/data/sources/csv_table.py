"""Tables of text: comma or tab separated values."""

from __future__ import annotations

import bisect
import csv
import io
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

from pydantic import Field

from mmcredit.components import register
from mmcredit.data.dropped import UnusableSample
from mmcredit.data.sources.base import Rows, TableSource
from mmcredit.data.sources.files import DataFile, expand

_SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab"}
_LONGEST = 2**27  # characters of one cell: an image as base64 text


@register("source", "csv")
class CsvTable(TableSource):
    """Comma or tab separated values, UTF-8, the first line names the columns. For text and for images.

        source:
          - csv: {path: train.csv}

    `separator` is a tab for `.tsv` files and a comma for others. A cell may be quoted and then hold separators, line
    breaks and doubled quotes. All values are text; an empty cell has no value. Cells with the JSON of a list ("[1, 2]")
    stay text, but for messages and images. A row with more or fewer cells than there are columns is a sample that
    cannot be used: counted and replaced. Files stay in memory. Ids are FILE:LINE, the line on which a row begins.
    """

    path: str | list[str] = Field(description="file, folder, pattern, or a list of them")
    separator: str | None = Field(
        default=None, min_length=1, max_length=1, description="between cells; none = tab for .tsv, else comma"
    )

    def rows(self) -> Rows:
        return CsvRows(expand(self.path, (".csv", ".tsv")), self.separator)


class _File:
    """One file, read whole."""

    def __init__(self, file: DataFile, separator: str | None) -> None:
        self.file = file
        sign = separator or ("\t" if file.path.suffix.lower() == ".tsv" else ",")
        try:
            text = file.path.read_bytes().decode("utf-8-sig")
        except OSError as error:
            raise ValueError(f"{file.path} cannot be read: {error}") from None
        except UnicodeDecodeError as error:
            kind = "is UTF-16" if error.object[:2] in (b"\xff\xfe", b"\xfe\xff") else "is not UTF-8"
            raise ValueError(
                f"{file.path} {kind}: byte 0x{error.object[error.start]:02x} at {error.start}; save it as UTF-8"
            ) from None
        if "\0" in text[:1000]:
            raise ValueError(f"{file.path} holds zero bytes: it is no table of text in UTF-8")
        csv.field_size_limit(_LONGEST)
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=sign, strict=True)
        self.cells: list[list[str]] = []
        self.lines: list[int] = []
        header: list[str] | None = None
        while True:
            line = reader.line_num + 1
            try:
                row = next(reader)
            except StopIteration:
                break
            except csv.Error as error:
                raise ValueError(f"{file.name}:{line} is not readable as CSV: {error}") from None
            if not any(cell.strip() for cell in row):
                continue
            if header is None:
                header = [cell.strip() for cell in row]
            else:
                self.cells.append(row)
                self.lines.append(line)
        self.names = header or []
        self._check(sign)

    def _check(self, sign: str) -> None:
        twice = sorted({name for name in self.names if self.names.count(name) > 1})
        if twice:
            raise ValueError(f"{self.file.path} has column {twice[0]!r} twice")
        if len(self.names) == 1:
            other = next((each for each in _SEPARATORS if each != sign and each in self.names[0]), None)
            if other is not None:
                raise ValueError(
                    f"{self.file.path} has one column {self.names[0]!r}: it looks separated by {_SEPARATORS[other]}s; "
                    f"set separator: {other!r}"
                )

    def place(self, index: int) -> str:
        return f"{self.file.name}:{self.lines[index]}"

    def broken(self) -> set[int]:
        return {index for index, row in enumerate(self.cells) if len(row) != len(self.names)}

    def read(self, index: int) -> dict[str, Any]:
        row = self.cells[index]
        if len(row) != len(self.names):
            raise UnusableSample(
                f"{self.place(index)} has {len(row)} cells, the table has {len(self.names)} columns "
                f"({', '.join(self.names)}); quote cells that hold the separator",
                "cells do not match the columns",
            )
        return {name: cell if cell.strip() else None for name, cell in zip(self.names, row, strict=True)}


class CsvRows:
    """The rows of such files, one after another."""

    def __init__(self, files: list[DataFile], separator: str | None) -> None:
        self._parts = [_File(file, separator) for file in files]
        self._ends = list(accumulate(len(part.cells) for part in self._parts))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def columns(self) -> list[str]:
        return list(dict.fromkeys(name for part in self._parts for name in part.names))

    def column(self, name: str) -> Iterator[Any]:
        for part in self._parts:
            broken = part.broken()
            for index in range(len(part.cells)):
                yield None if index in broken else part.read(index).get(name)

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
        starts = [end - len(part.cells) for end, part in zip(self._ends, self._parts, strict=True)]
        return {start + row for start, part in zip(starts, self._parts, strict=True) for row in part.broken()}

    def _find(self, index: int) -> tuple[_File, int]:
        number = bisect.bisect_right(self._ends, index)
        part = self._parts[number]
        return part, index - self._ends[number] + len(part.cells)
