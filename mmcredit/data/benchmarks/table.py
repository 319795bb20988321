"""The rows of a benchmark's files: opened, their columns checked, each value read with its place for messages."""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mmcredit.components import nearest
from mmcredit.data.dropped import UnusableSample
from mmcredit.data.sources.jsonl import JsonRows
from mmcredit.data.sources.parquet import ParquetRows

if TYPE_CHECKING:
    from mmcredit.data.benchmarks.layout import Column, Format
    from mmcredit.data.sources.base import Rows
    from mmcredit.data.sources.files import DataFile

CACHE_BYTES = 2 * 2**30  # decoded Parquet row groups kept in memory


class Row:
    """The values of one row under the names of the public format."""

    def __init__(self, values: Mapping[str, Any], place: str, name: str = "") -> None:
        self.values, self.place = values, place
        self.name = name  # file and number of the row, without machine-dependent parts

    def bad(self, column: str, why: str, reason: str = "row malformed") -> UnusableSample:
        """An error that names file, row and column."""
        return UnusableSample(f"{self.place}, column {column!r}: {why}", reason)

    def get(self, column: str) -> Any:
        """The value; None where it is missing, null, NaN or blank."""
        value = self.values.get(column)
        if isinstance(value, float) and math.isnan(value):
            return None
        return None if isinstance(value, str) and not value.strip() else value

    def need(self, column: str) -> Any:
        """The value, which must be there."""
        value = self.get(column)
        if value is None:
            seen = "missing" if column not in self.values else repr(self.values[column])
            raise self.bad(column, f"a value is wanted, this one is {seen}", "column missing")
        return value

    def text(self, column: str) -> str:
        """A text as it stands. Raises ValueError for a blank or another kind."""
        value = self.need(column)
        if not isinstance(value, str):
            raise self.bad(column, f"text is wanted, got {type(value).__name__} {_short(value)}")
        return value

    def words(self, column: str) -> str | None:
        """A text, or None where there is none."""
        return None if self.get(column) is None else self.text(column)

    def scalar(self, column: str) -> str:
        """A text or a number, as text; 142.0 is "142.0", as it stands in the file."""
        value = self.need(column)
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise self.bad(column, f"text or a number is wanted, got {type(value).__name__} {_short(value)}")
        return value if isinstance(value, str) else str(value)

    def identity(self, column: str) -> str:
        """The row's own id; file and number of the row where the column is missing or empty."""
        return self.name if self.get(column) is None else self.scalar(column)

    def one_of(self, column: str, known: Sequence[str]) -> str:
        """A text out of `known`."""
        value = self.scalar(column)
        if value not in known:
            raise self.bad(column, f"{value!r} is not known here; {nearest(value, known)}")
        return value

    def strings(self, column: str, written: bool = False) -> list[str]:
        """A list of texts (numbers become text), empty where there is none.

        `written`: the list may be written as text, as a Python or JSON list or one entry a line.
        """
        value = self.get(column)
        if value is None:
            return []
        if isinstance(value, str) and written:
            value = _written_list(value)
        if not isinstance(value, list | tuple):
            raise self.bad(column, f"a list is wanted, got {type(value).__name__} {_short(value)}")
        for each in value:
            if isinstance(each, bool) or not isinstance(each, str | int | float):
                raise self.bad(column, f"a list of texts is wanted, got {_short(value)}")
        return [each if isinstance(each, str) else str(each) for each in value]

    def mapping(self, column: str) -> Mapping[str, Any]:
        """A struct; also one that is written as JSON or as a Python dict. Empty where there is none."""
        value = self.get(column)
        if isinstance(value, str):
            value = _literal(value)
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            raise self.bad(column, f"a mapping is wanted, got {type(value).__name__} {_short(value)}")
        return value


def _literal(text: str) -> Any:
    """A Python or JSON literal; the text itself if it is none. Nothing is evaluated."""
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    return text


def _written_list(text: str) -> list[Any]:
    """A list written as text: a literal, else one entry a line (without brackets and quotes)."""
    value = _literal(text)
    if isinstance(value, list | tuple):
        return list(value)
    inner = text.strip().removeprefix("[").removesuffix("]")
    separator = "\n" if "\n" in inner else ","
    return [part.strip().strip("'\"") for part in inner.split(separator) if part.strip()]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


