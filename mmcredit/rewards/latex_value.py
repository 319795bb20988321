"""Reward: the answer has the value of the reference, rounded to two decimals (MATH-Vision)."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from pydantic import Field

from mmcredit.answers.expression import parse
from mmcredit.answers.extract import Extraction
from mmcredit.answers.item import RewardItem
from mmcredit.answers.latex_text import plain_text
from mmcredit.answers.references import ANSWERS_KEY, answer_in, references
from mmcredit.components import register
from mmcredit.rewards.base import Reward

LONGEST = 400  # characters of an answer that are computed


@register("reward", "latex_value")
class LatexValue(Reward):
    r"""1 if answer and reference are equal after rounding their values to two decimals, else 0.

    MATH-Vision's comparison (arXiv 2402.14804): equal lower-case texts; tuples and lists whose elements, each computed,
    rounded and written as text, are equal; or equal rounded values. An element written with whole numbers and + - *
    only is whole, any other a decimal number: (2/2,2) becomes (1.0,2) and is not (1,2). An answer without a value
    (a letter, a word) is equal as text only. Expressions are read by a parser of our own, not evaluated as code.
    """

    extract: Extraction = Field("boxed", description="where the answer stands")
    tag: str = Field("answer", description="name of the tag for `extract: tag`", pattern=r"^[A-Za-z_][\w-]*$")
    answers_key: str = Field(ANSWERS_KEY, description="key of meta with a list of further right answers")

    def prepare(self) -> None:
        """Import sympy."""
        value_of("1")

    def __call__(self, items: Sequence[RewardItem]) -> list[float | None]:
        return [self._value(item) for item in items]

    def _value(self, item: RewardItem) -> float | None:
        right = references(item, self.answers_key, self.tag)
        if not right:
            return None
        found = answer_in(item.response, self.extract, self.tag)
        return float(found is not None and any(equal_values(found, each) for each in right))


def value_of(text: str) -> float | int | None:
    """The value of a LaTeX or plain expression without unknowns; None if it has none, or is too long to compute."""
    if len(text) > LONGEST:
        return None
    try:
        expression = parse(plain_text(text, brackets=True).lower())
        if expression.free_symbols:
            return None
        value = complex(expression.evalf(20))
    except (ValueError, TypeError, ArithmeticError, AttributeError, RecursionError, NotImplementedError):
        return None
    if value.imag or not math.isfinite(value.real):
        return None
    # As text: whole numbers with + - * and powers stay whole, every other expression is a decimal number.
    whole = re.fullmatch(r"[\s\d+*^(){}-]+", text) is not None and value.real.is_integer()
    return round(value.real) if whole else value.real


def equal_values(given: str, reference: str) -> bool:
    """MATH-Vision's `is_equal`."""
    given, reference = given.lower(), reference.lower()
    if not given.replace(" ", "") or not reference.replace(" ", ""):
        return False
    if given.strip() == reference.strip():
        return True
    given, reference = _elements(given), _elements(reference)
    if given == reference:
        return True
    a, b = value_of(given), value_of(reference)
    return a is not None and b is not None and round(a, 2) == round(b, 2)


def _elements(text: str) -> str:
    """A tuple or list with its elements computed; the text itself if it is none, or if one has no value."""
    parts = text[1:-1].split(",")
    if len(parts) < 2 or (text[0], text[-1]) not in (("(", ")"), ("[", "]")):
        return text
    done = []
    for part in parts:
        if "infty" in part or part in ("a", "-a"):
            done.append(part)
            continue
        value = value_of(part)
        if value is None:
            return text
        done.append(str(round(value, 2)))
    return f"{text[0]}{','.join(done)}{text[-1]}"
