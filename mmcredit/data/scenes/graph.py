"""The scene graph: what stands in a procedural picture, exactly, and what words mean about it.

A scene holds coloured shapes (`Thing`) or the bars of a chart (`Bar`). Coordinates are whole numbers on a lattice of
`LATTICE` steps a side, the origin at the top left, so that two different scenes also look different: a split by a hash
of the scene is a split of the pictures.

Meaning of words. `left of`: the centre lies at least `MARGIN` steps to the left; it is false from 0 steps on, and
unknown between, where two people could differ. Places are the thirds of the picture ("top left", "center",
"bottom right", nine in all; "top" alone is the whole top row, "left" the whole left column); within `BORDER` steps of a
line between two thirds, the neighbour is neither right nor wrong.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

LATTICE = 48
CELL = LATTICE // 3
MARGIN = 4
BORDER = 2

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (220, 30, 40),
    "green": (30, 160, 60),
    "blue": (40, 70, 225),
    "yellow": (245, 215, 30),
    "purple": (140, 50, 180),
    "black": (20, 20, 20),
    "orange": (245, 135, 20),
    "gray": (145, 145, 145),
    "pink": (250, 150, 195),
    "brown": (125, 75, 35),
    "teal": (0, 140, 140),
}
SHAPES = ("circle", "square", "triangle", "star", "diamond", "ring", "heart")
RADIUS = {"small": 3, "big": 6}  # half the side of the square that a thing fills, in lattice steps
LETTERS = ("A", "B", "C", "D", "E", "F")
WORD_LABELS = ("cat", "dog", "sun", "map", "key", "cup", "bus", "pen")
ROWS, COLUMNS = ("top", "center", "bottom"), ("left", "center", "right")
PLACES = tuple("center" if r == c == "center" else f"{r} {c}" for r in ROWS for c in COLUMNS)
SIDES = ("top", "bottom", "left", "right")
RELATIONS = ("left of", "right of", "above", "below")
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}

Verdict = Literal["true", "false", "unknown"]


@dataclass(frozen=True)
class Thing:
    """A shape: centre (x, y) on the lattice, a text label on it or none."""

    shape: str
    color: str
    size: str
    x: int
    y: int
    label: str | None = None


@dataclass(frozen=True)
class Bar:
    """A bar of a chart: its height in units of the axis, a text label under it or none."""

    color: str
    value: int
    label: str | None = None


@dataclass(frozen=True)
class Scene:
    """Things in reading order, or bars from left to right on an axis from 0 to `axis`."""

    things: tuple[Thing, ...] = ()
    bars: tuple[Bar, ...] = ()
    axis: int = 0

    def to_json(self) -> dict[str, Any]:
        """Plain data, as kept in ``Sample.meta["scene"]``."""
        return {
            "things": [dict(vars(thing)) for thing in self.things],
            "bars": [dict(vars(bar)) for bar in self.bars],
            "axis": self.axis,
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Scene:
        """The inverse of `to_json`. Raises ValueError if it is no such record."""
        try:
            things = tuple(Thing(**thing) for thing in record["things"])
            bars = tuple(Bar(**bar) for bar in record["bars"])
            return cls(things, bars, record["axis"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"no scene graph (keys things, bars, axis): {str(record)[:80]!r} ({error})") from None

    def key(self) -> str:
        """One text per scene: equal exactly for equal pictures."""
        return json.dumps(self.to_json(), sort_keys=True)


def in_reading_order(things: Iterable[Thing]) -> tuple[Thing, ...]:
    """By row of the lattice, then from left to right: the order in which they were made tells nothing."""
    return tuple(sorted(things, key=lambda thing: (thing.y, thing.x)))


@dataclass(frozen=True)
class Phrase:
    """A description in words: "big red circle", "blue objects", "red bar", "bar B"; None leaves open."""

    size: str | None = None
    color: str | None = None
    shape: str | None = None  # "bar" for bars
    label: str | None = None

    def text(self, plural: bool = False) -> str:
        """The words, without an article. A label is written only for bars: "bar B"."""
        noun = (self.shape or "object") + ("s" if plural else "")
        if self.shape == "bar" and self.label is not None:
            return f"bar {self.label}"
        return " ".join(word for word in (self.size, self.color, noun) if word)

    def the(self) -> str:
        """With the article: "the red circle", "bar B"."""
        return self.text() if self.shape == "bar" and self.label is not None else f"the {self.text()}"

    def matches(self, thing: Thing) -> bool:
        """Whether the thing fits the description."""
        return (
            self.size in (None, thing.size) and self.color in (None, thing.color) and self.shape in (None, thing.shape)
        )

    def things(self, scene: Scene) -> list[Thing]:
        """The things of the scene that fit."""
        return [thing for thing in scene.things if self.matches(thing)]

    def bars(self, scene: Scene) -> list[Bar]:
        """The bars of the scene that fit: none unless the description says "bar"."""
        if self.shape != "bar" or self.size is not None:
            return []
        return [b for b in scene.bars if self.color in (None, b.color) and self.label in (None, b.label)]

    def count(self, scene: Scene) -> int:
        """How many there are."""
        return len(self.bars(scene) if self.shape == "bar" else self.things(scene))


def place_of(thing: Thing) -> str:
    """The one of the nine places in which the centre lies."""
    return place_at((thing.x, thing.y))


def place_at(position: tuple[int, int]) -> str:
    """The one of the nine places of a position (x, y)."""
    x, y = position
    return PLACES[y // CELL * 3 + x // CELL]


def is_at(thing: Thing, place: str) -> Verdict:
    """Whether the thing is at a place of `PLACES` or `SIDES`."""
    row, column = (None, None)
    if place in SIDES:
        row, column = (place, None) if place in ROWS else (None, place)
    else:
        number = PLACES.index(place)
        row, column = ROWS[number // 3], COLUMNS[number % 3]
    verdicts = [
        _in_third(coordinate, names.index(name))
        for coordinate, names, name in ((thing.y, ROWS, row), (thing.x, COLUMNS, column))
        if name is not None
    ]
    if "false" in verdicts:
        return "false"
    return "unknown" if "unknown" in verdicts else "true"


def at_a_border(position: tuple[int, int]) -> bool:
    """Whether a position is so near to a line between two thirds that its place is a matter of taste."""
    return any(abs(coordinate - line) < BORDER for coordinate in position for line in (CELL, 2 * CELL))


def stands(a: tuple[int, int], relation: str, b: tuple[int, int]) -> Verdict:
    """Whether centre `a` (x, y) stands in the relation to centre `b`."""
    axis = 0 if relation in ("left of", "right of") else 1
    distance = b[axis] - a[axis] if relation in ("left of", "above") else a[axis] - b[axis]
    return "true" if distance >= MARGIN else "false" if distance <= 0 else "unknown"


def _in_third(coordinate: int, third: int) -> Verdict:
    if coordinate // CELL == third:
        return "true"
    near = any(abs(coordinate - line) < BORDER and third in (i, i + 1) for i, line in enumerate((CELL, 2 * CELL)))
    return "unknown" if near else "false"
