"""Which frames of a video are shown, how large, and with which times: one sampler for prompts, insertion and training.

Counts, windows and indices are those of qwen-vl-utils 0.0.14 (its decord reader), which the SFT data of arXiv
2605.26680 was made with; its online sampler, which labels frames with times that are not theirs, is not offered.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from video.retrieval import Call, Status

FACTOR = 2  # frames of a temporal group
FPS, MIN_FRAMES, MAX_FRAMES = 2.0, 4, 768  # defaults of qwen-vl-utils
VIDEO_MIN_TOKENS, VIDEO_MAX_TOKENS = 128, 768  # of a frame
IMAGE_MIN_TOKENS, IMAGE_MAX_TOKENS = 4, 16384
MODEL_TOKENS = 128_000
MAX_RATIO = 200.0
# Steps between frames that differ by less than this share of their mean make a constant rate: containers round times
# to their clock (Matroska: a millisecond).
CONSTANT = 0.06

Times = NDArray[np.float64]


class NoFrames(ValueError):
    """A window or a rate that leaves no frames to show."""


class VideoLimits(BaseModel):
    """How many frames of a window may be shown, and how large all of them together."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    fps: float = Field(2.0, gt=0, description="rate of the whole video, frames a second")
    coarse_frames: int = Field(256, ge=2, description="most frames of the whole video")
    max_frames: int = Field(256, ge=2, description="most frames of a window; above, the rate is lowered")
    min_frames: int = Field(4, ge=1, description="fewest frames, where the window has as many")
    min_rate: float = Field(1.0, gt=0, description="lowest rate of a window; a call below it gets this")
    max_rate: float = Field(5.0, gt=0, description="highest rate of a window; a call above it gets this")
    min_volume: int = Field(256 * 32 * 32, gt=0, description="fewest pixels of a clip, frames x height x width")
    max_volume: int = Field(16384 * 32 * 32, gt=0, description="most pixels of a clip, frames x height x width")

    @model_validator(mode="after")
    def _ordered(self) -> VideoLimits:
        for low, high in (("min_frames", "max_frames"), ("min_rate", "max_rate"), ("min_volume", "max_volume")):
            if getattr(self, low) > getattr(self, high):
                raise ValueError(f"{low} {getattr(self, low)} is over {high} {getattr(self, high)}")
        return self


# --- counts and windows by frame number (constant rate) ---------------------------------------------------------------


def smart_nframes(
    total: int,
    native_fps: float,
    fps: float | None = None,
    nframes: int | None = None,
    min_frames: float = MIN_FRAMES,
    max_frames: float | None = None,
) -> int:
    """How many of `total` frames are shown: an even number, as qwen-vl-utils counts.

    By rate: total / native_fps * fps, at least `min_frames` (rounded up to even), at most `max_frames` (rounded down;
    default 768) and at most `total`. By number: `nframes`, to the nearest even one. Raises NoFrames if that is not
    within 2 and `total`, ValueError if both are given.
    """
    if fps is not None and nframes is not None:
        raise ValueError(f"give fps or nframes, not both (fps={fps}, nframes={nframes})")
    if nframes is not None:
        count = round(nframes / FACTOR) * FACTOR
    else:
        low = math.ceil(min_frames / FACTOR) * FACTOR
        high = math.floor((min(MAX_FRAMES, total) if max_frames is None else max_frames) / FACTOR) * FACTOR
        wanted = total / native_fps * (FPS if fps is None else fps)
        count = math.floor(min(min(max(wanted, low), high), total) / FACTOR) * FACTOR
    if not FACTOR <= count <= total:
        raise NoFrames(f"{count} frames are asked of {total}; at least {FACTOR} and at most all of them can be shown")
    return count


def frame_range(start: float | None, end: float | None, total: int, native_fps: float) -> tuple[int, int]:
    """First and last frame number of a window in seconds, clamped to the video; None = from its start, to its end.

    ceil(start * fps) and min(floor(end * fps), last). Raises NoFrames if that leaves fewer than two frames.
    """
    duration = total / native_fps
    first = 0 if start is None else math.ceil(max(0.0, min(start, duration)) * native_fps)
    last = total - 1
    if end is not None:
        last = min(math.floor(max(0.0, min(end, duration)) * native_fps), last)
    if first >= last and (start is not None or end is not None):
        raise NoFrames(
            f"the window {_shown(start)} - {_shown(end)} s holds frames {first} to {last} of a video of "
            f"{duration:.2f} s"
        )
    return first, last


def _shown(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:g}"


def spread(first: int, last: int, count: int) -> list[int]:
    """`count` frame numbers from `first` to `last`, evenly, rounded half to even (in float32, as torch does it)."""
    return torch.linspace(first, last, count).round().long().tolist()


