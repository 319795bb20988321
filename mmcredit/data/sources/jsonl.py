"""JSON lines, or a JSON file that holds one list of objects."""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import Field

from mmcredit.components import register
from mmcredit.data.dropped import UnusableSample
from mmcredit.data.sources.base import Rows, TableSource
from mmcredit.data.sources.file_rows import FileRows
from mmcredit.data.sources.files import DataFile, expand


@register("source", "jsonl")
class JsonLines(TableSource):
    """JSON lines: one object a line, UTF-8 (`.jsonl`), or one list of objects (`.json`). For text and for images.

        source:
          - jsonl: {path: train.jsonl, template: "{{ content }} Answer in <answer> tags."}

    with lines such as

        {"prompt": "How many squares?", "image": "scenes/7.png", "answer": "3"}
        {"prompt": [{"role": "user", "content": "What is 2+3?"}], "answer": "5"}

    Image and video paths lie below `data.media.root`, by default the folder of the file. A `.jsonl` file is checked
    whole when it is loaded, of which only line positions stay in memory; lines are read again when they are used. A
    line that is not one JSON object is a sample that cannot be used: counted and replaced like any other. A `.json`
    list stays in memory. Ids are FILE:LINE, as editors count lines, or FILE[ITEM] of a list, items from 0.
    """

    path: str | list[str] = Field(description="file, folder, pattern, or a list of them")

    def rows(self) -> Rows:
        return JsonRows(expand(self.path, (".jsonl", ".json")))


BROKEN = "not a JSON object"


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"key {next(k for k in keys if keys.count(k) > 1)!r} occurs twice in one object")
    return row


def _encoded(error: UnicodeDecodeError) -> str:
    return (
        f"is not UTF-8: byte 0x{error.object[error.start]:02x} at {error.start}; save the file as UTF-8 "
        f"(Latin-1 and Windows-1252 have such bytes)"
    )


_BEGINS = (
    (b"\xff\xfe", "is UTF-16, not UTF-8; save it as UTF-8"),
    (b"\xfe\xff", "is UTF-16, not UTF-8; save it as UTF-8"),
    (b"{\0", "is UTF-16, not UTF-8; save it as UTF-8"),
    (b"\0{", "is UTF-16, not UTF-8; save it as UTF-8"),
    (b"PAR1", "is a Parquet file; use the source parquet"),
    (b"\x1f\x8b", "is packed (gzip); unpack it first"),
    (b"PK\x03\x04", "is packed (zip) or a spreadsheet; unpack it, or export CSV for the source csv"),
    (b"(\xb5/\xfd", "is packed (zstd); unpack it first"),
)


def _refuse_other_formats(path: Path, beginning: bytes) -> None:
    """Raise ValueError for a file that is no JSON by its first bytes or, where those are text, by its name."""
    said = next((said for begins, said in _BEGINS if beginning.startswith(begins)), None)
    if said is None and path.suffix.lower() in (".csv", ".tsv") and not beginning.lstrip().startswith((b"{", b"[")):
        said = "is a table of text; use the source csv"
    if said is not None:
        raise ValueError(f"{path} {said}")


