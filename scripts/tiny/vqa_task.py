"""easy-VQA as the cold start uses it: true answers about pictures, and imagined scenes without one."""

import random
import re
from dataclasses import dataclass

from tiny import vqa
from tiny.batches import Pixels
from tiny.task import Example
from tiny.vqa import COLORS, SHAPES, Question

IMAGE_TOKENS = 16


@dataclass
class VqaTask:
    """The train split; `validation` images take no part in any gradient."""

    questions: list[Question]
    scenes: dict[int, tuple[str, str]]
    validation: list[Question]
    pixels: Pixels
    image_tokens: int = IMAGE_TOKENS
    kinds: tuple[str, ...] = ("easy-vqa",)
    checked: int = 150
    max_new_tokens: int = 16
    content: frozenset[str] = frozenset((*SHAPES, *COLORS))

    def imagined(self, rng: random.Random, size: int) -> list[Example]:
        """Questions of the train split about scenes that were never drawn."""
        questions = rng.sample(self.questions, size)
        return [
            Example(q.text, vqa.response(q.text, *imagined_scene(q.text, rng)), image=None, answer="")
            for q in questions
        ]

    def looked(self, rng: random.Random, kind: str, size: int) -> list[Example]:
        """Questions with their pictures and the true response."""
        return [
            Example(q.text, vqa.response(q.text, *self.scenes[q.image]), q.image, q.answer)
            for q in rng.sample(self.questions, size)
        ]

    def held_out(self, kind: str, size: int) -> list[Example]:
        """Open questions about the validation images."""
        chosen = [q for q in self.validation if q.text.startswith("what")][:size]
        return [Example(q.text, "", q.image, q.answer) for q in chosen]


def imagined_scene(text: str, rng: random.Random) -> tuple[str, str]:
    """A random scene, such that half of the yes/no questions name something that is in it.

    Without the balance, 7 of 8 colour questions have one answer and the model settles for that.
    """
    color, shape = vqa.random_scene(rng)
    if not text.startswith("what") and rng.random() < 0.5:
        named = next(word for word in re.findall(r"\w+", text) if word in SHAPES + COLORS)
        return (named, shape) if named in COLORS else (color, named)
    return color, shape
