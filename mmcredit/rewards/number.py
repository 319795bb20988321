"""Reward: the answer is the reference number, exactly or within a tolerance."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Literal

from pydantic import Field

from mmcredit.answers.extract import Extraction, last_number, normalise
from mmcredit.answers.item import RewardItem
from mmcredit.answers.references import ANSWERS_KEY, answer_in, references
from mmcredit.components import register
from mmcredit.rewards.base import Reward
from mmcredit.rewards.equality.spelled import only_number, spelled

_PROSE = 2000  # characters of an answer without digits that are looked through for a number in words


@register("reward", "number")
class Number(Reward):
    r"""1 if the last number of the answer equals the reference number, else 0.

    The text searched is the last ``<answer>`` tag pair, the last ``\boxed{}`` or the whole response (`extract`); of
    several numbers in it the last counts ("3 + 4 = 7" says 7). Read are signs, thousands commas, decimals, ``3/4``,
    ``2 1/2``, ``\frac{3}{4}``, ``1.5e-3``, ``1.5 \times 10^{-3}``, "1.5 million" and percents ("50 percent"), digits of
    any script, thousands of other countries where they cannot be anything else ("1.234.567", "12,34,567"), and, in an
    answer without digits, its only number in English words ("twenty-one", "five cats"). A decimal comma is not read.

    Equal means ``|x - y| <= max(abs_tol, rel_tol * |y|)`` with the reference y, in exact fractions: with both
    tolerances 0 (the default) "0.5", "1/2" and "50%" are equal, "0.333" and "1/3" are not. ChartQA's relaxed accuracy
    is `rel_tol: 0.05`.

    The reference is the last number of the sample's answer ("so 42 apples #### 42" says 42); further right ones may
    stand in ``meta[answers_key]``. A reference without a number is an error; a sample without a reference is not
    applicable.
    """

    extract: Extraction = Field("tag", description="where the answer stands: tag, boxed or whole")
    tag: str = Field("answer", description="name of the tag for `extract: tag`", pattern=r"^[A-Za-z_][\w-]*$")
    abs_tol: float = Field(0.0, ge=0, allow_inf_nan=False, description="largest absolute difference that is right")
    rel_tol: float = Field(0.0, ge=0, allow_inf_nan=False, description="the same, relative to the reference")
    percent: Literal["divide", "keep"] = Field("divide", description="50% is 0.5 (divide) or 50 (keep), on both sides")
    answers_key: str = Field(ANSWERS_KEY, description="key of meta with a list of further right answers")

    def __call__(self, items: Sequence[RewardItem]) -> list[float | None]:
        return [self._value(item) for item in items]

    def _value(self, item: RewardItem) -> float | None:
        right = references(item, self.answers_key, self.tag)
        if not right:
            return None
        targets = [self._number(text) for text in right]
        if None in targets:
            raise ValueError(f"reference answer {right[targets.index(None)]!r} has no number in it")
        found = answer_in(item.response, self.extract, self.tag)
        value = None if found is None else self._number(found)
        return float(value is not None and any(self._equal(value, y) for y in targets if y is not None))

    def _number(self, text: str) -> Fraction | None:
        words = spelled(normalise(text))
        if words is None and not any(char.isdigit() for char in text):
            words = only_number(text[:_PROSE])
        return last_number(text, self.percent) if words is None else Fraction(words)

    def _equal(self, value: Fraction, target: Fraction) -> bool:
        return abs(value - target) <= max(Fraction(self.abs_tol), Fraction(self.rel_tol) * abs(target))
