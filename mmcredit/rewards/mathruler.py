"""Reward: the boxed answer is right by MathRuler's rule, as EasyR1, PAPO and VPPO score."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from mmcredit.answers.expression import equal
from mmcredit.answers.item import RewardItem
from mmcredit.answers.prm_grade import boxed_content, text_verdict
from mmcredit.answers.references import ANSWERS_KEY, references
from mmcredit.components import register
from mmcredit.rewards.base import Reward


@register("reward", "mathruler")
class MathRuler(Reward):
    r"""1 if the last ``\boxed{}`` equals the reference by MathRuler's rule, else 0.

    The rule of EasyR1 and of the papers built on it (PAPO arXiv 2507.06448, VPPO, PGPO). White space around ``<``,
    ``>`` and ``/`` goes first; a missing or cut-off box is the answer "None". Then: equal in the normal form of MATH,
    or in that of PRM800K (units, per cent and thousands commas dropped, lower case), or symbolically equal element by
    element, where two plain fractions must be written alike and an integer equals integers only. So 0.5 is 1/2 and
    2\sqrt{3} is \sqrt{12}, but 2/4 is not 1/2, 30° not 30, 50% not 0.5 (50% is 50) and "A. 12" not A. The reward `math`
    is the more lenient one.

    MathRuler reads expressions by way of sympy's `parse_expr`, which evaluates code; here a parser of our own reads
    them. Needs sympy (torch brings it). Further right answers may stand in ``meta[answers_key]``.
    """

    extract: Literal["boxed", "whole"] = Field("boxed", description="where the answer stands: the last box, or all")
    answers_key: str = Field(ANSWERS_KEY, description="key of meta with a list of further right answers")

    def prepare(self) -> None:
        """Import sympy."""
        equal("1", "1+0")

    def __call__(self, items: Sequence[RewardItem]) -> list[float | None]:
        return [self._value(item) for item in items]

    def _value(self, item: RewardItem) -> float | None:
        right = references(item, self.answers_key)
        if not right:
            return None
        found = item.response if self.extract == "whole" else boxed_content(tightened(item.response))
        return float(any(grade(found, each) for each in right))


def tightened(response: str) -> str:
    """White space around ``<``, ``>`` and ``/`` removed, as EasyR1 does before it looks for tags ("a / b" is "a/b")."""
    parts = re.split("([<>/])", response)  # texts and signs in turn; linear, unlike a search for blanks and sign
    for i in range(0, len(parts), 2):
        text = parts[i].lstrip() if i else parts[i]
        parts[i] = text.rstrip() if i < len(parts) - 1 else text
    return "".join(parts)


def grade(given: str, reference: str) -> bool:
    """The whole rule. Simplification can hang on a hostile answer: run it where it can be killed."""
    verdict = text_verdict(given, reference)
    return verdict if isinstance(verdict, bool) else all(equal(found, wanted) for found, wanted in verdict)
