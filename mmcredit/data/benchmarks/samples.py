"""The samples of a benchmark: text checked when loaded, pictures read when a sample is asked for."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from mmcredit.data.benchmarks.layout import locate
from mmcredit.data.benchmarks.split import Asked, SplitSamples
from mmcredit.data.benchmarks.table import Table
from mmcredit.data.columns import is_empty
from mmcredit.data.dropped import UnusableSample, reason_of
from mmcredit.data.media import MediaLimits
from mmcredit.data.sample import Media
from mmcredit.data.values import to_media

if TYPE_CHECKING:
    from mmcredit.data.benchmarks.item import Item
    from mmcredit.data.benchmarks.layout import Format
    from mmcredit.data.benchmarks.table import Row


class Questions(Asked, Protocol):
    """What the samples of a picture benchmark ask of it: its files, and its rows in the common form."""

    format: ClassVar[Format]

    def item(self, row: Row) -> Item:
        """The row in the common form."""
        ...

    def keeps(self, item: Item) -> bool:
        """Whether an item belongs to the chosen part of the split."""
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


class BenchmarkSamples(SplitSamples):
    """Samples with pictures, read when a sample is asked for."""

    def __init__(
        self,
        benchmark: Questions,
        table: Table,
        items: Sequence[Item],
        limits: MediaLimits,
        folder: Path,
        indices: Sequence[int],
    ) -> None:
        super().__init__(benchmark, items, limits, indices)
        self._table, self._folder = table, folder

    def _place(self, number: int) -> str:
        return self._table.place(number)

    def _content(self, text: str, media: Sequence[Media]) -> str | list[dict[str, str]]:
        return _content(text, len(media))

    def _media(self, number: int) -> list[Media]:
        item, id = self._items[number], self._ids[number]
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
