"""Procedural clips with known events: what happens when, drawn frame by frame, written as real mp4 files.

A clip is a grey field. For some seconds it has a coloured border: the window. Inside the window brief details are shown
in the middle, one in each of eight slots or none; a thin border means slow slots (two a second), a thick one fast slots
(four a second). At the instants of the coarse frames the middle is empty, so the coarse frames show where to look and
how fast, and nothing else: clips that differ in their answer alone have the same coarse frames, to the byte.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mmcredit.data.scenes.layout import Lots
from mmcredit.data.splits import in_test
from video.backends.pyav import library
from video.frames import VideoLimits, smart_nframes, spread, window_indices
from video.retrieval import Call, format_call

if TYPE_CHECKING:
    from numpy.typing import NDArray

Kind = Literal["appear", "tint", "flash", "change", "count", "moment"]
KINDS: tuple[Kind, ...] = ("appear", "tint", "flash", "change", "count", "moment")
Split = Literal["train", "test"]

NATIVE = 16  # frames a second of the file
SLOTS = 8
RATES = {"thin": 2, "thick": 4}  # border -> slots a second, which is the gold rate
EDGE = {"thin": 1 / 16, "thick": 1 / 8}  # border -> its width, of the picture's side
SHAPES = ("circle", "square", "triangle", "cross")
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (220, 40, 40),
    "green": (40, 190, 60),
    "blue": (60, 90, 240),
    "yellow": (240, 220, 50),
}
WHITE, GREY = (245, 245, 245), (70, 70, 70)
COUNTS = ("1", "2", "3", "4")
DRAWS = 4000  # of a clip for one question

Detail = tuple[str, str]  # shape and colour; ("", "") for nothing
NOTHING: Detail = ("", "")


@dataclass(frozen=True)
class Window:
    """A bordered stretch of a clip."""

    start: int  # seconds
    end: int
    border: str  # colour
    width: str  # thin or thick
    details: tuple[Detail, ...]  # per slot

    @property
    def fps(self) -> int:
        """The rate at which each slot is seen once."""
        return RATES[self.width]

    def slot(self, frame: int) -> int:
        """The slot that frame number `frame` lies in: the cells around the frames sampled at the gold rate."""
        first, last = self.start * NATIVE, self.end * NATIVE
        return round((frame - first) * (SLOTS - 1) / (last - first))

    def frames(self) -> range:
        """Numbers of its frames, both ends included."""
        return range(self.start * NATIVE, self.end * NATIVE + 1)


@dataclass(frozen=True)
class Event:
    """One clip with its question."""

    kind: Kind
    question: str
    answer: str
    seconds: int
    size: int  # pixels a side
    coarse: tuple[int, ...]  # numbers of the frames at which the middle is empty
    windows: tuple[Window, ...]  # the first is the one asked about

    @property
    def window(self) -> Window:
        """The window that answers."""
        return self.windows[0]

    def key(self) -> str:
        """The clip as text, without the question: what decides its split."""
        return json.dumps([self.seconds, [asdict(w) for w in self.windows]], sort_keys=True)

    def frame(self, number: int) -> NDArray[np.uint8]:
        """[size, size, 3] RGB of frame `number`."""
        border, width, detail = "", "", NOTHING
        for window in self.windows:
            if number in window.frames():
                border, width = window.border, window.width
                detail = self.shown(number)
        return picture(border, width, detail, self.size)

    def shown(self, number: int) -> Detail:
        """The detail that is to be seen in frame `number`."""
        for window in self.windows:
            if number in window.frames() and number not in self.coarse:
                return window.details[window.slot(number)]
        return NOTHING

    def mp4(self) -> bytes:
        """The clip as a file (`write_mp4`)."""
        return write_mp4([self.frame(number) for number in range(self.seconds * NATIVE)])

    def completion(self, call: Call | None = None, limits: VideoLimits | None = None) -> str:
        """The ideal response: where to look, the call, what its frames show in order, the answer.

        With another call than the gold one: what `call` shows within `limits`, and the same answer.
        """
        window = self.window
        if call is None:
            call = Call(window.start, window.end, window.fps)
        total = self.seconds * NATIVE
        frames = window_indices(call.start, call.end, call.fps, NATIVE, total, limits)
        details = [self.shown(frame) for frame in frames]
        # One detail may be in two frames of a window that is shown at more than its rate.
        seen = [detail for detail, before in zip(details, [NOTHING, *details], strict=False) if detail != before]
        words = " ".join(self._word(detail) for detail in seen if detail[0]) or "nothing"
        return (
            f"<think>{window.border} border, {window.width}. {format_call(call.start, call.end, int(call.fps))}\n"
            f"{words}</think><answer>{self.answer}</answer>"
        )

    def _word(self, detail: Detail) -> str:
        shape, colour = detail
        return {"change": colour, "tint": colour, "flash": "o"}.get(self.kind, shape)

    def stray(self, lots: Lots, far: int = 2) -> Call:
        """A call beside the gold one: both ends up to `far` seconds off, the rate any from 1 to 5."""
        window = self.window
        start = min(max(0, window.start + lots.between(-far, far)), self.seconds - 1)
        end = min(max(start + 1, window.end + lots.between(-far, far)), self.seconds)
        return Call(start, end, lots.between(1, 5), "ok")


def write_mp4(frames: Sequence[NDArray[np.uint8]]) -> bytes:
    """Frames [size, size, 3] as a file: H.264, each by itself, so that none carries traces of its neighbours."""
    av = library()
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        options = {"g": "1", "qp": "20", "bf": "0", "threads": "1", "preset": "veryfast"}
        stream = container.add_stream("libx264", rate=NATIVE, options=options)
        stream.width = stream.height = len(frames[0])
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, NATIVE)
        for number, frame in enumerate(frames):
            shown = av.VideoFrame.from_ndarray(frame, format="rgb24")
            shown.pts, shown.time_base = number, Fraction(1, NATIVE)
            container.mux(stream.encode(shown))
        container.mux(stream.encode())
    return buffer.getvalue()


@lru_cache(maxsize=1024)
def picture(border: str, width: str, detail: Detail, size: int) -> NDArray[np.uint8]:
    """[size, size, 3] RGB of a frame; a clip shows few different ones."""
    image = np.full((size, size, 3), GREY, np.uint8)
    if border:
        edge = round(EDGE[width] * size)
        image[:] = COLOURS[border]
        image[edge:-edge, edge:-edge] = GREY
    if detail[0]:
        image[drawn(detail[0], size)] = COLOURS.get(detail[1], WHITE)
    image.flags.writeable = False
    return image


@lru_cache(maxsize=64)
def drawn(shape: str, size: int) -> NDArray[np.bool_]:
    """[size, size] bool: a shape in the middle, half as wide as the picture."""
    y, x = (np.mgrid[0:size, 0:size] - (size - 1) / 2) / (size / 4)
    if shape == "circle":
        return np.asarray(x**2 + y**2 <= 1)
    if shape == "square":
        return np.asarray(np.maximum(abs(x), abs(y)) <= 0.85)
    if shape == "triangle":
        return np.asarray((abs(x) <= (y + 1) / 2) & (y <= 1))
    return np.asarray((np.minimum(abs(x), abs(y)) <= 0.3) & (np.maximum(abs(x), abs(y)) <= 1))


def coarse_frames(seconds: int, count: int) -> tuple[int, ...]:
    """Frame numbers of a clip that is shown whole in `count` frames."""
    return tuple(spread(0, seconds * NATIVE - 1, count))


def make_event(
    kinds: Sequence[Kind],
    seed: int,
    split: Split,
    index: int,
    *,
    size: int = 64,
    coarse_fps: float = 1.0,
    coarse_max: int = 256,
    decoys: int = 0,
    shortest: int = 8,
    longest: int = 16,
) -> Event:
    """Clip `index` of a split: a pure function of the arguments. Kinds take turns; the answer is drawn before the rest.

    A clip belongs to `test` (a fifth of all) or to `train` by a hash of what it shows: the splits share none. Windows
    lie so that the frames sampled at the gold rate are none of the coarse ones. Raises ValueError if no clip fits.
    """
    lots = Lots(seed, "video events", split, index)
    kind = kinds[index % len(kinds)]
    colours = lots.some(sorted(COLOURS), 1 + decoys)
    width = lots.one(sorted(RATES))
    details, answer, wording = _details(kind, lots)
    for _ in range(DRAWS):
        seconds = lots.between(shortest, longest)
        coarse = coarse_frames(seconds, coarse_count(seconds, coarse_fps, coarse_max))
        windows: list[Window] = []
        for number, border in enumerate(colours):
            chosen = width if number == 0 else lots.one(sorted(RATES))
            length = SLOTS // RATES[chosen]
            start = lots.between(1, max(1, seconds - 1 - length))
            shown = details if number == 0 else _details(kind, lots)[0]
            windows.append(Window(start, start + length, border, chosen, shown))
        made = Event(kind, wording.format(border=colours[0]), answer, seconds, size, coarse, tuple(windows))
        if _fits(made) and in_test(made.key()) == (split == "test"):
            return made if kind != "moment" else _timed(made)
    raise ValueError(
        f"video_events: found no clip of {shortest} to {longest} s with {decoys} decoys in {DRAWS} draws; let clips be "
        "longer, or change coarse_fps"
    )


def coarse_count(seconds: int, fps: float, most: int) -> int:
    """Frames in which a clip is shown whole: those of the sampler (`video.frames.smart_nframes`)."""
    return smart_nframes(seconds * NATIVE, NATIVE, fps=fps, max_frames=min(most, seconds * NATIVE))


def gold_frames(window: Window, seconds: int) -> list[int]:
    """Frame numbers of a window at its gold rate."""
    return window_indices(window.start, window.end, window.fps, NATIVE, seconds * NATIVE)


def _fits(event: Event) -> bool:
    """Windows inside the clip and apart, each with a coarse frame, and the answering frames are no coarse ones."""
    spans = sorted((w.start, w.end) for w in event.windows)
    apart = all(a[1] + 1 <= b[0] for a, b in pairwise(spans))
    if not apart or spans[-1][1] > event.seconds - 1:
        return False
    if not all(any(frame in w.frames() for frame in event.coarse) for w in event.windows):
        return False
    return not set(gold_frames(event.window, event.seconds)) & set(event.coarse)


def _details(kind: Kind, lots: Lots) -> tuple[tuple[Detail, ...], str, str]:
    """Details of the slots, the answer, and the question's wording."""
    slots: list[Detail] = [NOTHING] * SLOTS
    inside = range(SLOTS)
    if kind in ("appear", "moment"):
        shape = lots.one(SHAPES)
        slots[lots.one(inside)] = (shape, "")
        if kind == "appear":
            return tuple(slots), shape, "Which shape appears while the border is {border}?"
        return tuple(slots), "", f"When does the {shape} appear while the border is {{border}}? Answer in seconds."
    if kind == "tint":
        colour = lots.one(sorted(COLOURS))
        slots[lots.one(inside)] = ("circle", colour)
        return tuple(slots), colour, "Which colour flashes while the border is {border}?"
    if kind == "flash":
        count = lots.one(COUNTS)
        for place in _apart(int(count), lots):
            slots[place] = ("circle", "")
        return tuple(slots), count, "How many times does the circle flash while the border is {border}?"
    if kind == "change":
        first, second = lots.some(sorted(COLOURS), 2)
        early, late = sorted(lots.some(inside, 2))
        slots[early], slots[late] = ("circle", first), ("circle", second)
        return tuple(slots), second, "Which colour does the circle turn to while the border is {border}?"
    count = lots.one(COUNTS)
    shapes = lots.some(SHAPES, int(count))
    places = lots.some(inside, lots.between(int(count), 5))
    for number, place in enumerate(places):
        slots[place] = (shapes[number] if number < len(shapes) else lots.one(shapes), "")
    return tuple(slots), count, "How many different shapes appear while the border is {border}?"


def _apart(count: int, lots: Lots) -> list[int]:
    """`count` slots of which no two are neighbours."""
    free = lots.some(range(SLOTS - count + 1), count)
    return [place + number for number, place in enumerate(sorted(free))]


def _timed(event: Event) -> Event:
    """A `moment`: its answer is the stretch in which the detail is to be seen."""
    window = event.window
    place = next(i for i, detail in enumerate(window.details) if detail[0])
    frames = [n for n in window.frames() if window.slot(n) == place]
    answer = f"{frames[0] / NATIVE:.2f} - {(frames[-1] + 1) / NATIVE:.2f}"
    return Event(event.kind, event.question, answer, event.seconds, event.size, event.coarse, event.windows)


def to_row(event: Event, split: Split, call: Call | None = None, limits: VideoLimits | None = None) -> dict[str, Any]:
    """The columns of a clip, without its file; `call` is another than the gold one for its completion."""
    window = event.window
    return {
        "question": event.question,
        "answer": event.answer,
        "kind": event.kind,
        "split": split,
        "span": [float(window.start), float(window.end)],
        "fps": window.fps,
        "duration": float(event.seconds),
        "completion": event.completion(call, limits),
    }
