"""torchcodec: exact times, where it imports (it needs FFmpeg's shared libraries and a build that fits torch)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from video.backends.pyav import PyAVDecoder, check_numbers
from video.clip import Clock, Frames, VideoError, VideoIndex, missing, resized


def library() -> Any:
    """torchcodec's decoders. Raises ValueError where they cannot be imported."""
    try:
        from torchcodec import decoders
    except (ImportError, RuntimeError, OSError) as error:  # a missing shared library is a RuntimeError there
        raise missing("torchcodec", error) from error
    return decoders


class TorchcodecDecoder:
    """The index is PyAV's; every frame is held against the time that the index gives it."""

    name = "torchcodec"

    def __init__(self, deadline: float, max_pixels: int) -> None:
        self.decoders = library()
        self.deadline = deadline
        self._pyav = PyAVDecoder(deadline, max_pixels)

    def index(self, path: str | Path) -> VideoIndex:
        return self._pyav.index(path)

    def frames(self, path: str | Path, times: Sequence[float]) -> Frames:
        return self.frames_at(path, self.index(path).at(times))

    def frames_at(self, path: str | Path, indices: Sequence[int], size: tuple[int, int] | None = None) -> Frames:
        index = self.index(path)
        check_numbers(path, indices, index)
        clock = Clock(self.deadline, path)
        pixels = []
        try:
            decoder = self.decoders.VideoDecoder(str(path), dimension_order="NHWC", seek_mode="exact")
            begin = float(decoder.metadata.begin_stream_seconds)
            for number in indices:  # one by one: a clip is never held at its full size
                clock.check()
                frame = decoder.get_frame_at(int(number))
                if abs(frame.pts_seconds - begin - index.times[number]) > 1e-3:
                    raise VideoError(
                        path,
                        f"gives frame {number} the time {frame.pts_seconds - begin:.3f} s under torchcodec, its "
                        f"container says {index.times[number]:.3f} s; take the backend pyav",
                        "times disagree",
                    )
                pixels.append(resized(frame.data.numpy(), size))
        except VideoError:
            raise
        except (RuntimeError, ValueError, IndexError) as error:
            raise VideoError(path, f"cannot be decoded: {str(error).splitlines()[0]}", "damaged") from error
        return Frames(np.stack(pixels), index.times[list(indices)], tuple(int(i) for i in indices))


Backend = TorchcodecDecoder
