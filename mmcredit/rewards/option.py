"""Reward: the response decides for the right option of a multiple-choice question."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from mmcredit.answers.extract import Extraction, normalise, option_letter
from mmcredit.answers.item import RewardItem
from mmcredit.answers.references import ANSWERS_KEY, answer_in, references
from mmcredit.components import register
from mmcredit.rewards.base import Reward


@register("reward", "option")
class Option(Reward):
    r"""1 if the response decides for the option of the reference, else 0.

    The text searched is the last ``<answer>`` tag pair, the last ``\boxed{}`` or the whole response (`extract`). In
    it, in this order: the whole text is one option ("B", "(b)", "B. red", ``\text{B}``); the last statement ("the
    answer is (B)", "Answer: B", "option B", "choose B"); the only letter in brackets; the only capital standing alone.
    The article "A" before a word is no option. A text that names several options without deciding ("A or B", "A, B, C,
    D") earns 0.

    If ``meta[choices_key]`` lists the choices, a text that is one of them counts as its letter (compared like
    `exact_answer` does); this is looked at first, since a choice may read "Vitamin C". The list also limits which
    letters exist. The reference is a letter in any of these forms or the text of a choice; one that is neither is an
    error. Further right ones may stand in ``meta[answers_key]``; a sample without a reference is not applicable.
    """

    extract: Extraction = Field("tag", description="where the answer stands: tag, boxed or whole")
    tag: str = Field("answer", description="name of the tag for `extract: tag`", pattern=r"^[A-Za-z_][\w-]*$")
    letters: str = Field("ABCDEFGHIJ", description="letters that name options", pattern=r"^[A-Z]{1,26}$")
    answers_key: str = Field(ANSWERS_KEY, description="key of meta with a list of further right answers")
    choices_key: str = Field("choices", description="key of meta with the list of choices, first = first letter")

    def __call__(self, items: Sequence[RewardItem]) -> list[float | None]:
        return [self._value(item) for item in items]

    def _value(self, item: RewardItem) -> float | None:
        accepted = references(item, self.answers_key, self.tag)
        if not accepted:
            return None
        choices = item.meta.get(self.choices_key) or []
        if not isinstance(choices, list | tuple) or len(choices) > len(self.letters):
            raise ValueError(
                f"meta[{self.choices_key!r}] must list at most {len(self.letters)} choices, got {choices!r}"
            )
        right = [self._letter(each, choices) for each in accepted]
        if None in right:
            raise ValueError(
                f"reference answer {accepted[right.index(None)]!r} names none of the options {self.letters}"
            )
        found = answer_in(item.response, self.extract, self.tag)
        return float(found is not None and self._letter(found, choices) in right)

    def _letter(self, text: str, choices: Sequence[object]) -> str | None:
        texts = [normalise(str(choice)) for choice in choices]
        plain = normalise(text)
        if len(plain) > 1 and texts.count(plain) == 1:
            return self.letters[texts.index(plain)]
        return option_letter(text, self.letters[: len(choices)] or self.letters)
