"""The samples of a benchmark: text checked when loaded, pictures read when a sample is asked for."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, overload

from mmcredit.data.benchmarks.layout import locate
from mmcredit.data.benchmarks.table import Table
from mmcredit.data.columns import is_empty, plain
from mmcredit.data.dropped import UnusableSample, reason_of
from mmcredit.data.media import MediaLimits
from mmcredit.data.sample import Media, Sample, name_of
from mmcredit.data.templates import render
from mmcredit.data.values import to_media

if TYPE_CHECKING:
    from jinja2 import Template

    from mmcredit.data.benchmarks.item import Item
    from mmcredit.data.benchmarks.layout import Format
    from mmcredit.data.benchmarks.table import Row


class Questions(Protocol):
    """What the samples of a benchmark ask of it: its files, and its rows in the common form."""

    name: ClassVar[str]
    format: ClassVar[Format]
    split: str

    def item(self, row: Row) -> Item:
        """The row in the common form."""
        ...

    def keeps(self, item: Item) -> bool:
        """Whether an item belongs to the chosen part of the split."""
        ...

    def prompt(self, item: Item) -> str:
        """The text of the user's turn, with "<image>" where a picture stands."""
        ...

    def reference(self, answer: str | None, letter: str | None) -> str | None:
        """The reference in the form in which it is compared."""
        ...


PLACEHOLDER = "<image>"
_BASE64 = re.compile(r"[A-Za-z0-9+/\s]+={0,2}\s*")


def load(benchmark: Questions, root: Path, limits: MediaLimits | None = None) -> BenchmarkSamples:
    """See `Benchmark.load`."""
    files = locate(benchmark.name, benchmark.format, benchmark.split, root)
    table = Table(benchmark.name, benchmark.format, files)
    items: list[Item] = []
    for row in table.light():
        items.append(benchmark.item(row))
    root = root.expanduser()
    folder = root.parent if root.is_file() else root
    limits = (limits or MediaLimits()).model_copy(update={"root": folder})
    kept = [i for i, item in enumerate(items) if benchmark.keeps(item)]
    if not kept:
        raise ValueError(f"{benchmark.name}: none of the {len(items)} rows of split {benchmark.split!r} is kept")
    return BenchmarkSamples(benchmark, table, items, limits, files[0].path.parent, kept)