def window_indices(
    start: float, end: float, fps: float, native_fps: float, total: int, limits: VideoLimits | None = None
) -> list[int]:
    """Frame numbers of a window at a rate, for a video of constant rate: the sampler of the SFT data.

    A rate that asks for more than `max_frames` of the window as written is lowered to `max_frames` / its length. Raises
    NoFrames for a window with fewer than two frames.
    """
    limits = limits or VideoLimits()
    rate = lowered(start, end, fps, limits.max_frames)
    first, last = frame_range(start, end, total, native_fps)
    inside = last - first + 1
    count = smart_nframes(inside, native_fps, rate, None, limits.min_frames, limits.max_frames)
    return spread(first, last, count)


def lowered(start: float, end: float, fps: float, max_frames: int) -> float:
    """The rate, or the highest one that keeps within `max_frames`."""
    return max_frames / (end - start) if fps * (end - start) > max_frames else fps


# --- by time (any video) ----------------------------------------------------------------------------------------------


def is_constant(times: Times) -> bool:
    """Whether frames follow each other at one rate."""
    if len(times) < 3:
        return True
    steps = np.diff(times)
    mean = float(times[-1] - times[0]) / (len(times) - 1)
    return bool(np.all(np.abs(steps - mean) <= CONSTANT * mean))


