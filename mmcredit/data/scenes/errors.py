"""The word at which a claim becomes false: the first one behind which no continuation of the claim can hold."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from mmcredit.data.scenes.claims import NUMBERS, Claim, check, slots
from mmcredit.data.scenes.graph import PLACES, RELATIONS, SIDES, Phrase, Scene

_COMPARISONS, _EXTREMES, _SIZES = ("more", "fewer", "as many"), ("tallest", "shortest"), ("small", "big")


def first_error(claim: Claim, scene: Scene) -> tuple[int, int]:
    """Characters [start, end) of the response: of a false claim, the word (or place, or relation) that made it so.

    "There is a red star at the top left" over a picture with a red circle and a blue star: "red" can still come true,
    "red star" cannot, so it is "star". Words before it are not to blame, and those behind it can no longer be judged. A
    claim that no exchange of its words would make true is to blame as a whole.

    Raises ValueError for a claim that is not false.
    """
    if check(claim, scene) != "false":
        raise ValueError(f"the claim {claim.text!r} is not false of the scene")
    names = slots(claim)
    choices = [_choices(name, claim, scene) for name, _, _ in names]
    for number in reversed(range(len(names))):
        # From the back: the more words are free, the easier; the first success names the word that closed the way.
        if _can_hold(claim, scene, names[number:], choices[number:]):
            _, start, end = names[number]
            return claim.start + start, claim.start + end
    return claim.start, claim.end


def _can_hold(claim: Claim, scene: Scene, free: list[tuple[str, int, int]], choices: list[tuple[Any, ...]]) -> bool:
    if not free:
        return check(claim, scene) != "false"
    return any(_can_hold(other, scene, free[1:], choices[1:]) for other in _variants(claim, free[0][0], choices[0]))


def _variants(claim: Claim, name: str, values: tuple[Any, ...]) -> Iterator[Claim]:
    for value in values:
        if name == "value":
            yield replace(claim, value=value)
        elif name == "place":
            yield replace(claim, place=value)
        elif name.startswith("other "):
            assert claim.other is not None
            yield replace(claim, other=_with(claim.other, name.removeprefix("other "), value))
        else:
            yield replace(claim, subject=_with(claim.subject, name, value))


def _with(phrase: Phrase, name: str, value: Any) -> Phrase:
    return replace(phrase, **{name: value})


def _choices(name: str, claim: Claim, scene: Scene) -> tuple[Any, ...]:
    """What could stand there instead, the present word included. Of the words for things: those of the scene's own."""
    name = name.removeprefix("other ")
    colors = [thing.color for thing in scene.things] + [bar.color for bar in scene.bars]
    if name == "color":
        return _once(colors)
    if name == "shape":
        return _once([thing.shape for thing in scene.things] + ["bar" for _ in scene.bars] + [None])
    if name == "size":
        return _SIZES
    if name == "label":
        return _once([thing.label for thing in scene.things] + [bar.label for bar in scene.bars])
    if name == "place":
        return (*PLACES, *SIDES)
    return {
        "count": NUMBERS,
        "value": _once(str(bar.value) for bar in scene.bars),
        "color": _once(colors),
        "size": _SIZES,
        "shape": _once(thing.shape for thing in scene.things),
        "label": _once(thing.label for thing in scene.things if thing.label),
        "relation": RELATIONS,
        "compare": _COMPARISONS,
        "extreme": _EXTREMES,
    }[claim.kind]


def _once(values: Any) -> tuple[Any, ...]:
    return tuple(dict.fromkeys(values))
