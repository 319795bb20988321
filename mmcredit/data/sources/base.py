"""What a data source is: a component that loads a sequence of samples, made when they are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, overload

import numpy as np
from pydantic import Field, model_validator

from mmcredit.components import Component
from mmcredit.data import columns as column_names
from mmcredit.data.columns import Columns
from mmcredit.data.conventions import LastTurn, Reading, to_sample
from mmcredit.data.media import MediaLimits
from mmcredit.data.order import permutation
from mmcredit.data.sample import Sample, name_of
from mmcredit.data.templates import compile_template, read_template


class Source(Component):
    """A data source. A subclass implements `load`, or is a `TableSource` and implements `rows`."""

    def load(self, limits: MediaLimits) -> Sequence[Sample]:
        """All samples, with stable unique ids. Raises ValueError if there are none."""
        raise TypeError(f"{type(self).__name__} does not implement load(limits)")


class Rows(Protocol):
    """A table that can be read row by row."""

    def __len__(self) -> int: ...

    def columns(self) -> Sequence[str]:
        """Names of all columns that occur."""

    def column(self, name: str) -> Iterator[Any]:
        """One value per row, None where a row has no such column."""

    def read(self, index: int) -> Mapping[str, Any]:
        """One row by number. Raises ValueError if it cannot be read."""

    def place(self, index: int) -> str:
        """Where row `index` stands, for messages: "train.jsonl:7"."""

    def id(self, index: int) -> str:
        """A stable name of row `index`; for rows of files, its place."""


class TableSource(Source):
    """A source whose rows follow the column conventions of `mmcredit.data.conventions`."""

    columns: Columns = Field(default_factory=Columns, description="column names where they differ from the known ones")
    system: str | None = Field(default=None, description="system prompt; replaces one that a row brings")
    template: str | None = Field(
        default=None, description="Jinja2 template of the question: {{ content }}, {{ row.NAME }}"
    )
    template_file: Path | None = Field(default=None, description="file that holds the template instead")
    where: dict[str, Any] = Field(
        default_factory=dict, description="keep rows whose column has this value, or one of this list"
    )
    shuffle: int | None = Field(default=None, ge=0, description="seed of a fixed shuffle before `limit`")
    limit: int | None = Field(default=None, gt=0, description="keep at most this many rows")
    last_assistant_turn: LastTurn = Field(
        default="reference",
        description="of a chat that ends with the assistant: split it off as the reference, or continue it",
    )
    literal_placeholders: bool = Field(
        default=False, description="<image> and <video> in the text are words, not places for media"
    )

    def rows(self) -> Rows:
        """The table. Raises ValueError if it cannot be opened."""
        raise TypeError(f"{type(self).__name__} does not implement rows()")

    def columns_to_read(self) -> Columns:
        """The columns that rows are read by; a source that makes its own columns says which they are."""
        return self.columns

    def media_limits(self, limits: MediaLimits) -> MediaLimits:
        """The limits for this source's media; a source that ships its own files declares their folder here."""
        return limits

    @model_validator(mode="after")
    def _template_is_usable(self) -> TableSource:
        text = self.template_text()
        if text is not None:
            compile_template(text)
        return self

    def template_text(self) -> str | None:
        """The template, from its file if it has one. Raises ValueError if both are given or the file is missing."""
        return read_template(self.template, self.template_file)

    def load(self, limits: MediaLimits) -> Sequence[Sample]:
        """A sequence that reads a row and makes its sample at each access.

        Raises ValueError if the table cannot be opened, lacks a needed column, is empty or has no row that passes
        `where`, or if `columns.id` names a column with repeated values. Errors of single rows (a missing image, counts
        that do not match) are raised when the row is accessed.
        """
        if limits.root is not None and not limits.root.expanduser().is_dir():
            raise ValueError(f"data.media.root is no folder: {str(limits.root)!r}")
        rows = self.rows()
        if not len(rows):
            raise ValueError(f"source {self.describe()} holds no rows")
        column_names.check(self.columns, rows.columns(), f"source {self.describe()}")
        indices = self._filtered(rows)
        if not len(indices):
            raise ValueError(
                f"source {self.describe()}: none of its {len(rows)} rows passes where={self.where}{self._seen(rows)}"
            )
        if self.shuffle is not None:
            indices = indices[permutation(len(indices), self.shuffle)]
        indices = indices[: self.limit]
        ids = self._explicit_ids(rows, indices)
        text = self.template_text()
        reading = Reading(
            limits=self.media_limits(limits),
            columns=self.columns_to_read(),
            system=self.system,
            template=None if text is None else compile_template(text),
            last_assistant_turn=self.last_assistant_turn,
            literal_placeholders=self.literal_placeholders,
        )
        return TableSamples(rows, indices, reading, ids)

    def describe(self) -> str:
        """Name and location of the source, for messages."""
        path = getattr(self, "path", None)
        return f"{self.name}" + (f" ({path})" if path is not None else "")

    def _seen(self, rows: Rows) -> str:
        """Values of the columns of `where`, with their types: 1 is not "1"."""
        shown = []
        for name in self.where:
            top = name if name in rows.columns() else name.partition(".")[0]
            values = (column_names.get({top: value}, name) for value in islice(rows.column(top), 1000))
            shown.append(f"{name} is {', '.join(list(dict.fromkeys(repr(value)[:40] for value in values))[:5])}")
        return f"; there {'; '.join(shown)}"

    def _filtered(self, rows: Rows) -> np.ndarray:
        keep = np.ones(len(rows), dtype=bool)
        for name, wanted in self.where.items():
            head = name.partition(".")[0]
            present = rows.columns()
            if name not in present and head not in present:
                raise ValueError(
                    f"source {self.describe()} has no column {name!r} (where); {column_names.listing(name, present)}"
                )
            top = name if name in present else head
            accepted = wanted if isinstance(wanted, list) else [wanted]
            keep &= [column_names.get({top: value}, name) in accepted for value in rows.column(top)]
        keep[list(_unreadable(rows))] = True  # no filter hides a damaged row: it is counted when it is read
        return np.flatnonzero(keep)

    def _explicit_ids(self, rows: Rows, indices: np.ndarray) -> dict[int, str] | None:
        """Ids of the kept rows from the column that `columns.id` names; they must be there and differ."""
        name = self.columns.id
        if name is None:
            return None
        top = name if name in rows.columns() else name.partition(".")[0]
        values = list(rows.column(top))
        ids: dict[int, str] = {}
        seen: dict[str, int] = {}
        damaged = _unreadable(rows)
        for index in indices.tolist():
            if index in damaged:
                ids[index] = rows.id(index)
                continue
            value = column_names.get({top: values[index]}, name)
            if value is None or value == "":
                raise ValueError(f"{rows.place(index)} has no id in column {name!r} (columns.id)")
            text = str(value)
            if text in seen:
                raise ValueError(
                    f"id {text!r} occurs twice: {rows.place(seen[text])} and {rows.place(index)}; columns.id={name!r} "
                    f"must name a column of unique values (without it, ids are file name and row number)"
                )
            seen[text] = index
            ids[index] = text
        return ids


