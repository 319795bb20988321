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
from video.frames import smart_nframes, spread, window_indices
from video.retrieval import format_call

if TYPE_CHECKING:
    from numpy.typing import NDArray

Kind = Literal["appear", "flash", "change", "count", "moment"]
KINDS: tuple[Kind, ...] = ("appear", "flash", "change", "count", "moment")
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
        image = np.full((self.size, self.size, 3), GREY, np.uint8)
        for window in self.windows:
            if number in window.frames():
                edge = round(EDGE[window.width] * self.size)
                inner = image[edge:-edge, edge:-edge].copy()
                image[:] = COLOURS[window.border]
                image[edge:-edge, edge:-edge] = inner
                shape, colour = window.details[window.slot(number)]
                if shape and number not in self.coarse:
                    image[drawn(shape, self.size)] = COLOURS.get(colour, WHITE)
        return image

    def mp4(self) -> bytes:
        """The clip as a file: H.264, each frame by itself, so that no frame carries traces of its neighbours."""
        av = library()
        buffer = io.BytesIO()
        with av.open(buffer, "w", format="mp4") as container:
            options = {"g": "1", "qp": "20", "bf": "0", "threads": "1", "preset": "veryfast"}
            stream = container.add_stream("libx264", rate=NATIVE, options=options)
            stream.width = stream.height = self.size
            stream.pix_fmt = "yuv420p"
            stream.codec_context.time_base = Fraction(1, NATIVE)
            for number in range(self.seconds * NATIVE):
                shown = av.VideoFrame.from_ndarray(self.frame(number), format="rgb24")
                shown.pts, shown.time_base = number, Fraction(1, NATIVE)
                container.mux(stream.encode(shown))
            container.mux(stream.encode())
        return buffer.getvalue()

    def completion(self) -> str:
        """The ideal response: where to look and why, the call, what its frames show one by one, the answer."""
        window = self.window
        call = format_call(window.start, window.end, window.fps)
        seen = " ".join(self._word(detail) for detail in window.details)
        return (
            f"<think>{window.border} border, {window.width}: {window.start} to {window.end} s. {call}\n"
            f"{seen}</think><answer>{self.answer}</answer>"
        )

    def _word(self, detail: Detail) -> str:
        shape, colour = detail
        if not shape:
            return "-"
        return {"change": colour, "flash": "o"}.get(self.kind, shape)


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


def to_row(event: Event, split: Split) -> dict[str, Any]:
    """The columns of a clip, without its file."""
    window = event.window
    return {
        "question": event.question,
        "answer": event.answer,
        "kind": event.kind,
        "split": split,
        "span": [float(window.start), float(window.end)],
        "fps": window.fps,
        "duration": float(event.seconds),
        "completion": event.completion(),
    }
