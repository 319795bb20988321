"""PyAV: the index of every backend, and the default decoder."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from video.clip import Clock, Frames, VideoError, VideoIndex, missing, resized, stamp

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Containers of moving pictures. Playlists (HLS, concat) name other files and are not among them.
FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,ogg,asf,gif,h264,hevc,ivf,m4v,wav,mp3,aac"
)
REMEMBERED = 256  # indices of files


def library() -> Any:
    """PyAV. Raises ValueError naming the extra."""
    try:
        import av
    except ImportError as error:
        raise missing("av", error) from error
    return av


class PyAVDecoder:
    """Decodes in this process; the deadline is looked at between packets and frames."""

    name = "pyav"

    def __init__(self, deadline: float, max_pixels: int) -> None:
        self.av = library()
        self.deadline, self.max_pixels = deadline, max_pixels
        self.decoded = 0  # frames that went through the codec, for tests and cost
        self._indices: OrderedDict[Any, VideoIndex] = OrderedDict()
        self._lock = threading.Lock()

    def index(self, path: str | Path) -> VideoIndex:
        key = stamp(path)
        with self._lock:
            if key in self._indices:
                self._indices.move_to_end(key)
                return self._indices[key]
        found = self._read_index(path, Clock(self.deadline, path))
        with self._lock:
            self._indices[key] = found
            while len(self._indices) > REMEMBERED:
                self._indices.popitem(last=False)
        return found

    def frames(self, path: str | Path, times: Sequence[float]) -> Frames:
        return self.frames_at(path, self.index(path).at(times))

    def frames_at(self, path: str | Path, indices: Sequence[int], size: tuple[int, int] | None = None) -> Frames:
        index = self.index(path)
        check_numbers(path, indices, index)
        clock = Clock(self.deadline, path)
        found: dict[int, NDArray[np.uint8]] = {}
        try:
            for number, frame in self._decode(path, index, sorted(set(indices)), clock):
                found[number] = resized(turned(frame.to_ndarray(format="rgb24"), index.rotation), size)
        except VideoError:
            raise
        except (self.av.FFmpegError, ValueError, MemoryError) as error:
            raise VideoError(path, f"cannot be decoded: {error}", "damaged") from error
        pixels = np.stack([found[i] for i in indices])
        return Frames(pixels, index.times[list(indices)], tuple(int(i) for i in indices))

    def _open(self, path: str | Path) -> tuple[Any, Any]:
        try:
            container = self.av.open(str(path), options={"format_whitelist": FORMATS, "protocol_whitelist": "file"})
        except (self.av.FFmpegError, ValueError, OSError) as error:
            raise VideoError(path, f"is damaged or no video file: {error}", "damaged") from error
        for stream in container.streams.video:
            if not self.av.stream.Disposition.attached_pic & stream.disposition:
                context = stream.codec_context
                if context is None or not context.width or not context.height:
                    break
                if context.width * context.height > self.max_pixels:
                    container.close()
                    raise VideoError(
                        path,
                        f"has frames of {context.width}x{context.height} pixels, more than max_pixels="
                        f"{self.max_pixels}",
                        "too large",
                    )
                context.options = {"err_detect": "explode"}
                stream.thread_type = "AUTO"
                return container, stream
        kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "none"
        container.close()
        raise VideoError(path, f"has no video stream (streams: {kinds})", "no video stream")

    def _read_index(self, path: str | Path, clock: Clock) -> VideoIndex:
        container, stream = self._open(path)
        pts: list[int] = []
        keys: list[int] = []
        try:
            for packet in container.demux(stream):
                clock.check()
                if not packet.size or packet.is_discard:
                    continue
                if packet.is_corrupt:
                    if stream.frames > len(pts):
                        break  # the last piece of a file that was cut off
                    raise VideoError(path, f"is damaged at packet {len(pts)}", "damaged")
                when = packet.pts if packet.pts is not None else packet.dts
                if when is None:
                    raise VideoError(path, f"has no times (packet {len(pts)})", "damaged")
                pts.append(when)
                if packet.is_keyframe:
                    keys.append(when)
            declared = stream.frames
            if not pts:
                raise VideoError(path, "holds no frames", "no frames")
            if declared > len(pts):
                raise VideoError(path, f"is cut off: {len(pts)} of {declared} frames are there", "truncated")
            container.seek(min(pts), stream=stream, backward=True)
            rotation = self._rotation(container, stream, path, clock)
            clock_of = stream.time_base
            height, width = stream.codec_context.height, stream.codec_context.width
            average = float(stream.average_rate or stream.guessed_rate or 0)
            form = container.format.name
        except (self.av.FFmpegError, ValueError) as error:
            if isinstance(error, VideoError):
                raise
            raise VideoError(path, f"is damaged: {error}", "damaged") from error
        finally:
            container.close()
        shown = np.array(sorted(set(pts)), dtype=np.int64)
        times = (shown - shown[0]).astype(np.float64) * clock_of.numerator / clock_of.denominator
        starts = np.searchsorted(shown, np.array(sorted(set(keys)) or [shown[0]], dtype=np.int64))
        if rotation in (90, 270):
            height, width = width, height
        return VideoIndex(times, shown, starts, _rate(times, average), height, width, rotation, form)

    def _rotation(self, container: Any, stream: Any, path: str | Path, clock: Clock) -> int:
        """Degrees counter-clockwise, of the first frame that can be decoded."""
        for frame in container.decode(stream):
            clock.check()
            self.decoded += 1
            turn = round(frame.rotation) % 360
            if turn % 90:
                raise VideoError(path, f"is turned by {turn} degrees; multiples of 90 can be shown", "rotation")
            return turn
        raise VideoError(path, "holds no frame that can be decoded", "damaged")

    def _decode(
        self, path: str | Path, index: VideoIndex, wanted: list[int], clock: Clock
    ) -> Iterator[tuple[int, Any]]:
        """(number, frame) of each wanted number, ascending: one seek per key frame that helps, frames told by time."""
        container, stream = self._open(path)
        try:
            position, source = -1, None  # number of the last frame that came
            for number in wanted:
                key = int(np.searchsorted(index.keys, number, side="right")) - 1
                if source is None or (key >= 0 and index.keys[key] > position + 1):
                    source = self._sought(container, stream, index, key)
                frame = self._until(source, index, number, clock)
                back = 1
                # Some containers seek past what was asked: begin at ever earlier key frames ...
                while frame is None and key - back >= 0:
                    frame = self._until(self._sought(container, stream, index, key - back), index, number, clock)
                    back *= 2
                if frame is None:  # ... at last at the beginning of the file, without a seek
                    container.close()
                    container, stream = self._open(path)
                    source = iter(container.decode(stream))
                    frame = self._until(source, index, number, clock)
                elif back > 1:
                    source = None
                if frame is None:
                    raise VideoError(
                        path,
                        f"has no frame {number} ({index.times[number]:.3f} s), which its index names: it is damaged",
                        "damaged",
                    )
                if frame.is_corrupt:
                    raise VideoError(path, f"is damaged at {index.times[number]:.3f} s", "damaged")
                position = number
                yield number, frame
        finally:
            container.close()

    def _sought(self, container: Any, stream: Any, index: VideoIndex, key: int) -> Iterator[Any]:
        """Frames from the key frame `key` on."""
        start = int(index.keys[key]) if key >= 0 else 0
        container.seek(int(index.pts[start]), stream=stream, backward=True, any_frame=False)
        return iter(container.decode(stream))

    def _until(self, source: Iterator[Any], index: VideoIndex, number: int, clock: Clock) -> Any:
        """The frame `number` out of `source`; None if the frames end or go past it."""
        wanted = int(index.pts[number])
        for frame in source:
            clock.check()
            self.decoded += 1
            when = frame.pts if frame.pts is not None else frame.dts
            if when is None or when < wanted:
                continue
            return frame if when == wanted else None
        return None


def check_numbers(path: str | Path, indices: Sequence[int], index: VideoIndex) -> None:
    """Raise ValueError for no numbers, and for one that the video does not have."""
    if not len(indices):
        raise ValueError(f"no frames are asked of video {str(path)!r}")
    for number in (min(indices), max(indices)):
        if not 0 <= number < len(index):
            raise ValueError(f"video {str(path)!r} has frames 0 to {len(index) - 1}, {number} is asked for")


def turned(frame: NDArray[np.uint8], rotation: int) -> NDArray[np.uint8]:
    """A decoded frame as it is shown."""
    return np.ascontiguousarray(np.rot90(frame, rotation // 90)) if rotation else frame


def _rate(times: NDArray[np.float64], average: float) -> float:
    """Frames a second: the container's average, else the nearest simple fraction, where the last frame's time agrees
    with it to two milliseconds; else what the times say. A rate that is off in its last bits moves windows by a frame.
    """
    if len(times) < 2:
        return average or 1.0
    last, steps = float(times[-1]), len(times) - 1
    simple = Fraction(steps / last).limit_denominator(1001)
    for rate in (average, float(simple)):
        if rate > 0 and abs(steps / rate - last) <= 2e-3:
            return rate
    return steps / last


Backend = PyAVDecoder