def _unreadable(rows: Rows) -> set[int]:
    """Numbers of the rows that can only be refused, for tables that know them before they are read."""
    found = getattr(rows, "unreadable", None)
    return set() if found is None else found()


class TableSamples(Sequence[Sample]):
    """Samples of chosen rows of a table, made at each access. A slice is a view."""

    def __init__(self, rows: Rows, indices: np.ndarray, reading: Reading, ids: Mapping[int, str] | None = None) -> None:
        self._rows, self._indices, self._reading, self._ids = rows, indices, reading, ids

    def __len__(self) -> int:
        return len(self._indices)

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> TableSamples: ...

    def __getitem__(self, index: int | slice) -> Sample | TableSamples:
        if isinstance(index, slice):
            return TableSamples(self._rows, self._indices[index], self._reading, self._ids)
        row = int(self._indices[index])
        folder = getattr(self._rows, "folder", None)
        return to_sample(
            self._rows.read(row),
            self.id(index),
            self._reading,
            self._rows.place(row),
            None if folder is None else folder(row),
        )

    def name(self, index: int) -> str:
        """What messages call a sample, known without reading its row."""
        return name_of(self.id(index), self._rows.place(int(self._indices[index])))

    def id(self, index: int) -> str:
        """The id of a sample without reading its row: for messages about rows that cannot be read."""
        row = int(self._indices[index])
        return self._ids[row] if self._ids is not None else self._rows.id(row)