class BenchmarkSamples(Sequence[Sample]):
    """Samples of a split, in the order of the files. A slice or a `selected` is a view."""

    def __init__(
        self,
        benchmark: Questions,
        table: Table,
        items: Sequence[Item],
        limits: MediaLimits,
        folder: Path,
        indices: Sequence[int],
        ids: Sequence[str] | None = None,
        system: str | None = None,
        template: Template | None = None,
    ) -> None:
        self._benchmark, self._table, self._items = benchmark, table, items
        self._limits, self._folder, self._indices = limits, folder, indices
        self._system, self._template = system, template
        self._ids = ids if ids is not None else _unique(f"{benchmark.name}/{benchmark.split}", items)

    def __len__(self) -> int:
        return len(self._indices)

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> BenchmarkSamples: ...

    def __getitem__(self, index: int | slice) -> Sample | BenchmarkSamples:
        if isinstance(index, slice):
            return self.selected(self._indices[index])
        return self._sample(self._indices[index])

    def selected(self, rows: Sequence[int]) -> BenchmarkSamples:
        """The samples of these rows of the split."""
        return self._view(rows, self._system, self._template)

    def wrapped(self, system: str | None, template: Template | None) -> BenchmarkSamples:
        """The same samples under a system prompt, with a template around the text of the user's turn."""
        return self._view(self._indices, system, template)

    def _view(self, rows: Sequence[int], system: str | None, template: Template | None) -> BenchmarkSamples:
        return BenchmarkSamples(
            *(self._benchmark, self._table, self._items, self._limits, self._folder, list(rows), self._ids),
            *(system, template),
        )

    def rows(self) -> list[int]:
        """Numbers of the rows in the split."""
        return list(self._indices)

    def id(self, index: int) -> str:
        """The id of a sample: benchmark/split/its own id. Its picture is not read."""
        return self._ids[self._indices[index]]

    def name(self, index: int) -> str:
        """What messages call a sample."""
        return name_of(self.id(index), self._table.place(self._indices[index]))

    def item(self, index: int) -> Item:
        """The row of a sample in the common form, without pictures."""
        return self._items[self._indices[index]]

    def meta(self, index: int) -> dict[str, Any]:
        """The meta of a sample; its picture is not read."""
        return self._meta(self._items[self._indices[index]])

    def _meta(self, item: Item) -> dict[str, Any]:
        found = {
            **{key: plain(value) for key, value in item.meta.items()},
            "benchmark": self._benchmark.name,
            "split": self._benchmark.split,
            "question": item.question,
            "answer": item.answer,
            "answer_type": item.answer_type,
            "letter": item.letter,
        }
        if item.choices is not None:
            found["choices"] = list(item.choices)
        if item.flags:
            found["flags"] = list(item.flags)
        return found

    def _sample(self, number: int) -> Sample:
        item, id = self._items[number], self._ids[number]
        media = self._pictures(item, number, id)
        meta = self._meta(item)
        text = self._benchmark.prompt(item)
        try:
            if self._template is not None:
                text = render(self._template, text, meta)
            content = _content(text, len(media))
        except ValueError as error:
            name = name_of(id, self._table.place(number))
            raise UnusableSample(f"sample {name}: {error}", reason_of(error, "row malformed")) from error
        system = [] if self._system is None else [{"role": "system", "content": self._system}]
        return Sample(
            id=id,
            messages=(*system, {"role": "user", "content": content}),
            media=tuple(media),
            answer=self._benchmark.reference(item.answer, item.letter),
            meta=meta,
            place=self._table.place(number),
        )

    def _pictures(self, item: Item, number: int, id: str) -> list[Media]:
        if not item.images and not item.spare_images:
            return []
        row = self._table.media(number)
        media: list[Media] = []
        for column in (*item.spare_images, *item.images):
            value = row.get(column)
            if is_empty(value):
                if column in item.images:
                    seen = repr(value) if column in row.values else "missing"
                    raise row.bad(column, f"a picture is wanted, this one is {seen} (sample {id})", "media missing")
                continue
            for each in value if isinstance(value, list | tuple) else [value]:
                try:
                    media.append(self._medium(each, column, id))
                except ValueError as error:
                    raise row.bad(column, str(error), reason_of(error, "media malformed")) from error
        return media

    def _medium(self, value: Any, column: str, id: str) -> Media:
        """A picture as bytes, struct, data URI, path, or bare base64 text.

        A path is looked for beside the data file, above it, and below the root: repositories differ in where the paths
        of their rows start.
        """
        inner = value
        if isinstance(value, dict) and value.get("bytes") is None and isinstance(value.get("path"), str):
            inner = value["path"]
        if not isinstance(inner, str) or inner[:5].lower() == "data:" or "://" in inner[:20]:
            return to_media(inner, "image", column, id, self._limits)
        root = self._limits.root
        assert root is not None
        missing: UnusableSample | None = None
        for base in dict.fromkeys((self._folder, self._folder.parent, self._folder / "images", root)):
            try:
                inside = base.resolve().relative_to(root.resolve())
            except ValueError:
                continue  # the data file lies at the root: what is above it is out of reach
            try:
                return to_media(str(inside / inner), "image", column, id, self._limits)
            except UnusableSample as error:
                if error.reason != "media missing":
                    raise
                missing = missing or error  # the first place is the one to name
        if len(inner) > 60 and _BASE64.fullmatch(inner):
            try:
                return Media("image", data=base64.b64decode(inner), name=f"{column} of sample {id}")
            except binascii.Error as error:
                raise UnusableSample(f"{column} of sample {id} is not valid base64: {error}", "media damaged") from None
        assert missing is not None  # the root itself is always tried
        raise missing


def _content(text: str, pictures: int) -> str | list[dict[str, str]]:
    """The user's turn: pictures at their placeholders, those without one in front."""
    marked = text.count(PLACEHOLDER)
    if marked > pictures:
        raise UnusableSample(
            f"the prompt has {marked} {PLACEHOLDER} placeholders, the row gives {pictures} pictures",
            "media counts differ",
        )
    if not pictures:
        return text
    parts: list[dict[str, str]] = [{"type": "image"}] * (pictures - marked)
    for number, piece in enumerate(text.split(PLACEHOLDER)):
        if number:
            parts.append({"type": "image"})
        if piece.strip() or (piece and number and number < marked):
            parts.append({"type": "text", "text": piece})
    return parts


def _unique(prefix: str, items: Sequence[Item]) -> list[str]:
    """An id per item. One that comes again (a question asked twice) gets ~2, ~3, ... in the order of the rows."""
    seen: dict[str, int] = {}
    ids = []
    for item in items:
        seen[item.id] = seen.get(item.id, 0) + 1
        ids.append(f"{prefix}/{item.id}" + (f"~{seen[item.id]}" if seen[item.id] > 1 else ""))
    return ids
