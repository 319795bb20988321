"""A row of a benchmark in the common form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
AnswerType = Literal["letter", "letters", "number", "text", "yesno", "list"]


@dataclass(frozen=True)
class Item:
    """One row in the common form, before its pictures are read."""

    id: str  # the benchmark's own id; the loader puts benchmark and split in front
    question: str  # the problem with "<image>" where a picture stands
    answer: str | None  # reference in the benchmark's own form; None where a split hides it
    answer_type: AnswerType
    images: tuple[str, ...] = ()  # media columns in the order of the placeholders; each must be filled
    spare_images: tuple[str, ...] = ()  # further media columns; filled ones are put in front
    choices: tuple[str, ...] | None = None  # option texts, first = A
    letter: str | None = None  # the letter of the reference, where it is one of the choices
    flags: tuple[str, ...] = ()  # what is wrong with the row, counted in the summary
    meta: Mapping[str, Any] = field(default_factory=dict)  # what scoring and subgroups need

    def options(self, line: str = "{letter}. {text}") -> str:
        """The choices, one a line."""
        return "\n".join(
            line.format(letter=letter, text=text) for letter, text in zip(LETTERS, self.choices or (), strict=False)
        )