def sample(
    times: Times,
    native_fps: float,
    start: float | None = None,
    end: float | None = None,
    *,
    fps: float | None = None,
    nframes: int | None = None,
    min_frames: float = MIN_FRAMES,
    max_frames: float | None = None,
) -> list[int]:
    """Frame numbers of a window (None = open) at a rate, from the true times [N] of all frames, seconds.

    With a constant rate they are those of qwen-vl-utils. With a variable one the window is taken by time, the count by
    its length in seconds, and each of that many evenly spaced times gets the frame nearest to it, each frame once.
    Raises NoFrames if fewer than two frames are left.
    """
    counts: dict[str, Any] = {"fps": fps, "nframes": nframes, "min_frames": min_frames, "max_frames": max_frames}
    if is_constant(times):
        first, last = frame_range(start, end, len(times), native_fps)
        return spread(first, last, smart_nframes(last - first + 1, native_fps, **counts))
    first = 0 if start is None else int(np.searchsorted(times, start - 1e-9))
    last = len(times) - 1 if end is None else int(np.searchsorted(times, end + 1e-9, side="right")) - 1
    if first >= last:
        raise NoFrames(
            f"the window {_shown(start)} - {_shown(end)} s holds {max(0, last - first + 1)} frames of a video of "
            f"{float(times[-1]):.2f} s"
        )
    inside = times[first : last + 1]
    length = float(inside[-1] - inside[0])
    own_fps = (len(inside) - 1) / length if length > 0 else native_fps
    count = smart_nframes(len(inside), own_fps, **counts)
    targets = np.linspace(inside[0], inside[-1], count)
    right = np.clip(np.searchsorted(inside, targets), 1, len(inside) - 1)
    nearest = np.where(targets - inside[right - 1] <= inside[right] - targets, right - 1, right)
    chosen = np.unique(nearest)
    if len(chosen) % FACTOR:
        chosen = np.delete(chosen, len(chosen) // 2) if len(chosen) > FACTOR else chosen
    return [first + int(i) for i in chosen]


# --- sizes ------------------------------------------------------------------------------------------------------------


def volume_size(
    nframes: int, height: int, width: int, patch: int = 16, limits: VideoLimits | None = None
) -> tuple[int, int]:
    """Height and width at which a clip is shown: multiples of 2 * patch whose volume with T stays within the limits.

    The rule of Qwen3-VL's video processor (T * H * W, T even). Raises ValueError beyond 200:1.
    """
    limits = limits or VideoLimits()
    factor = patch * 2
    if height < factor or width < factor:
        scale = max(factor / height, factor / width)
        height, width = int(height * scale), int(width * scale)
    _check_ratio(height, width)
    rows, columns = (round(side / factor) * factor for side in (height, width))
    groups = max(round(nframes / FACTOR), 1) * FACTOR
    if groups * rows * columns > limits.max_volume:
        beta = math.sqrt(nframes * height * width / limits.max_volume)
        rows, columns = (max(factor, math.floor(side / beta / factor) * factor) for side in (height, width))
    elif groups * rows * columns < limits.min_volume:
        beta = math.sqrt(limits.min_volume / (nframes * height * width))
        rows, columns = (math.ceil(side * beta / factor) * factor for side in (height, width))
    return rows, columns


def frame_size(
    nframes: int, height: int, width: int, patch: int = 14, options: Mapping[str, float] | None = None
) -> tuple[int, int]:
    """Height and width at which each frame is shown by qwen-vl-utils: a cap of pixels per frame, by its keys.

    `options` may hold min_pixels, max_pixels, total_pixels, resized_height and resized_width. Raises ValueError for
    limits that contradict each other, and beyond 200:1.
    """
    options = options or {}
    factor = patch * 2
    least = options.get("min_pixels", VIDEO_MIN_TOKENS * factor**2)
    total = options.get("total_pixels", MODEL_TOKENS * factor**2 * 0.9)
    most = max(min(VIDEO_MAX_TOKENS * factor**2, total / nframes * FACTOR), int(least * 1.05))
    most = min(options.get("max_pixels", most), most)
    if "resized_height" in options and "resized_width" in options:
        height, width = int(options["resized_height"]), int(options["resized_width"])
        least, most = IMAGE_MIN_TOKENS * factor**2, IMAGE_MAX_TOKENS * factor**2
    if most < least:
        raise ValueError(f"max_pixels {most:g} is below min_pixels {least:g}")
    _check_ratio(height, width)
    rows, columns = (max(factor, round(side / factor) * factor) for side in (height, width))
    if rows * columns > most:
        beta = math.sqrt(height * width / most)
        rows, columns = (math.floor(side / beta / factor) * factor for side in (height, width))
    elif rows * columns < least:
        beta = math.sqrt(least / (height * width))
        rows, columns = (math.ceil(side * beta / factor) * factor for side in (height, width))
    return rows, columns


def _check_ratio(height: int, width: int) -> None:
    ratio = max(height, width) / min(height, width)
    if ratio > MAX_RATIO:
        raise ValueError(f"frames of {width}x{height} are {ratio:.0f}:1; at most {MAX_RATIO:.0f}:1 can be shown")


# --- times of groups --------------------------------------------------------------------------------------------------


def group_times(times: Sequence[float]) -> list[float]:
    """Seconds of each temporal group: the mean of its first and last frame; an odd last frame stands for two."""
    padded = [*times, times[-1]] if len(times) % FACTOR else list(times)
    return [(padded[i] + padded[i + 1]) / 2 for i in range(0, len(padded), FACTOR)]


def label(seconds: float) -> str:
    """A group's time as Qwen3-VL writes it before the group."""
    return f"<{seconds:.1f} seconds>"


def labels(times: Sequence[float]) -> list[str]:
    """The text before each temporal group of frames shown at `times`."""
    return [label(seconds) for seconds in group_times(times)]


# --- a call -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """What a call is answered with: frame numbers, their times, size and tokens; or why it is not."""

    status: Status
    reason: str = ""
    indices: tuple[int, ...] = ()
    times: tuple[float, ...] = ()  # seconds of the video, true ones
    size: tuple[int, int] = (0, 0)  # height and width shown
    tokens: int = 0  # inserted: labels, vision marks and patches
    fps: float = 0.0  # shown, frames a second of the window

    @property
    def grid(self) -> tuple[int, int, int]:
        """Temporal groups, and patches of 16 in height and width."""
        return len(self.indices) // FACTOR, self.size[0] // 16, self.size[1] // 16


def plan_window(
    call: Call,
    times: Times,
    native_fps: float,
    height: int,
    width: int,
    limits: VideoLimits | None = None,
    budget: int | None = None,
    label_tokens: Callable[[str], int] | None = None,
    patch: int = 16,
) -> Plan:
    """The frames that answer a valid call, within `budget` tokens (None = no limit).

    The rate is cut to [min_rate, max_rate] and lowered to `max_frames`; a clip over the budget is shown at a lower
    rate, down to two frames. status `ok`, `empty` (fewer than two frames in the window) or `out_of_budget`.
    `label_tokens` counts the tokens of a time label (default: one a character, which is never too few).
    """
    limits = limits or VideoLimits()
    if not call.ok:
        return Plan(call.status, call.reason)
    rate = min(max(call.fps, limits.min_rate), limits.max_rate)
    rate = lowered(call.start, call.end, rate, limits.max_frames)
    bounds: dict[str, Any] = {"start": call.start, "end": call.end}
    try:
        chosen = sample(
            times, native_fps, **bounds, fps=rate, min_frames=limits.min_frames, max_frames=limits.max_frames
        )
    except NoFrames as error:
        return Plan("empty", str(error))
    while True:
        shown = tuple(float(times[i]) for i in chosen)
        size = volume_size(len(chosen), height, width, patch, limits)
        texts = labels(shown)
        patches = (size[0] // (2 * patch)) * (size[1] // (2 * patch)) * len(texts)
        tokens = patches + 2 * len(texts) + sum((label_tokens or len)(text) for text in texts)
        if budget is None or tokens <= budget:
            length = max(min(call.end, float(times[-1]) + 1 / native_fps) - max(call.start, 0.0), 1e-9)
            return Plan("ok", "", tuple(chosen), shown, size, tokens, len(chosen) / length)
        if len(chosen) <= FACTOR:
            return Plan("out_of_budget", f"two frames take {tokens} tokens, {budget} are left")
        chosen = sample(times, native_fps, **bounds, nframes=len(chosen) - FACTOR)
        if len(chosen) % FACTOR:
            chosen = chosen[:-1]
