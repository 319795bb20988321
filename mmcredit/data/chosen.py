"""Some samples of a source, none of them read before it is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

from mmcredit.data.sample import Sample


class Chosen(Sequence[Sample]):
    """Some samples of a source, in an order of their own; none is read before it is asked for."""

    def __init__(self, source: Sequence[Sample], order: Sequence[int]) -> None:
        self.source, self.order = source, order

    def __len__(self) -> int:
        return len(self.order)

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> Chosen: ...

    def __getitem__(self, index: int | slice) -> Sample | Chosen:
        if isinstance(index, slice):
            return Chosen(self.source, self.order[index])
        return self.source[self.order[index]]

    def id(self, index: int) -> str:
        """The id where the source knows it without reading; else the place of the question."""
        known = getattr(self.source, "id", None)
        return str(known(self.order[index])) if callable(known) else f"question {self.order[index]}"
