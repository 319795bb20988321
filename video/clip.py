"""What decoding speaks of: an index, frames, the protocol of a decoder, its deadline and its errors."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

DEADLINE = 60.0  # seconds for one request
EXTRAS = {"av": "video", "decord": "decord", "torchcodec": "torchcodec"}


class VideoError(ValueError):
    """A video that cannot be read. `reason` is a few words to count by."""

    def __init__(self, path: str | Path, why: str, reason: str) -> None:
        super().__init__(f"video {str(path)!r} {why}")
        self.path, self.why, self.reason = str(path), why, reason


@dataclass(frozen=True)
class VideoIndex:
    """What a container says of its frames, in the order in which they are shown."""

    times: NDArray[np.float64]  # [N] seconds from the first frame
    pts: NDArray[np.int64]  # [N] the same on the stream's clock
    keys: NDArray[np.int64]  # [K] numbers of the frames at which decoding can start
    fps: float  # average rate
    height: int  # as shown, rotation applied
    width: int
    rotation: int  # degrees counter-clockwise by which a decoded frame is turned to be shown: 0, 90, 180, 270
    format: str  # of the container

    def __len__(self) -> int:
        return len(self.times)

    @property
    def duration(self) -> float:
        """Seconds until the last frame goes."""
        return float(self.times[-1]) + 1 / self.fps

    def at(self, times: Sequence[float]) -> list[int]:
        """The frame on screen at each time: the last one that began; the first before the start. Half a microsecond is
        allowed for rounding."""
        found = np.searchsorted(self.times, np.asarray(times, dtype=np.float64) + 5e-7, side="right") - 1
        return [int(i) for i in np.clip(found, 0, len(self) - 1)]


@dataclass(frozen=True)
class Frames:
    """Decoded frames: pixels [T,H,W,3] uint8 RGB as shown, their times [T] in seconds, their numbers [T]."""

    pixels: NDArray[np.uint8]
    times: NDArray[np.float64]
    indices: tuple[int, ...]


class Decoder(Protocol):
    """A way to decode. All methods raise VideoError naming the file, within the deadline."""

    name: str

    def index(self, path: str | Path) -> VideoIndex:
        """What the container says; remembered while the file does not change."""
        ...

    def frames(self, path: str | Path, times: Sequence[float]) -> Frames:
        """The frame on screen at each time, in the order asked."""
        ...

    def frames_at(self, path: str | Path, indices: Sequence[int], size: tuple[int, int] | None = None) -> Frames:
        """Frames by number, in the order asked; at `size` (height, width) if it is given."""
        ...


def missing(module: str, error: Exception) -> ValueError:
    """What to say where the library of a backend cannot be imported."""
    return ValueError(
        f"{module} cannot be imported ({str(error).splitlines()[0]}); "
        + (
            f"install the extra: pip install 'mmcredit[{EXTRAS[module]}]'"
            if module != "torchcodec"
            else "install a torchcodec that fits torch and FFmpeg's shared libraries, or take the backend pyav"
        )
    )


def stamp(path: str | Path) -> tuple[str, int, int]:
    """What a file is remembered by: its real path, size and time of change. Raises VideoError for none and an empty."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise VideoError(path, f"cannot be read: {error.strerror or error}", "missing") from None
    if not os.path.isfile(path):
        raise VideoError(path, "is not a file", "missing")
    if not status.st_size:
        raise VideoError(path, "is empty (0 bytes)", "damaged")
    return os.path.realpath(path), status.st_size, status.st_mtime_ns


class Clock:
    """A deadline that begins now."""

    def __init__(self, seconds: float, path: str | Path) -> None:
        self.until, self.seconds, self.path = time.monotonic() + seconds, seconds, path

    @property
    def left(self) -> float:
        return self.until - time.monotonic()

    def check(self) -> None:
        """Raise VideoError if the time is over."""
        if self.left <= 0:
            raise VideoError(self.path, f"was not decoded within {self.seconds:g} s", "deadline")


def resized(frame: NDArray[np.uint8], size: tuple[int, int] | None) -> NDArray[np.uint8]:
    """A frame [H,W,3] at (height, width), bicubic with anti-aliasing, rounded: what the Qwen processors do."""
    if size is None or frame.shape[:2] == size:
        return frame
    import torch
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2.functional import resize

    pixels = torch.from_numpy(np.array(frame)).permute(2, 0, 1)
    bigger = resize(pixels, list(size), interpolation=InterpolationMode.BICUBIC, antialias=True)
    return bigger.permute(1, 2, 0).numpy()
