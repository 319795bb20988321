"""Parquet files, with media as embedded bytes or as paths."""

from __future__ import annotations

import bisect
from collections import OrderedDict
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from threading import Lock
from typing import Any

from pydantic import Field

from mmcredit.components import register
from mmcredit.data.sources.base import Rows, TableSource
from mmcredit.data.sources.files import DataFile, expand
from mmcredit.data.sources.labels import class_name, from_schema


@register("source", "parquet")
class Parquet(TableSource):
    """Parquet files: one, several, a folder or a pattern, read with pyarrow.

        source:
          - parquet: {path: "geometry/train-*.parquet", columns: {prompt: problem}}

    Images are structs {bytes, path} or plain bytes, alone or in a list (as EasyR1, verl and Hugging Face `datasets`
    write them), or paths below `data.media.root`, by default the folder of the file.
    Class labels that `datasets` wrote as numbers become their names.
    Row groups are read when needed and kept up to `cache_bytes`; of larger data the least recently used are dropped,
    which makes shuffled reading slow: raise it, or write smaller row groups. Ids are FILE[ROW], rows from 0.
    """

    path: str | list[str] = Field(description="file, folder, pattern, or a list of them")
    cache_bytes: int = Field(default=2 * 2**30, gt=0, description="decoded row groups kept in memory")

    def rows(self) -> Rows:
        return ParquetRows(expand(self.path, (".parquet",)), self.cache_bytes)


class ParquetRows:
    """The rows of Parquet files, one after another, by way of a cache of row groups."""

    def __init__(self, files: list[DataFile], cache_bytes: int) -> None:
        import pyarrow.parquet

        self._files = files
        self._cache_bytes = cache_bytes
        self._cache: OrderedDict[int, Any] = OrderedDict()
        self._lock = Lock()
        self._groups: list[tuple[int, int, int]] = []  # (file, row group in the file, first row in the file)
        self._columns: dict[str, None] = {}
        self._labels: list[dict[str, list[str]]] = []
        sizes = []
        for number, file in enumerate(files):
            try:
                with pyarrow.parquet.ParquetFile(file.path) as opened:
                    metadata, schema = opened.metadata, opened.schema_arrow
            except (OSError, pyarrow.ArrowException) as error:
                raise ValueError(f"{file.path} cannot be read as Parquet: {error}") from None
            twice = sorted({name for name in schema.names if schema.names.count(name) > 1})
            if twice:
                raise ValueError(f"{file.path} has column {twice[0]!r} twice")
            self._columns.update(dict.fromkeys(schema.names))
            self._labels.append(from_schema(schema.metadata))
            first = 0
            for group in range(metadata.num_row_groups):
                self._groups.append((number, group, first))
                sizes.append(metadata.row_group(group).num_rows)
                first += sizes[-1]
        self._ends = list(accumulate(sizes))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def columns(self) -> list[str]:
        return list(self._columns)

    def column(self, name: str) -> Iterator[Any]:
        import pyarrow.parquet

        for file, labels in zip(self._files, self._labels, strict=True):
            with pyarrow.parquet.ParquetFile(file.path) as opened:
                if name not in opened.schema_arrow.names:
                    yield from [None] * opened.metadata.num_rows
                    continue
                for batch in opened.iter_batches(columns=[name]):
                    for value in batch.column(name).to_pylist():
                        yield class_name(value, labels.get(name))

    def read(self, index: int) -> dict[str, Any]:
        group, local = self._find(index)
        row: dict[str, Any] = self._table(group).slice(local, 1).to_pylist()[0]
        labels = self._labels[self._groups[group][0]]
        return {name: class_name(value, labels.get(name)) for name, value in row.items()} if labels else row

    def place(self, index: int) -> str:
        file, row = self._in_file(index)
        return f"{file.name}[{row}]"

    def id(self, index: int) -> str:
        return self.place(index)

    def folder(self, index: int) -> Path:
        """The folder of the file of row `index`, where the paths of its media may start."""
        return self._in_file(index)[0].path.parent

    def _find(self, index: int) -> tuple[int, int]:
        """(row group over all files, row in it)."""
        group = bisect.bisect_right(self._ends, index)
        return group, index - (self._ends[group - 1] if group else 0)

    def _in_file(self, index: int) -> tuple[DataFile, int]:
        group, local = self._find(index)
        file, _, first = self._groups[group]
        return self._files[file], first + local

    def _table(self, group: int) -> Any:
        import pyarrow.parquet

        with self._lock:
            if group in self._cache:
                self._cache.move_to_end(group)
                return self._cache[group]
            file, number, _ = self._groups[group]
            path = self._files[file].path
            try:
                with pyarrow.parquet.ParquetFile(path) as opened:
                    table = opened.read_row_group(number)
            except (OSError, pyarrow.ArrowException) as error:
                raise ValueError(f"{path}, row group {number} cannot be read: {error}") from None
            self._cache[group] = table
            while len(self._cache) > 1 and sum(t.nbytes for t in self._cache.values()) > self._cache_bytes:
                self._cache.popitem(last=False)
            return table
