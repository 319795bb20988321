"""Questions about scenes, the answer drawn before the scene, and the ideal response.

Question text and answer are drawn first, independently of each other, the answer uniformly from what the form can have
for an answer; then a scene is made in which it is the right one. So the text tells nothing about the answer, and a
solver without the image is right as often as one answer of its form is drawn: 1 in 6 for a colour of level `easy`, 1
in 2 for yes or no.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from mmcredit.data.scenes.graph import (
    OPPOSITE,
    PLACES,
    RELATIONS,
    Phrase,
    Scene,
    Thing,
    at_a_border,
    in_reading_order,
    place_at,
    place_of,
    stands,
)
from mmcredit.data.scenes.layout import Lots, Position, Setting, arrange, bars, labelled, others

Kind = Literal["attribute", "count", "relation", "comparison", "chart"]
MOST_COUNTED = 4

Made = tuple[Scene, list[str]]  # the scene, and the claims that lead to the answer
Make = Callable[[Lots], Made | None]  # None: this draw led nowhere, draw again


@dataclass(frozen=True)
class Question:
    """One question about one scene. `claims` are true statements from which the answer follows."""

    kind: Kind
    form: str
    text: str
    answer: str
    scene: Scene
    claims: tuple[str, ...]

    def response(self, describe: bool = False) -> str:
        """The ideal response: ``<think>The red circle is at the top left. ...</think><answer>...</answer>``.

        `describe`: all that the picture shows comes first, in reading order, then the claims that lead to the answer.
        """
        claims = dict.fromkeys([*description(self.scene), *self.claims] if describe else self.claims)
        thought = ". ".join(claims) + "."
        return f"<think>{thought[0].upper()}{thought[1:]}</think><answer>{self.answer}</answer>"


@dataclass(frozen=True)
class Draft:
    """A question with its answer, before there is a scene."""

    text: str
    answer: str
    make: Make


def description(scene: Scene) -> list[str]:
    """A true claim about everything in the picture, in reading order."""
    if scene.bars:
        return [f"the {bar.color} bar is {bar.value}" for bar in scene.bars]
    return [f"there is {_a(thing)} at the {place_of(thing)}" for thing in in_reading_order(scene.things)]


def _the_is_at(phrase: Phrase, thing: Thing) -> str:
    return f"{phrase.the()} is at the {place_of(thing)}"


def _a(thing: Thing) -> str:
    return f"{'an' if thing.color[0] in 'aeiou' else 'a'} {thing.color} {thing.shape}"


# --- attribute


def color(lots: Lots, setting: Setting) -> Draft:
    """What colour the one thing of a shape (and perhaps a size) has."""
    phrase = Phrase(size=lots.one((None, "small", "big")), shape=lots.one(setting.level.shapes))
    answer = lots.one(setting.level.colors)
    return _attribute(setting, f"what color is {phrase.the()}?", answer, phrase, {"color": answer})


def shape(lots: Lots, setting: Setting) -> Draft:
    """What shape the one thing of a colour (and perhaps a size) has."""
    phrase = Phrase(size=lots.one((None, "small", "big")), color=lots.one(setting.level.colors))
    answer = lots.one(setting.level.shapes)
    return _attribute(setting, f"what shape is {phrase.the()}?", answer, phrase, {"shape": answer})


def size(lots: Lots, setting: Setting) -> Draft:
    """Whether the one thing of a colour and shape is big or small."""
    phrase = _one_thing(lots, setting)
    answer = lots.one(("small", "big"))
    return _attribute(setting, f"what size is {phrase.the()}?", answer, phrase, {"size": answer})


def _attribute(setting: Setting, text: str, answer: str, phrase: Phrase, wanted: dict[str, str]) -> Draft:
    def make(lots: Lots) -> Made | None:
        target = _fit(lots, setting, phrase, **wanted)
        made = _scatter(lots, setting, [target], lambda thing: not phrase.matches(thing))
        if made is None:
            return None
        article = "a " if "shape" in wanted else ""
        claims = [_the_is_at(phrase, made[0]), f"{phrase.the()} is {article}{answer}"]
        return Scene(labelled(lots, setting, made)), claims

    return Draft(text, answer, make)


def place(lots: Lots, setting: Setting) -> Draft:
    """In which of nine places the one thing of a colour and shape is."""
    phrase, answer = _one_thing(lots, setting), lots.one(PLACES)

    def there(positions: list[Position]) -> bool:
        return place_at(positions[0]) == answer and not at_a_border(positions[0])

    def make(lots: Lots) -> Made | None:
        target = _fit(lots, setting, phrase)
        made = _scatter(lots, setting, [target], lambda thing: not phrase.matches(thing), there)
        if made is None:
            return None
        return Scene(labelled(lots, setting, made)), [_the_is_at(phrase, made[0])]

    return Draft(f"where is {phrase.the()}?", answer, make)


def label(lots: Lots, setting: Setting) -> Draft:
    """What is written on the one thing of a colour and shape. Labels stand on big things."""
    phrase, answer = _one_thing(lots, setting), lots.one(setting.level.labels)

    def make(lots: Lots) -> Made | None:
        target = _fit(lots, setting, phrase, size="big", label=answer)
        made = _scatter(lots, setting, [target], lambda thing: not phrase.matches(thing))
        if made is None:
            return None
        claims = [_the_is_at(phrase, made[0]), f"{phrase.the()} says {answer}"]
        return Scene(labelled(lots, setting, made, keep=(0,))), claims

    return Draft(f"what is written on {phrase.the()}?", answer, make)


# --- count


def count(lots: Lots, setting: Setting) -> Draft:
    """How many things of a colour, a shape or both there are, from 0 to 4."""
    level = setting.level
    phrase = lots.one(
        (
            Phrase(color=lots.one(level.colors)),
            Phrase(shape=lots.one(level.shapes)),
            Phrase(color=lots.one(level.colors), shape=lots.one(level.shapes)),
        )
    )
    number = lots.between(0, min(MOST_COUNTED, setting.most))
    return _count(setting, phrase, number)


def count_all(lots: Lots, setting: Setting) -> Draft:
    """How many things there are."""
    return _count(setting, Phrase(), lots.between(setting.fewest, setting.most))


def _count(setting: Setting, phrase: Phrase, number: int) -> Draft:
    def make(lots: Lots) -> Made | None:
        counted = [_fit(lots, setting, phrase) for _ in range(number)]
        everything = phrase == Phrase()
        made = _scatter(lots, setting, counted, lambda thing: not phrase.matches(thing), alone=everything)
        if made is None:
            return None
        found = in_reading_order(made[:number])
        claims = [f"there is {_a(t)} at the {place_of(t)}" for t in found]
        claims = [", ".join([claims[0], *(c.removeprefix("there is ") for c in claims[1:])])] if claims else []
        return Scene(labelled(lots, setting, made)), [*claims, _count_claim(phrase, number)]

    return Draft(f"how many {phrase.text(plural=True)} are there?", str(number), make)


def _count_claim(phrase: Phrase, number: int) -> str:
    verb = "is" if number == 1 else "are"
    return f"there {verb} {number} {phrase.text(plural=number != 1)}"


# --- relation


def relation_color(lots: Lots, setting: Setting) -> Draft:
    """What colour the one thing on one side of another has."""
    return _relation(lots, setting, "color", setting.level.colors, "what color is the object {}?")


def relation_shape(lots: Lots, setting: Setting) -> Draft:
    """What shape the one thing on one side of another has."""
    return _relation(lots, setting, "shape", setting.level.shapes, "what shape is the object {}?")


def _relation(lots: Lots, setting: Setting, asked: str, answers: tuple[str, ...], text: str) -> Draft:
    phrase, relation, answer = _one_thing(lots, setting), lots.one(RELATIONS), lots.one(answers)

    def only_the_second(positions: list[Position]) -> bool:
        verdicts = [stands(position, relation, positions[0]) for position in positions[1:]]
        return verdicts[0] == "true" and all(verdict == "false" for verdict in verdicts[1:])

    def make(lots: Lots) -> Made | None:
        target = _fit(lots, setting, Phrase(**{asked: answer}))
        if phrase.matches(target):
            return None
        things = [_fit(lots, setting, phrase), target]
        made = _scatter(lots, setting, things, lambda thing: not phrase.matches(thing), only_the_second)
        if made is None:
            return None
        there = f"there is {_a(made[1])} at the {place_of(made[1])}"
        return Scene(labelled(lots, setting, made)), [_the_is_at(phrase, made[0]), there]

    return Draft(text.format(f"{relation} {phrase.the()}"), answer, make)


def relation_yes_no(lots: Lots, setting: Setting) -> Draft:
    """Whether one thing is on one side of another; if not, it is on the opposite side."""
    a, b = _one_thing(lots, setting), _one_thing(lots, setting)
    while a == b:
        b = _one_thing(lots, setting)
    asked, answer = lots.one(RELATIONS), lots.one(("yes", "no"))
    true = asked if answer == "yes" else OPPOSITE[asked]

    def make(lots: Lots) -> Made | None:
        made = _scatter(
            lots,
            setting,
            [_fit(lots, setting, a), _fit(lots, setting, b)],
            lambda thing: not a.matches(thing) and not b.matches(thing),
            lambda positions: stands(positions[0], true, positions[1]) == "true",
        )
        if made is None:
            return None
        claims = [_the_is_at(a, made[0]), _the_is_at(b, made[1]), f"{a.the()} is {true} {b.the()}"]
        return Scene(labelled(lots, setting, made)), claims

    return Draft(f"is {a.the()} {asked} {b.the()}?", answer, make)


# --- comparison


def more_or_fewer(lots: Lots, setting: Setting) -> Draft:
    """Whether there are more things of one colour (shape) than of another, fewer, or the same number."""
    if lots.chance(0.5):
        a, b = (Phrase(color=word) for word in lots.some(setting.level.colors, 2))
    else:
        a, b = (Phrase(shape=word) for word in lots.some(setting.level.shapes, 2))
    answer = lots.one(("more", "fewer", "same"))
    numbers = range(min(3, setting.most) + 1)
    pairs = [
        (m, n)
        for m in numbers
        for n in numbers
        if 0 < m + n <= setting.most and answer == ("more" if m > n else "fewer" if m < n else "same")
    ]

    def make(lots: Lots) -> Made | None:
        m, n = lots.one(pairs)
        things = [_fit(lots, setting, a) for _ in range(m)] + [_fit(lots, setting, b) for _ in range(n)]
        made = _scatter(lots, setting, things, lambda thing: not a.matches(thing) and not b.matches(thing))
        if made is None:
            return None
        return Scene(labelled(lots, setting, made)), [_count_claim(a, m), _count_claim(b, n)]

    text = f"are there more or fewer {a.text(plural=True)} than {b.text(plural=True)}?"
    return Draft(text, answer, make)


def tallest(lots: Lots, setting: Setting) -> Draft:
    """Which bar, by colour, is the tallest."""
    return _extreme(lots, setting, "tallest")


def shortest(lots: Lots, setting: Setting) -> Draft:
    """Which bar, by colour, is the shortest."""
    return _extreme(lots, setting, "shortest")


def _extreme(lots: Lots, setting: Setting, word: str) -> Draft:
    answer, highest = lots.one(setting.level.colors), setting.level.highest

    def make(lots: Lots) -> Made | None:
        if word == "tallest":
            best = lots.between(2, highest)
            chart = bars(lots, setting, {answer: best}, lambda lots: lots.between(1, best - 1))
        else:
            best = lots.between(1, highest - 1)
            chart = bars(lots, setting, {answer: best}, lambda lots: lots.between(best + 1, highest))
        claims = ", ".join(f"the {bar.color} bar is {bar.value}" for bar in chart)
        return Scene(bars=chart, axis=setting.level.axis), [claims]

    return Draft(f"which bar is the {word}?", answer, make)


# --- chart


def value(lots: Lots, setting: Setting) -> Draft:
    """The value of the bar of a colour."""
    asked, number = lots.one(setting.level.colors), lots.between(1, setting.level.highest)

    def make(lots: Lots) -> Made | None:
        chart = bars(lots, setting, {asked: number})
        return Scene(bars=chart, axis=setting.level.axis), [f"the {asked} bar is {number}"]

    return Draft(f"what is the value of the {asked} bar?", str(number), make)


def bar_color(lots: Lots, setting: Setting) -> Draft:
    """The colour of the bar over a letter."""
    number, answer = lots.below(setting.level.bars[0]), lots.one(setting.level.colors)

    def make(lots: Lots) -> Made | None:
        chart = bars(lots, setting, {answer: lots.between(1, setting.level.highest)})
        if chart[number].color != answer or chart[number].label is None:
            return None
        return Scene(bars=chart, axis=setting.level.axis), [f"bar {chart[number].label} is {answer}"]

    return Draft(f"what color is bar {'ABCDEF'[number]}?", answer, make)


def total(lots: Lots, setting: Setting) -> Draft:
    """The sum of two bars."""
    a, b = lots.some(setting.level.colors, 2)
    highest = setting.level.highest
    number = lots.between(2, 2 * highest)

    def make(lots: Lots) -> Made | None:
        first = lots.between(max(1, number - highest), min(highest, number - 1))
        chart = bars(lots, setting, {a: first, b: number - first})
        claims = f"the {a} bar is {first}, the {b} bar is {number - first}"
        return Scene(bars=chart, axis=setting.level.axis), [claims]

    return Draft(f"what is the total of the {a} bar and the {b} bar?", str(number), make)


# --- what they share


def _one_thing(lots: Lots, setting: Setting) -> Phrase:
    return Phrase(color=lots.one(setting.level.colors), shape=lots.one(setting.level.shapes))


def _fit(lots: Lots, setting: Setting, phrase: Phrase, **fixed: str) -> Thing:
    """A random thing that fits the phrase and these attributes."""
    free = setting.level.any_thing(lots)
    return Thing(
        fixed.get("shape") or phrase.shape or free.shape,
        fixed.get("color") or phrase.color or free.color,
        fixed.get("size") or phrase.size or free.size,
        -1,
        -1,
        fixed.get("label"),
    )


def _scatter(
    lots: Lots,
    setting: Setting,
    fixed: list[Thing],
    allowed: Callable[[Thing], bool],
    accept: Callable[[list[Position]], bool] | None = None,
    alone: bool = False,
) -> list[Thing] | None:
    """The fixed things, first and in order, and others beside them, at their places."""
    rest = [] if alone else others(lots, setting, fixed, allowed)
    if not alone and len(fixed) + len(rest) < setting.fewest:
        return None
    return arrange(lots, setting, [*fixed, *rest], accept)


Form = Callable[[Lots, Setting], Draft]
# Two lists per kind: forms of every difficulty, and those from `medium` on.
FORMS: dict[Kind, tuple[tuple[Form, ...], tuple[Form, ...]]] = {
    "attribute": ((color, shape, place, label), (size,)),
    "count": ((count,), (count_all,)),
    "relation": ((relation_color, relation_shape, relation_yes_no), ()),
    "comparison": ((more_or_fewer, tallest, shortest), ()),
    "chart": ((value,), (bar_color, total)),
}
KINDS: tuple[Kind, ...] = tuple(FORMS)
