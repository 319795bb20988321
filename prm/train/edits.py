"""Minimal edits of responses: one word of a statement exchanged for another of its kind."""

from __future__ import annotations

import random
import re

from mmcredit.data.scenes.graph import COLORS, PLACES, RELATIONS, SHAPES
from prm.oracles import COLORS as VQA_COLORS
from prm.spans import think_zone

# Words that may stand for each other; of two kinds that a phrase belongs to, the longer phrase is exchanged.
SCENES = (
    tuple(COLORS),
    SHAPES,
    tuple(f"{shape}s" for shape in SHAPES),
    ("big", "small"),
    PLACES,
    RELATIONS,
    tuple(str(n) for n in range(10)),
    ("more", "fewer"),
    ("tallest", "shortest"),
)
EASY_VQA = (VQA_COLORS, ("circle", "rectangle", "triangle"))


def edited(response: str, kinds: tuple[tuple[str, ...], ...], rng: random.Random, number: int = 1) -> str | None:
    """The response with `number` words of its reasoning exchanged, each for another of its kind; None if it has none.

    What comes out need not be false (a second red circle may be there too): the annotator decides.
    """
    start, end = think_zone(response)
    thought = response[start:end]
    words = {word: kind for kind in kinds for word in kind}
    pattern = "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))
    places = list(re.finditer(rf"(?<!\w)(?:{pattern})(?!\w)", thought))
    if not places:
        return None
    for match in sorted(rng.sample(places, min(number, len(places))), key=lambda m: m.start(), reverse=True):
        other = rng.choice([word for word in words[match.group()] if word != match.group()])
        thought = thought[: match.start()] + other + thought[match.end() :]
    return response[:start] + thought + response[end:]
