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
    """A source of examples with pictures."""

    kinds: tuple[str, ...]
    checked: int  # held-out examples of a kind
    image_tokens: int
    max_new_tokens: int
    pixels: Any

    def looked(self, rng: random.Random, kind: str, size: int) -> list[Example]:
        """Examples of a kind with a picture, to learn from."""

    def held_out(self, kind: str, size: int) -> list[Example]:
        """Examples of a kind with a picture, to measure on."""


class ImaginingTask(Task, Protocol):
    """One that also makes examples without a picture; `content` are the words that such a question cannot tell."""

    content: frozenset[str]

    def imagined(self, rng: random.Random, size: int) -> list[Example]:
        """Examples without a picture."""


class GuessingTask(Task, Protocol):
    """One that also makes responses that do not look."""

    def guessed(self, rng: random.Random, kind: str, size: int, share: float) -> list[Example]:
        """As `looked`; in a `share` of them the response belongs to another picture and the same question."""
