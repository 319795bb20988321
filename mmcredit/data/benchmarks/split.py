"""The samples of one split of a benchmark: what loaders of pictures and of videos share."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self, overload

from mmcredit.data.columns import plain
from mmcredit.data.dropped import UnusableSample, reason_of
from mmcredit.data.sample import Media, Sample, name_of
from mmcredit.data.templates import render

if TYPE_CHECKING:
    from jinja2 import Template

    from mmcredit.data.benchmarks.item import Item
    from mmcredit.data.media import MediaLimits


class Asked(Protocol):
    """What the samples of a split ask of their benchmark."""

    name: ClassVar[str]
    split: str

    def prompt(self, item: Item) -> str:
        """The text of the user's turn, with "<image>" where a picture stands."""
        ...

    def reference(self, answer: str | None, letter: str | None) -> str | None:
        """The reference in the form in which it is compared."""
        ...


class SplitSamples(Sequence[Sample]):
    """Samples of a split, in the order of the files. A slice, a `selected` and a `wrapped` are views.

    A subclass reads the media of a row when its sample is asked for. Ids are benchmark/split/the row's own; one that
    comes again (a question asked twice) gets ~2, ~3, ... in the order of the rows.
    """

    def __init__(
        self, benchmark: Asked, items: Sequence[Item], limits: MediaLimits, indices: Sequence[int] | None = None
    ) -> None:
        self._benchmark, self._items, self._limits = benchmark, items, limits
        self._indices = list(range(len(items)) if indices is None else indices)
        self._ids = _unique(f"{benchmark.name}/{benchmark.split}", items)
        self._system: str | None = None
        self._template: Template | None = None

    @abstractmethod
    def _media(self, number: int) -> Sequence[Media]:
        """The media of a row of the split. Raises UnusableSample with the reason."""

    @abstractmethod
    def _place(self, number: int) -> str:
        """Where a row stands: file and row."""

    @abstractmethod
    def _content(self, text: str, media: Sequence[Media]) -> str | list[dict[str, str]]:
        """The user's turn with its media. Raises ValueError if text and media do not fit."""

    def __len__(self) -> int:
        return len(self._indices)

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> Self: ...

    def __getitem__(self, index: int | slice) -> Sample | Self:
        if isinstance(index, slice):
            return self.selected(self._indices[index])
        return self._sample(self._indices[index])

    def selected(self, rows: Sequence[int]) -> Self:
        """The samples of these rows of the split."""
        view = copy.copy(self)
        view._indices = list(rows)
        return view

    def wrapped(self, system: str | None, template: Template | None) -> Self:
        """The same samples under a system prompt, with a template around the text of the user's turn."""
        view = copy.copy(self)
        view._system, view._template = system, template
        return view

    def rows(self) -> list[int]:
        """Numbers of the rows in the split."""
        return list(self._indices)

    def id(self, index: int) -> str:
        """The id of a sample. Its media are not read."""
        return self._ids[self._indices[index]]

    def name(self, index: int) -> str:
        """What messages call a sample."""
        return self._name(self._indices[index])

    def item(self, index: int) -> Item:
        """The row of a sample in the common form, without media."""
        return self._items[self._indices[index]]

    def meta(self, index: int) -> dict[str, Any]:
        """The meta of a sample; its media are not read."""
        return self._meta(self._indices[index])

    def _name(self, number: int) -> str:
        return name_of(self._ids[number], self._place(number))

    def _meta(self, number: int) -> dict[str, Any]:
        item = self._items[number]
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
        item = self._items[number]
        media = self._media(number)
        meta = self._meta(number)
        text = self._benchmark.prompt(item)
        try:
            if self._template is not None:
                text = render(self._template, text, meta)
            content = self._content(text, media)
        except ValueError as error:
            raise UnusableSample(f"sample {self._name(number)}: {error}", reason_of(error, "row malformed")) from error
        system = [] if self._system is None else [{"role": "system", "content": self._system}]
        return Sample(
            id=self._ids[number],
            messages=(*system, {"role": "user", "content": content}),
            media=tuple(media),
            answer=self._benchmark.reference(item.answer, item.letter),
            meta=meta,
            place=self._place(number),
        )


def _unique(prefix: str, items: Sequence[Item]) -> list[str]:
    seen: dict[str, int] = {}
    ids = []
    for item in items:
        seen[item.id] = seen.get(item.id, 0) + 1
        ids.append(f"{prefix}/{item.id}" + (f"~{seen[item.id]}" if seen[item.id] > 1 else ""))
    return ids
