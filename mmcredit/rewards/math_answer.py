"""Reward: the answer says the same as the reference, as mathematics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pydantic import Field

from mmcredit.answers.extract import Extraction
from mmcredit.answers.item import RewardItem
from mmcredit.answers.references import ANSWERS_KEY, answer_in, references
from mmcredit.components import register
from mmcredit.rewards.base import Reward
from mmcredit.rewards.stated import boxed_together, stated


@register("reward", "math")
class MathAnswer(Reward):
    r"""1 if the answer says the same as the reference, as mathematics, else 0.

    The answer is the last complete ``\boxed{...}`` (`extract: boxed`), the last ``<answer>`` tag pair (`tag`), or what
    the whole response states last (`whole`): its last box or tag pair, else what follows the last "answer is", else the
    last formula or number of its last line. Nothing found earns 0.

    The kind of answer decides, and like is compared with like. Numbers, exactly: "1,000" = 1000 = "10^3", 1/2 = 0.5 =
    50 %, 2 1/2 = 5/2, 1.2e5; 0.333 is not 1/3, a decimal of six places and more is what it rounds. A unit may be left
    out, another one is wrong unless it says the same (100 cm, 1 m); the bare 50 is not 50 %. Expressions by their
    values at random points (expanded, factored, other roots and logarithms); tuples and intervals in order, with
    their brackets; sets and lists of solutions ("2 or 3", "x = \pm 2") in any order, complete; equations up to a
    constant factor; inequalities as the interval they are; matrices entry by entry; words and option letters as such.
    "x = 3" says 3. What cannot be read is compared as text. Accepted, though written otherwise: "3, 4" for the pair
    (3, 4), a vector as a column.

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
        found = boxed_together(item.response) if self.extract == "boxed" else None
        found = found or answer_in(item.response, self.extract, self.tag)
        if found is not None and self.extract == "whole":
            found = stated(found, self.tag)
        if found is None or not found.strip():
            return 0.0
        return float(any(equal(found, reference) for reference in right))
