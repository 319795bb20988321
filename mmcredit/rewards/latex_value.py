"""Reward: the answer has the value of the reference, rounded to two decimals (MATH-Vision)."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from mmcredit.answers.extract import Extraction
from mmcredit.answers.item import RewardItem
from mmcredit.answers.latex_number import latex_number
from mmcredit.answers.references import ANSWERS_KEY, answer_in, references
from mmcredit.components import register
from mmcredit.rewards.base import Reward


@register("reward", "latex_value")
class LatexValue(Reward):
    r"""1 if answer and reference are equal after rounding their values to two decimals, else 0.

    MATH-Vision's comparison (arXiv 2402.14804): equal lower-case texts; tuples and lists whose elements, each computed,
    rounded and written as text, are equal; or equal rounded values. Values are those that latex2sympy2 and Python give
    (`mmcredit.answers.latex_number`), in dollars or not: 1,000 is 1000, ``10\%`` is 0.1, ``\log_{2}{8}`` is 3. An
    element written with whole numbers and + - * only is whole, any other a decimal number: (2/2,2) becomes (1.0,2) and
    is not (1,2), (1.0,2) is. An answer without a value (a letter, a word) is equal as text only. Nothing is evaluated
    as code. One difference: of a number minus something over a decimal (``1-\frac{6.8}{2.1}``) sympy 1.14 prints a
    wrong text, which gives those a wrong value in the original.
    """

    extract: Extraction = Field("boxed", description="where the answer stands")
    tag: str = Field("answer", description="name of the tag for `extract: tag`", pattern=r"^[A-Za-z_][\w-]*$")
    answers_key: str = Field(ANSWERS_KEY, description="key of meta with a list of further right answers")

    def __call__(self, items: Sequence[RewardItem]) -> list[float | None]:
        return [self._value(item) for item in items]

    def _value(self, item: RewardItem) -> float | None:
        right = references(item, self.answers_key, self.tag)
        if not right:
            return None
        found = answer_in(item.response, self.extract, self.tag)
        return float(found is not None and any(equal_values(found, each) for each in right))


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
    a, b = _rounded(given), _rounded(reference)
    return a is not None and a == b


def _rounded(text: str) -> float | int | None:
    value = latex_number(text)
    return None if value is None else round(value, 2)


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
        value = _rounded(part)
        if value is None:
            return text
        done.append(str(value))
    return f"{text[0]}{','.join(done)}{text[-1]}"
