"""Reward: the answer says the same as the reference, as mathematics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pydantic import Field

from mmcredit.answers.extract import Extraction, after_thoughts
from mmcredit.answers.item import RewardItem
from mmcredit.answers.references import ANSWERS_KEY, answer_in, references
from mmcredit.components import register
from mmcredit.rewards.base import Reward
from mmcredit.rewards.stated import boxed_together, stated


@register("reward", "math")
class MathAnswer(Reward):
    r"""1 if the answer says the same as the reference, as mathematics, else 0.

    The answer is the last complete ``\boxed{...}`` (`extract: boxed`; boxes that are parts of one answer, as in
    ``\boxed{1} or \boxed{2}``, count as one), the last ``<answer>`` tag pair (`tag`), or what the whole response states
    last (`whole`): its last box or tag pair, else what follows the last "answer is", else the last formulas or the last
    number of its last line. What stands before ``</think>`` is not looked at. Nothing found earns 0.

    The kind of answer decides, like is compared with like, and in doubt an answer is wrong:

    - Numbers are exact: "1,000" = 1000 = "10^3", 1/2 = 0.5 = 50 %, 2 1/2 = 5/2, 1.2e5, ``0.\overline{3}`` = 1/3. A
      rounded decimal is wrong for an exact reference (0.333 for 1/3, 3.14 for pi), however many its digits. Only where
      the reference itself is a decimal of eight digits and more, the exact value that it rounds is right. The bare 50
      is not 50 %; a decimal comma ("0,5") and a ratio for a fraction (3:4 for 3/4) are wrong. "1.234.567", "1.234,5"
      and "12,34,567" are numbers where the other side is one.
    - A unit or currency may be left out on either side; another one is wrong unless it says the same (100 cm, 1 m).
    - Expressions are compared by their values at random points on both sides of 0: expanded, factored, other roots and
      logarithms. ``\sqrt{x^2}`` is not x.
    - Pairs, tuples and intervals keep order and brackets: [0, 1) is not (0, 1), a pair is no list ("3, 4" for (3, 4) is
      wrong; "x = 3, y = 4" is right). A column vector may be written as a tuple; a row may not.
    - Sets and lists of solutions have any order and must be complete: "2 or 3", {2, 3} and "x = 3 or x = 2" are the
      same, 3 alone is wrong, and so is 0 for the set {0}.
    - Equations in several variables are the same up to a constant factor; one of a single unknown must be solved.
      "x = 3", "f(x) = 2x", "A = pi r^2" say what stands on the right; the line "y = 2x + 3" is not said by 2x + 3.
    - An inequality in one variable is the interval that it is. Matrices go entry by entry; brackets may differ, bars
      (a determinant) may not.
    - Words are compared without case, articles and punctuation; an option letter may carry its text ("C) 24").
      What cannot be read as any of these is compared as text.

    Further right answers may stand in ``meta[answers_key]``; a sample without a reference is not applicable. An
    answer that is stored wrapped in a box or a tag, or at the end of a worked solution, is taken out first.

    Differs from math-verify, which of a plain text keeps the last number and so pays for "(3, 5)" where (4, 5) is
    right; benchmarks/rewards.md has both on the same pairs. Sizes are bounded before anything is computed
    ("9^{9^{9^9}}" is wrong at once), and the worker is killed when `timeout` has passed all the same.
    """

    extract: Extraction = Field("boxed", description="where the answer stands: boxed, tag or whole")
    tag: str = Field("answer", description="name of the tag for `extract: tag`", pattern=r"^[A-Za-z_][\w-]*$")
    answers_key: str = Field(ANSWERS_KEY, description="key of meta with a list of further right answers")

    def prepare(self) -> None:
        """Import the parser, so that the first answer is not late."""
        from mmcredit.rewards.equality import compare  # noqa: F401

    def __call__(self, items: Sequence[RewardItem]) -> list[float | None]:
        return [self._value(item) for item in items]

    def _value(self, item: RewardItem) -> float | None:
        from mmcredit.rewards.equality.compare import equal  # configs are checked without mpmath

        several = boxed_together(item.answer) if isinstance(item.answer, str) else None
        right = references(item if several is None else replace(item, answer=several), self.answers_key, self.tag)
        if not right:
            return None
        found = boxed_together(after_thoughts(item.response)) if self.extract == "boxed" else None
        found = found or answer_in(item.response, self.extract, self.tag)
        if found is not None and self.extract == "whole":
            found = stated(found, self.tag)
        if found is None or not found.strip():
            return 0.0
        return float(any(equal(found, reference) for reference in right))