def _parse(line: bytes, place: str) -> dict[str, Any]:
    try:
        row = json.loads(line.decode(), object_pairs_hook=_unique_keys)
    # JSONDecodeError and UnicodeDecodeError are ValueErrors; RecursionError: brackets nested by the thousand.
    except UnicodeDecodeError as error:
        raise UnusableSample(f"{place} {_encoded(error)}", BROKEN) from None
    except (ValueError, RecursionError) as error:
        raise UnusableSample(f"{place} is not valid JSON: {error}", BROKEN) from None
    if not isinstance(row, dict):
        raise UnusableSample(f"{place} is a JSON {type(row).__name__}; one object a line is wanted", BROKEN)
    if rb"\ud" in line.lower():
        try:
            json.dumps(row, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise UnusableSample(
                f"{place} holds half a character ({error.object[error.start : error.end]!r}), which no text can hold",
                BROKEN,
            ) from None
    return row


class _Lines:
    """One `.jsonl` file: where its lines start, and which keys occur. Raises ValueError if no line can be used."""

    def __init__(self, file: DataFile) -> None:
        self.file = file
        self.offsets = array("Q")
        self.numbers = array("Q")  # line numbers from 0; blank lines have none
        self.keys: dict[str, None] = {}
        self.broken: set[int] = set()  # lines that are no JSON object
        first: UnusableSample | None = None
        offset = 0
        try:
            with file.path.open("rb") as stream:
                self.stamp = _stamp(stream.fileno())
                _refuse_other_formats(file.path, stream.peek(8)[:8])
                for number, line in enumerate(stream):
                    if line.strip():
                        try:
                            self.keys.update(dict.fromkeys(_parse(_without_bom(line), self._place(number))))
                        except UnusableSample as error:
                            first = first or error
                            self.broken.add(len(self.offsets))
                        self.offsets.append(offset)
                        self.numbers.append(number)
                    offset += len(line)
        except OSError as error:
            raise ValueError(f"{file.path} cannot be read: {error}") from None
        if first is not None and len(self.broken) == len(self.offsets):
            with file.path.open("rb") as stream:
                document = _without_bom(stream.read(100)).lstrip().startswith((b"[", b"{\n", b"{\r"))
            whole = "; a JSON document, not lines of JSON, is named .json" if document else ""
            raise ValueError(f"{file.path}: none of its {len(self.offsets)} lines can be used: {first}{whole}")

    def __len__(self) -> int:
        return len(self.offsets)

    def _place(self, number: int) -> str:
        return f"{self.file.name}:{number + 1}"

    def place(self, index: int) -> str:
        return self._place(self.numbers[index])

    def read(self, index: int) -> dict[str, Any]:
        try:
            with self.file.path.open("rb") as stream:
                if _stamp(stream.fileno()) != self.stamp:
                    raise ValueError(f"{self.file.path} has changed since it was loaded; start again")
                stream.seek(self.offsets[index])
                line = stream.readline()
        except OSError as error:
            raise ValueError(f"{self.place(index)} cannot be read: {error}") from None
        return _parse(_without_bom(line), self.place(index))

    def all(self) -> Iterator[dict[str, Any]]:
        with self.file.path.open("rb") as stream:
            for number, line in enumerate(stream):
                if line.strip():
                    try:
                        yield _parse(_without_bom(line), self._place(number))
                    except UnusableSample:
                        yield {}


def _stamp(descriptor: int) -> tuple[int, int]:
    status = os.fstat(descriptor)
    return status.st_size, status.st_mtime_ns


def _without_bom(line: bytes) -> bytes:
    return line.removeprefix(b"\xef\xbb\xbf")


class _List:
    """One `.json` file: a list of objects."""

    def __init__(self, file: DataFile) -> None:
        self.file = file
        try:
            content = _without_bom(file.path.read_bytes())
        except OSError as error:
            raise ValueError(f"{file.path} cannot be read: {error}") from None
        _refuse_other_formats(file.path, content[:8])
        try:
            data = json.loads(content.decode(), object_pairs_hook=_unique_keys)
        except UnicodeDecodeError as error:
            raise ValueError(f"{file.path} {_encoded(error)}") from None
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{file.path} is not valid JSON: {error}; JSON lines are named .jsonl") from None
        if not isinstance(data, list):
            lists = [key for key, value in data.items() if isinstance(value, list)] if isinstance(data, dict) else []
            held = f"; its key {lists[0]!r} holds one: save that list alone" if lists else ""
            raise ValueError(f"{file.path} holds a JSON {type(data).__name__}; a list of objects is wanted{held}")
        self.data: list[Any] = data
        self.broken = {index for index, row in enumerate(data) if not isinstance(row, dict)}
        if data and len(self.broken) == len(data):
            raise ValueError(f"{file.path}: none of its {len(data)} items is an object: {self._not_an_object(0)}")
        self.keys = dict.fromkeys(key for row in self.all() for key in row)

    def __len__(self) -> int:
        return len(self.data)

    def place(self, index: int) -> str:
        return f"{self.file.name}[{index}]"

    def read(self, index: int) -> dict[str, Any]:
        if index in self.broken:
            raise UnusableSample(self._not_an_object(index), BROKEN)
        row: dict[str, Any] = self.data[index]
        return row

    def all(self) -> Iterator[dict[str, Any]]:
        return (row if isinstance(row, dict) else {} for row in self.data)

    def _not_an_object(self, index: int) -> str:
        return f"{self.place(index)} is a JSON {type(self.data[index]).__name__}; an object is wanted"


class JsonRows(FileRows):
    """The rows of JSON files, one after another."""

    def __init__(self, files: list[DataFile]) -> None:
        super().__init__([_List(f) if f.path.suffix == ".json" else _Lines(f) for f in files])
