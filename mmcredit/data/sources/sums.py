"""Sums of two whole numbers: every pair below two bounds, once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
from pydantic import Field

from mmcredit.components import register
from mmcredit.data.sources.base import Rows, TableSource
from mmcredit.data.splits import in_test
from mmcredit.seeds import derive


@register("source", "sums")
class Sums(TableSource):
    """Sums a + b with a below `a_below` and b below `b_below`: a first job for a small language model.

        source:
          - sums: {a_below: 30, b_below: 10, split: train, template: "{{ content }}\\nReply with the number only."}

    Every pair comes once, in a seeded order. A question belongs to `test` (a fifth of all) or to `train` by a hash of
    its text, whatever seed and bounds: the two splits share no question. The bare question is "What is a + b?"; say in
    `template` or `system` in which form the answer is wanted, and give the reward the same form. Answers are whole
    numbers: use the reward `number`. Columns: `question`, `answer`, `a`, `b`. Ids are sums/split/a+b.
    """

    a_below: int = Field(default=30, ge=1, le=1000, description="first number: 0 to this, exclusive")
    b_below: int = Field(default=10, ge=1, le=1000, description="second number: 0 to this, exclusive")
    seed: int = Field(default=0, ge=0, description="order of the questions")
    split: Literal["train", "test"] = Field(default="train", description="which questions")

    def rows(self) -> Rows:
        return SumRows(self)

    def describe(self) -> str:
        return f"{self.name} ({self.split})"


class SumRows:
    """The questions of one split. Raises ValueError if the bounds leave it empty."""

    def __init__(self, source: Sums) -> None:
        self._source = source
        pairs = [(a, b) for a in range(source.a_below) for b in range(source.b_below)]
        wanted = source.split == "test"
        own = [(a, b) for a, b in pairs if in_test(_question(a, b)) == wanted]
        if not own:
            raise ValueError(
                f"source {source.describe()}: none of the {len(pairs)} sums belongs to this split; raise a_below "
                f"{source.a_below} or b_below {source.b_below}"
            )
        # `RandomState`: its streams are frozen (NEP 19), so that a resumed run sees the same order.
        order = np.random.RandomState(derive(source.seed, "sums", source.split) % 2**32).permutation(len(own))
        self._pairs = [own[int(i)] for i in order]

    def __len__(self) -> int:
        return len(self._pairs)

    def columns(self) -> list[str]:
        return ["question", "answer", "a", "b"]

    def column(self, name: str) -> Iterator[Any]:
        for index in range(len(self)):
            yield self.read(index).get(name)

    def read(self, index: int) -> dict[str, Any]:
        a, b = self._pairs[index]
        return {"question": _question(a, b), "answer": str(a + b), "a": a, "b": b}

    def place(self, index: int) -> str:
        return self.id(index)

    def id(self, index: int) -> str:
        a, b = self._pairs[index]
        return f"sums/{self._source.split}/{a}+{b}"


def _question(a: int, b: int) -> str:
    return f"What is {a} + {b}?"
