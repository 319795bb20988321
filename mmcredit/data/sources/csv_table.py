"""Tables of text: comma or tab separated values."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any

from pydantic import Field

from mmcredit.components import register
from mmcredit.data.dropped import UnusableSample
from mmcredit.data.sources.base import Rows, TableSource
from mmcredit.data.sources.file_rows import FileRows
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
        return FileRows([_File(file, self.separator) for file in expand(self.path, (".csv", ".tsv"))])


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
        self.keys = header or []
        self.broken = {index for index, row in enumerate(self.cells) if len(row) != len(self.keys)}
        self._check(sign)

    def _check(self, sign: str) -> None:
        twice = sorted({name for name in self.keys if self.keys.count(name) > 1})
        if twice:
            raise ValueError(f"{self.file.path} has column {twice[0]!r} twice")
        if len(self.keys) == 1:
            other = next((each for each in _SEPARATORS if each != sign and each in self.keys[0]), None)
            if other is not None:
                raise ValueError(
                    f"{self.file.path} has one column {self.keys[0]!r}: it looks separated by {_SEPARATORS[other]}s; "
                    f"set separator: {other!r}"
                )

    def place(self, index: int) -> str:
        return f"{self.file.name}:{self.lines[index]}"

    def __len__(self) -> int:
        return len(self.cells)

    def all(self) -> Iterator[dict[str, Any]]:
        return ({} if index in self.broken else self.read(index) for index in range(len(self)))

    def read(self, index: int) -> dict[str, Any]:
        row = self.cells[index]
        if len(row) != len(self.keys):
            raise UnusableSample(
                f"{self.place(index)} has {len(row)} cells, the table has {len(self.keys)} columns "
                f"({', '.join(self.keys)}); quote cells that hold the separator",
                "cells do not match the columns",
            )
        return {name: cell if cell.strip() else None for name, cell in zip(self.keys, row, strict=True)}
