"""Drawing lots: things with what a question demands of them, positions without overlap, bars."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np

from mmcredit.data.scenes.graph import (
    CELL,
    COLORS,
    LATTICE,
    LETTERS,
    RADIUS,
    SHAPES,
    WORD_LABELS,
    Bar,
    Thing,
    in_reading_order,
)
from mmcredit.seeds import derive

if TYPE_CHECKING:
    from collections.abc import Collection

Layout = Literal["grid", "free"]
Position = tuple[int, int]
GRID = tuple((CELL * column + CELL // 2, CELL * row + CELL // 2) for row in range(3) for column in range(3))
TRIES = 100  # per thing, and per arrangement; beyond it the caller draws the whole scene anew
LABEL_SHARE = 0.25  # of the scenes that no question about a label needs them in
T = TypeVar("T")


class Lots:
    """A seeded source of choices, the same on every machine.

    `RandomState` and not a `Generator`: its streams are frozen (NEP 19).
    """

    def __init__(self, seed: int, *path: str | int) -> None:
        number = derive(seed, *path)
        self._state = np.random.RandomState([number & 0xFFFFFFFF, number >> 32])

    def below(self, n: int) -> int:
        """A whole number from 0 to n - 1."""
        return int(self._state.randint(n))

    def between(self, low: int, high: int) -> int:
        """A whole number from `low` to `high`, both included."""
        return low + self.below(high - low + 1)

    def one(self, options: Sequence[T]) -> T:
        """One of the options."""
        return options[self.below(len(options))]

    def some(self, options: Sequence[T], count: int) -> list[T]:
        """`count` different ones, in random order."""
        return [options[i] for i in self._state.permutation(len(options))[:count].tolist()]

    def chance(self, share: float) -> bool:
        """True in this share of cases."""
        return bool(self._state.random_sample() < share)


@dataclass(frozen=True)
class Level:
    """What a difficulty allows."""

    shapes: tuple[str, ...]
    colors: tuple[str, ...]
    labels: tuple[str, ...]
    layout: Layout
    bars: tuple[int, int]  # fewest and most
    highest: int  # value of a bar
    axis: int

    def any_thing(self, lots: Lots) -> Thing:
        """A thing of any kind, at no place yet."""
        return Thing(lots.one(self.shapes), lots.one(self.colors), lots.one(("small", "big")), -1, -1)


_COLORS = tuple(COLORS)
LEVELS = {
    "easy": Level(SHAPES[:4], _COLORS[:6], LETTERS[:4], "grid", (3, 4), 5, 5),
    "medium": Level(SHAPES[:5], _COLORS[:8], LETTERS, "free", (3, 5), 9, 10),
    "hard": Level(SHAPES, _COLORS, WORD_LABELS, "free", (4, 6), 19, 20),
}


@dataclass(frozen=True)
class Setting:
    """Difficulty, and how many things a scene holds."""

    level: Level
    layout: Layout
    fewest: int
    most: int


def others(lots: Lots, setting: Setting, fixed: Collection[Thing], allowed: Callable[[Thing], bool]) -> list[Thing]:
    """Things beside the fixed ones, all allowed, so that their number is within the setting's; [] if none fit in."""
    total = lots.between(max(setting.fewest, len(fixed)), setting.most)
    found: list[Thing] = []
    for _ in range(TRIES * total):
        if len(found) + len(fixed) == total:
            break
        thing = setting.level.any_thing(lots)
        if allowed(thing):
            found.append(thing)
    return found


def arrange(
    lots: Lots, setting: Setting, things: Sequence[Thing], accept: Callable[[list[Position]], bool] | None = None
) -> list[Thing] | None:
    """The things at places without overlap that `accept` takes, in the given order; None after `TRIES` failures."""
    for _ in range(TRIES):
        positions = _grid(lots, things) if setting.layout == "grid" else _free(lots, things)
        if positions is not None and (accept is None or accept(positions)):
            return [Thing(t.shape, t.color, t.size, x, y, t.label) for t, (x, y) in zip(things, positions, strict=True)]
    return None


def _grid(lots: Lots, things: Sequence[Thing]) -> list[Position]:
    return lots.some(GRID, len(things))


def _free(lots: Lots, things: Sequence[Thing]) -> list[Position] | None:
    """Big ones first, so that the last ones still find room; the squares around two things never touch."""
    placed: dict[int, Position] = {}
    for i in sorted(range(len(things)), key=lambda i: -RADIUS[things[i].size]):
        r = RADIUS[things[i].size]
        for _ in range(TRIES):
            x, y = lots.between(r + 1, LATTICE - r - 1), lots.between(r + 1, LATTICE - r - 1)
            gaps = [
                max(abs(x - px), abs(y - py)) - r - RADIUS[things[j].size] for j, (px, py) in placed.items()
            ]  # both sides' half widths
            if all(gap >= 1 for gap in gaps):
                placed[i] = (x, y)
                break
        else:
            return None
    return [placed[i] for i in range(len(things))]


def labelled(lots: Lots, setting: Setting, things: Sequence[Thing], keep: Collection[int] = ()) -> tuple[Thing, ...]:
    """The things in reading order, in a share of scenes with a text label on each big one that has none.

    Labels are drawn with repetition. Things whose number is in `keep` stay as they are.
    """
    with_labels = bool(keep) or lots.chance(LABEL_SHARE)
    made = [
        Thing(t.shape, t.color, t.size, t.x, t.y, lots.one(setting.level.labels))
        if with_labels and i not in keep and t.size == "big"
        else t
        for i, t in enumerate(things)
    ]
    return in_reading_order(made)


def bars(
    lots: Lots, setting: Setting, fixed: dict[str, int], value: Callable[[Lots], int] | None = None
) -> tuple[Bar, ...]:
    """The bars of a chart in different colours: the fixed ones (colour -> value) among others, in random order.

    `value` draws the height of the others. On half of the levels' charts letters stand under the bars, in order.
    """
    level = setting.level
    count = lots.between(max(level.bars[0], len(fixed)), level.bars[1])
    free = [color for color in level.colors if color not in fixed]
    heights = dict(fixed)
    for color in lots.some(free, count - len(fixed)):
        heights[color] = value(lots) if value else lots.between(1, level.highest)
    order = lots.some(list(heights), count)
    letters = LETTERS if lots.chance(0.5) else (None,) * len(LETTERS)
    return tuple(Bar(color, heights[color], letters[i]) for i, color in enumerate(order))
