"""Perception claims: statements about a picture in a small controlled English, found in a text and judged exactly.

A text is cut into clauses at ``. , ; : ! ? ( ) < >``, line ends, quotes and the words and, but, so, then, because,
therefore. A clause that reads, as a whole, like one of these lines is a claim; every other clause is none
(`unread` lists them). Upper and lower case are equal, save for labels; runs of spaces count as one.

    exists      [there is | i see | the image shows] a NP [at the PLACE]      (or "an")
    absent      there is no NP [at the PLACE]
    count       there (is | are) N NP(s) [at the PLACE]                       N: digits, or no, zero ... ten
    place       the NP is at the PLACE                                        ("in the PLACE", "at PLACE" too)
    color       the NP is COLOR;  bar L is COLOR
    size        the NP is (big | small)
    shape       the NP is a SHAPE
    label       the NP says L
    relation    the NP is (left of | right of | above | below) the NP
    compare     there are (more | fewer) NPs than NPs;  there are as many NPs as NPs
    value       the COLOR bar is N;  bar L is N
    extreme     the COLOR bar is the (tallest | shortest);  bar L is the ...;  the (tallest | shortest) bar is COLOR

    NP     [SIZE] [COLOR] (object | bar | SHAPE);  bars have no size
    PLACE  one of the nine thirds ("top left", "center", "bottom center"), or top, bottom, left, right for a whole row
           or column
    L      a label: A to F, or cat, dog, sun, map, key, cup, bus, pen

Judgement: "there is a ..." is true if some thing fits, "there are N ..." if exactly N do. "The NP ..." is false if
nothing fits NP (it speaks of what is not there), and otherwise what holds of all that fits; true of some and false of
others is unknown. Places and relations are unknown where two people could differ (see `graph`); so is the tallest of
several bars of equal height.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from mmcredit.data.scenes.graph import (
    COLORS,
    LETTERS,
    PLACES,
    RELATIONS,
    SHAPES,
    SIDES,
    WORD_LABELS,
    Bar,
    Phrase,
    Scene,
    Thing,
    Verdict,
    is_at,
    stands,
)

ClaimKind = Literal[
    "exists", "absent", "count", "place", "color", "size", "shape", "label", "relation", "compare", "value", "extreme"
]
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


@dataclass(frozen=True)
class Claim:
    """One claim: ``text == response[start:end]``; `value` is a number, colour, size, shape, label, relation, ..."""

    kind: ClaimKind
    start: int
    end: int
    text: str
    subject: Phrase
    other: Phrase | None = None
    value: str | None = None
    place: str | None = None


def _any(words: Iterable[str]) -> str:
    return "|".join(sorted(words, key=len, reverse=True))


_SIZE, _COLOR, _SHAPE = "small|big", _any(COLORS), _any(SHAPES)
_LABEL = _any((*LETTERS, *WORD_LABELS))
_PLACE = rf"(?: (?:at|in)(?: the)? (?P<place>{_any((*PLACES, *SIDES))}))"
_N = rf"(?P<value>\d{{1,3}}|no|{_any(NUMBERS)})"


def _phrase(tag: str, plural: str = "") -> str:
    """A pattern of NP with groups size, color, shape that end in `tag`."""
    return rf"(?:(?P<size{tag}>{_SIZE}) )?(?:(?P<color{tag}>{_COLOR}) )?(?P<shape{tag}>object|bar|{_SHAPE}){plural}"


_A, _B = _phrase("a"), _phrase("b")
_BAR = rf"(?:the (?P<colora>{_COLOR}) (?P<shapea>bar)|(?P<shapea2>bar) (?P<labela>{_LABEL}))"
_PATTERNS: tuple[tuple[ClaimKind, str], ...] = (
    ("absent", rf"there is no {_A}{_PLACE}?"),
    ("exists", rf"(?:(?:there is|i see|the image shows) )?an? {_A}{_PLACE}?"),
    ("count", rf"there (?:is|are) {_N} {_phrase('a', 's?')}{_PLACE}?"),
    ("place", rf"the {_A} is{_PLACE}"),
    ("color", rf"(?:the {_A}|(?P<shapea2>bar) (?P<labela>{_LABEL})) is (?P<value>{_COLOR})"),
    ("size", rf"the {_A} is (?P<value>{_SIZE})"),
    ("shape", rf"the {_A} is an? (?P<value>{_SHAPE})"),
    ("label", rf"the {_A} says (?P<value>{_LABEL})"),
    ("relation", rf"the {_A} is (?P<value>{_any(RELATIONS)}) the {_B}"),
    ("compare", rf"there are (?P<value>more|fewer) {_phrase('a', 's')} than {_phrase('b', 's')}"),
    ("compare", rf"there are (?P<value>as many) {_phrase('a', 's')} as {_phrase('b', 's')}"),
    ("value", rf"{_BAR} is {_N}"),
    ("extreme", rf"{_BAR} is the (?P<value>tallest|shortest)"),
    ("extreme", rf"the (?P<value>tallest|shortest) (?P<shapea>bar) is (?P<colora>{_COLOR})"),
)
_COMPILED = tuple((kind, re.compile(pattern.replace(" ", r"\s+"), re.IGNORECASE)) for kind, pattern in _PATTERNS)
# A full stop or comma between digits belongs to a number.
_CUT = re.compile(r"[;!?()<>\"\n]|[.,:](?!\d)|(?<!\w)(?:and|but|so|then|because|therefore)(?!\w)", re.IGNORECASE)


def clauses(text: str) -> Iterator[tuple[int, int]]:
    """(start, end) of every clause of the text, without the spaces around it; empty ones are left out."""
    start = 0
    for end, following in [*((cut.start(), cut.end()) for cut in _CUT.finditer(text)), (len(text), len(text))]:
        clause = text[start:end]
        left = start + len(clause) - len(clause.lstrip())
        right = start + len(clause.rstrip())
        if left < right:
            yield left, right
        start = following


def claims(text: str) -> list[Claim]:
    """All claims of the text, in order, with their character spans."""
    found = (_read(text, start, end) for start, end in clauses(text))
    return [claim for claim in found if claim is not None]


def unread(text: str) -> list[tuple[int, int]]:
    """(start, end) of the clauses that are no claims."""
    return [(start, end) for start, end in clauses(text) if _read(text, start, end) is None]


def check(claim: Claim, scene: Scene) -> Verdict:
    """Whether the claim holds of the scene."""
    subject, value = claim.subject, claim.value
    if claim.kind in ("exists", "absent", "count"):
        return _check_number(claim, scene)
    if claim.kind == "compare":
        assert claim.other is not None
        a, b = subject.count(scene), claim.other.count(scene)
        return _verdict(a > b if value == "more" else a < b if value == "fewer" else a == b)
    if claim.kind == "relation":
        assert claim.other is not None
        assert value is not None
        pairs = [(a, b) for a in subject.things(scene) for b in claim.other.things(scene) if a is not b]
        return _of_all(stands((a.x, a.y), value, (b.x, b.y)) for a, b in pairs)
    if subject.shape == "bar":
        return _of_all(_check_bar(claim, bar, scene) for bar in subject.bars(scene))
    return _of_all(_check_thing(claim, thing) for thing in subject.things(scene))


def slots(claim: Claim) -> list[tuple[str, int, int]]:
    """What can be exchanged in a claim, in order: (name, start, end) in the claim's text.

    Names: size, color, shape, label of the subject, the same with "other " before them, value, place.
    """
    pattern = next(p for kind, p in _COMPILED if kind == claim.kind and p.fullmatch(claim.text))
    match = pattern.fullmatch(claim.text)
    assert match is not None
    found = []
    for group in match.groupdict():
        if match.group(group):
            name = group.rstrip("2")
            if name not in ("value", "place"):
                name = ("other " if name.endswith("b") else "") + name[:-1]
            found.append((name, *match.span(group)))
    return sorted(found, key=lambda slot: slot[1])


def _check_number(claim: Claim, scene: Scene) -> Verdict:
    """How many fit, for certain and at most, against how many are claimed."""
    subject = claim.subject
    if claim.place is None:
        certain = possible = subject.count(scene)
    else:
        verdicts = [is_at(thing, claim.place) for thing in subject.things(scene)]
        certain, possible = verdicts.count("true"), len(verdicts) - verdicts.count("false")
    if claim.kind == "count":
        number = _number(claim.value)
        return _verdict(certain == number) if certain == possible or not certain <= number <= possible else "unknown"
    there: Verdict = "true" if certain else "unknown" if possible else "false"
    return there if claim.kind == "exists" else {"true": "false", "false": "true", "unknown": "unknown"}[there]  # type: ignore[return-value]


def _check_thing(claim: Claim, thing: Thing) -> Verdict:
    if claim.kind == "place":
        assert claim.place is not None
        return is_at(thing, claim.place)
    return _verdict(getattr(thing, claim.kind) == claim.value)


def _check_bar(claim: Claim, bar: Bar, scene: Scene) -> Verdict:
    if claim.kind == "value":
        return _verdict(bar.value == _number(claim.value))
    if claim.kind == "color":
        return _verdict(bar.color == claim.value)
    if claim.kind == "label":
        return _verdict(bar.label == claim.value)
    if claim.kind != "extreme":
        return "unknown" if claim.kind == "place" else "false"  # bars have no size, no other shape
    values = [other.value for other in scene.bars]
    best = max(values) if claim.value == "tallest" else min(values)
    return "false" if bar.value != best else _verdict(True) if values.count(best) == 1 else "unknown"


def _read(text: str, start: int, end: int) -> Claim | None:
    for kind, pattern in _COMPILED:
        match = pattern.fullmatch(text, start, end)
        if match is None:
            continue
        groups = match.groupdict()
        subject, other = _phrase_of(groups, "a"), _phrase_of(groups, "b") if "shapeb" in groups else None
        value, place = (
            " ".join(groups[name].lower().split()) if groups.get(name) else None for name in ("value", "place")
        )
        if kind == "label":
            value = _label(groups["value"])
            if value is None:
                return None
        if any(p is not None and p.shape == "bar" and p.size for p in (subject, other)):
            return None
        return Claim(kind, start, end, text[start:end], subject, other, value, place)
    return None


def _phrase_of(groups: dict[str, str | None], tag: str) -> Phrase:
    size, color = (groups.get(name + tag) for name in ("size", "color"))
    shape = (groups.get(f"shape{tag}") or groups.get(f"shape{tag}2") or "").lower()
    label = groups.get(f"label{tag}")
    return Phrase(
        size.lower() if size else None,
        color.lower() if color else None,
        None if shape == "object" else shape,
        _label(label) if label else None,
    )


def _label(word: str | None) -> str | None:
    """A label in its own case; None for a letter written small, which is a word of its own ("a")."""
    if word is None or len(word) == 1:
        return word if word in LETTERS else None
    return word.lower()


def _number(text: str | None) -> int:
    assert text is not None
    return 0 if text == "no" else NUMBERS.index(text) if text in NUMBERS else int(text)


def _verdict(holds: bool) -> Verdict:
    return "true" if holds else "false"


def _of_all(verdicts: Iterable[Verdict]) -> Verdict:
    """What holds of everything that a description fits; of nothing, the description itself is false."""
    different = set(verdicts)
    if not different:
        return "false"
    return different.pop() if len(different) == 1 else "unknown"