class Table:
    """The rows of the files of a split under the names of the public format."""

    def __init__(self, benchmark: str, form: Format, files: Sequence[DataFile]) -> None:
        """Raises ValueError if a file cannot be read, holds no rows, or lacks a required column."""
        self._rows = _open(list(files))
        self._benchmark, self._form = benchmark, form
        if not len(self._rows):
            raise ValueError(f"{benchmark}: {files[0].path} holds no rows")
        present = list(self._rows.columns())
        self._names: dict[str, str] = {}  # name in the file -> name of the format
        for column in form.columns:
            found = next((name for name in (column.name, *column.aliases) if name in present), None)
            if found is not None:
                self._names[found] = column.name
            elif column.required:
                raise self._missing(column, present)
        for name in present:
            if name not in self._names and name not in self._names.values():
                self._names[name] = name
        self._media = {column.name for column in form.columns if column.media}

    def _missing(self, column: Column, present: Sequence[str]) -> ValueError:
        also = f" (or {', '.join(column.aliases)})" if column.aliases else ""
        hint = nearest(column.name, present)
        return ValueError(
            f"{self._rows.place(0)}: {self._benchmark} needs column {column.name!r}{also}, which is not there; columns "
            f"there: {', '.join(present) or 'none'}" + (f"; {hint}" if hint.startswith("did you mean") else "")
        )

    def __len__(self) -> int:
        return len(self._rows)

    def light(self) -> Iterator[Row]:
        """All rows without their media columns."""
        wanted = [name for name, known in self._names.items() if known not in self._media]
        if isinstance(self._rows, ParquetRows):
            columns = [self._rows.column(name) for name in wanted]
            for index, values in enumerate(zip(*columns, strict=True)):
                row = {self._names[name]: value for name, value in zip(wanted, values, strict=True)}
                yield Row(row, self._rows.place(index), self._rows.id(index))
            return
        for index in range(len(self._rows)):
            read = self._rows.read(index)
            kept = {self._names[n]: v for n, v in read.items() if self._names[n] not in self._media}
            yield Row(kept, self._rows.place(index), self._rows.id(index))

    def place(self, index: int) -> str:
        """Where row `index` stands: file and row."""
        return self._rows.place(index)

    def media(self, index: int) -> Row:
        """The media columns of a row."""
        values = self._rows.read(index)
        kept = {self._names[n]: v for n, v in values.items() if self._names.get(n) in self._media}
        return Row(kept, self._rows.place(index), self._rows.id(index))


def _open(files: list[DataFile]) -> Rows:
    if files[0].path.suffix == ".parquet":
        return ParquetRows(files, CACHE_BYTES)
    if files[0].path.suffix == ".json" and len(files) == 1:
        keyed = KeyedRows.of(files[0])
        if keyed is not None:
            return keyed
    return JsonRows(files)


class KeyedRows:
    """A JSON file that holds an object of objects, as MathVista's does: ``{"1": {...}, "2": {...}}``."""

    def __init__(self, file: DataFile, data: Mapping[str, Mapping[str, Any]]) -> None:
        self._file, self._keys, self._data = file, list(data), list(data.values())

    @classmethod
    def of(cls, file: DataFile) -> KeyedRows | None:
        """None for any other file, also one that is no JSON: `JsonRows` says what is wrong with it."""
        try:
            data = json.loads(file.path.read_bytes().removeprefix(b"\xef\xbb\xbf"))
        except (OSError, ValueError, RecursionError):
            return None
        if not isinstance(data, dict) or not data or not all(isinstance(row, dict) for row in data.values()):
            return None
        return cls(file, data)

    def __len__(self) -> int:
        return len(self._data)

    def columns(self) -> list[str]:
        return list(dict.fromkeys(key for row in self._data for key in row))

    def column(self, name: str) -> Iterator[Any]:
        return (row.get(name) for row in self._data)

    def read(self, index: int) -> Mapping[str, Any]:
        return self._data[index]

    def place(self, index: int) -> str:
        return f"{self._file.name}[{self._keys[index]!r}]"

    def id(self, index: int) -> str:
        return self.place(index)
