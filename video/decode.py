"""Frames of video files with their true times: one protocol, three backends, an index, a cache, a deadline.

    decoder = open_decoder("pyav")
    index = decoder.index(path)                       # times of all frames, from the container; nothing is decoded
    shown = decoder.frames(path, [5.0, 5.5, 6.0])     # the frame on screen at each time, with its own time

Times are seconds from the first frame, whatever the file's clock starts at, in any frame rate. A window comes from a
seek in the stream's own clock, and every frame is told by its own time: the release of arXiv 2605.26680 seeks in
microseconds with a number of seconds, and numbers what it gets from the start of the window.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from video.clip import DEADLINE, Decoder, Frames, VideoIndex, stamp

BACKENDS = ("pyav", "decord", "torchcodec")


def open_decoder(name: str = "pyav", deadline: float = DEADLINE, max_pixels: int = 50_000_000) -> Decoder:
    """The decoder of a backend. Raises ValueError for an unknown name, and naming the extra if it is not installed.

    `deadline`: seconds for one request. `max_pixels`: width times height of a frame.
    """
    if name not in BACKENDS:
        raise ValueError(f"unknown video backend {name!r}; known: {', '.join(BACKENDS)}")
    decoder: Decoder = import_module(f"video.backends.{name}").Backend(deadline, max_pixels)
    return decoder


@dataclass
class WindowCache:
    """Decoded windows, the most recently used ones, up to a number of bytes. For several threads.

    It is a decoder itself: what it does not have it asks `decoder` for.
    """

    decoder: Decoder
    limit_bytes: int = 512 * 2**20
    hits: int = 0
    misses: int = 0
    held_bytes: int = 0
    _held: OrderedDict[Any, Frames] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def name(self) -> str:
        return self.decoder.name

    def index(self, path: str | Path) -> VideoIndex:
        return self.decoder.index(path)

    def frames(self, path: str | Path, times: Sequence[float]) -> Frames:
        return self.frames_at(path, self.index(path).at(times))

    def frames_at(self, path: str | Path, indices: Sequence[int], size: tuple[int, int] | None = None) -> Frames:
        key = (*stamp(path), tuple(indices), size)
        with self._lock:
            if key in self._held:
                self.hits += 1
                self._held.move_to_end(key)
                return self._held[key]
            self.misses += 1
        found = self.decoder.frames_at(path, indices, size)
        found.pixels.setflags(write=False)  # shared by all who ask
        with self._lock:
            if key not in self._held and found.pixels.nbytes <= self.limit_bytes:
                self._held[key] = found
                self.held_bytes += found.pixels.nbytes
                while self.held_bytes > self.limit_bytes:
                    _, old = self._held.popitem(last=False)
                    self.held_bytes -= old.pixels.nbytes
        return found
