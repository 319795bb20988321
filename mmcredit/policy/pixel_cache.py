"""Preprocessed images, remembered."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


class PixelCache:
    """Preprocessed images by content, least recently used first out."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit = limit_bytes
        self._kept: OrderedDict[str, dict[str, Tensor]] = OrderedDict()
        self._held = 0
        self.hits = 0
        self.misses = 0

    @property
    def held(self) -> int:
        """Bytes that are remembered."""
        return self._held

    def get(self, key: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """The tensors under `key`, made if they are not there."""
        if key in self._kept:
            self.hits += 1
            self._kept.move_to_end(key)
            return self._kept[key]
        self.misses += 1
        value = make()
        size = _bytes(value)
        if size <= self.limit:
            self._kept[key] = value
            self._held += size
            while self._held > self.limit:
                self._held -= _bytes(self._kept.popitem(last=False)[1])
        return value


def _bytes(tensors: Mapping[str, Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors.values())
