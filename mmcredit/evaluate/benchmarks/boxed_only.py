"""Benchmarks that have no scoring of their own: a boxed answer and MathRuler's rule are their official way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from mmcredit.data.benchmarks.item import Item
from mmcredit.evaluate.benchmarks.base import BOXED, Benchmark
from mmcredit.evaluate.benchmarks.rules import boxed

if TYPE_CHECKING:
    from mmcredit.data.sample import Sample
    from mmcredit.evaluate.benchmarks.steps import Steps


class BoxedOnly(Benchmark):
    """A benchmark whose only scoring is `rl`; `official` is the same rule and prompt."""

    scoring: Literal["official", "rl"] = Field(default="rl", description="rl; official is the same here")

    def official_prompt(self, item: Item) -> str:
        listed = f"\nChoices:\n{item.options('({letter}) {text}')}" if item.choices else ""
        return f"{item.question}{listed}\n\n{BOXED}"

    def judge(self, sample: Sample, response: str) -> Steps:
        return boxed.steps([sample.answer or ""], response, "official")
