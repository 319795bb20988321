"""What a task gives the cold start."""

import random
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Example:
    """A question, the response to learn, the number of its picture (None: imagined), the reference answer."""

    question: str
    response: str
    image: int | None
    answer: str


class Task(Protocol):
    """A source of examples; `content` are the words that a question without its picture cannot tell."""

    kinds: tuple[str, ...]
    content: frozenset[str]
    image_tokens: int
    max_new_tokens: int
    pixels: Any

    def imagined(self, rng: random.Random, size: int) -> list[Example]:
        """Examples without a picture."""

    def looked(self, rng: random.Random, kind: str, size: int) -> list[Example]:
        """Examples of a kind with a picture, to learn from."""

    def held_out(self, kind: str, size: int) -> list[Example]:
        """Examples of a kind with a picture, to measure on."""
