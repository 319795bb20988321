"""Reward: the answer is mathematically equal to the reference (math-verify)."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from typing import Any

from pydantic import Field

from mmcredit.components import register
from mmcredit.rewards.base import Reward, RewardItem
from mmcredit.rewards.extract import Extraction, normalise
from mmcredit.rewards.references import ANSWERS_KEY, answer_in, references

_INTEGER = re.compile(r"[-+]?\d{1,400}")
_CHOICE = re.compile(r"\(?([A-Z])\)?\.?")


@register("reward", "math")
class MathAnswer(Reward):
    r"""1 if the answer equals the reference as mathematics, else 0. Needs the extra `math` (math-verify).

    The answer is the last complete ``\boxed{...}`` (`extract: boxed`), the last ``<answer>`` tag pair (`tag`), or
    whatever math-verify finds in the whole response (`whole`). Nothing found earns 0.

    Decided without a parser: equal texts are right; two integers are compared as integers, two option letters as
    letters. All else goes to math-verify 0.9 ("1/2" = "0.5" = "50%", expanded polynomials, sets, tuples, intervals,
    matrices; numbers agree to 6 decimals). An answer that cannot be parsed is wrong; a reference that cannot be parsed
    is an error. Further right answers may stand in ``meta[answers_key]``; a sample without a reference is not
    applicable.

    math-verify's own timeouts use signal.alarm, which do nothing off the main thread and do not stop a hard expression
    in C. They are off here: the worker process is killed when `timeout` has passed ("9^{9^{9^9}}" costs that answer
    only).
    """

    extract: Extraction = Field("boxed", description="where the answer stands: boxed, tag or whole")
    tag: str = Field("answer", description="name of the tag for `extract: tag`", pattern=r"^[A-Za-z_][\w-]*$")
    answers_key: str = Field(ANSWERS_KEY, description="key of meta with a list of further right answers")

    def prepare(self) -> None:
        """Import math-verify. Raises ValueError if it is not installed."""
        try:
            import math_verify
        except ImportError as error:
            raise ValueError(f"the reward 'math' needs math-verify ({error}): pip install 'mmcredit[math]'") from None
        # It warns that its own timeouts are off, and logs answers that cannot be parsed, which are expected.
        logging.getLogger("math_verify").setLevel(logging.CRITICAL)
        math_verify.parse(r"\boxed{\frac{1}{2}}", parsing_timeout=None)  # builds the grammar tables, 0.3 s

    def __call__(self, items: Sequence[RewardItem]) -> list[float | None]:
        return [self._value(item) for item in items]

    def _value(self, item: RewardItem) -> float | None:
        right = references(item, self.answers_key, self.tag)
        if not right:
            return None
        found = answer_in(item.response, self.extract, self.tag)
        if found is None or not found.strip():
            return 0.0
        return float(any(self._equal(found, reference) for reference in right))

    def _equal(self, found: str, reference: str) -> bool:
        decided = _short_cut(found, reference)
        if decided is not None:
            return decided
        from math_verify import verify

        gold = _parse(reference)
        if not gold:
            raise ValueError(f"math-verify cannot read the reference answer {reference!r}")
        target = _parse(found) if self.extract != "whole" else _parse_whole(found)
        return bool(target) and bool(verify(gold, target, timeout_seconds=None))


def _short_cut(found: str, reference: str) -> bool | None:
    """True or False where plain text decides, None where a parser must."""
    a, b = found.strip().strip("$").strip(), reference.strip().strip("$").strip()
    if a and normalise(a, ignore_case=False) == normalise(b, ignore_case=False):
        return True
    if _INTEGER.fullmatch(a) and _INTEGER.fullmatch(b):
        return int(a) == int(b)
    first, second = _CHOICE.fullmatch(a), _CHOICE.fullmatch(b)
    if first and second:
        return first.group(1) == second.group(1)
    return None


def _parse(answer: str) -> list[Any]:
    """An expression written as LaTeX or as plain text ("1/2", "x = 3")."""
    from math_verify import parse

    if "\\" in answer or "^" in answer or "{" in answer:
        return parse(rf"\boxed{{{answer.strip().strip('$')}}}", parsing_timeout=None)
    return parse(answer, parsing_timeout=None) or parse(rf"\boxed{{{answer}}}", parsing_timeout=None)


def _parse_whole(response: str) -> list[Any]:
    from math_verify import parse

    return parse(response, parsing_timeout=None)
