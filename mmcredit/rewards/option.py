"""Reward: the response decides for the right option of a multiple-choice question."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence

from pydantic import Field

from mmcredit.answers.choices import choices_of
from mmcredit.answers.extract import Extraction, normalise
from mmcredit.answers.item import RewardItem
from mmcredit.answers.option import option_letter
from mmcredit.answers.references import ANSWERS_KEY, answer_in, references
from mmcredit.components import register
from mmcredit.rewards.base import Reward


@register("reward", "option")
class Option(Reward):
    r"""1 if the response decides for the option of the reference, else 0.

    The text searched is the last ``<answer>`` tag pair, the last ``\boxed{}`` or the whole response (`extract`). In
    it, in this order: the whole text or its last line is one option ("B", "(b)", ``\text{B}``); the last statement
    ("the answer is (B)", "Answer: B", "I choose B", "B is correct", "so B."; a label at the front, "B. red"); the only
    one called "option B"; the only letter in brackets; the only capital standing alone. The article "A" before a word
    is no option, and neither is what the text denies ("not B", "option B is wrong"). A text that names several options
    without deciding ("A or B", "A, B, C, D") earns 0.

    If ``meta[choices_key]`` (else ``meta["options"]``) lists the choices, as a list, a mapping of letters to texts, or
    text such as "A. red B. blue", a text that is one of them counts as its letter: as text (compared like
    `exact_answer` does; looked at first, since a choice may read "Vitamin C"), as a value (like `math`: "3.0" is the
    choice 3, "30 degrees" 30°), and, where no letter is found, as the only choice that a text of up to twelve words
    names ("the green one"). A choice that is itself a letter of the options ("D") is taken as the letter. The list also
    limits which letters exist. The reference is a letter in any of these forms, the text or the value of a choice; one
    that is neither is an error. Further right ones may stand in ``meta[answers_key]``; a sample without a reference is
    not applicable.
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
        key = self.choices_key
        choices = choices_of(item.meta.get(key), key)
        if key == "choices" and item.meta.get(key) is None:
            with contextlib.suppress(ValueError):  # a column "options" may be anything
                choices = choices_of(item.meta.get("options"), key)
        if len(choices) > len(self.letters):
            raise ValueError(f"meta[{key!r}] must list at most {len(self.letters)} choices, got {choices!r}")
        right = [self._letter(each, choices) for each in accepted]
        if None in right:
            wrong = accepted[right.index(None)]
            among = f" of {list(choices)!r}"[:120] if choices else ""
            index = "; a number must become its letter first: whether it counts from 0 or 1 is not known"
            raise ValueError(
                f"reference answer {wrong!r} names none of the options "
                f"{self.letters[: len(choices)] or self.letters}{among}{index if wrong.strip().isdigit() else ''}"
            )
        found = answer_in(item.response, self.extract, self.tag)
        if found is None:
            return 0.0
        return float((self._letter(found, choices) or self._named(found, choices)) in right)

    def _letter(self, text: str, choices: Sequence[object]) -> str | None:
        letters = self.letters[: len(choices)] or self.letters
        plain = normalise(text)
        if plain.upper() not in letters:
            places = [i for i, choice in enumerate(choices) if normalise(str(choice)) == plain]
            if not places and len(text) <= _VALUE:
                places = [i for i, choice in enumerate(choices) if _valued(str(choice)) and _same(text, str(choice))]
            if len(places) == 1:
                return self.letters[places[0]]
        return option_letter(text, letters)

    def _named(self, text: str, choices: Sequence[object]) -> str | None:
        """The only choice whose words stand in a short text that denies nothing."""
        words = normalise(text)
        if len(words.split()) > 12:
            return None
        texts = [normalise(str(choice)) for choice in choices]
        for i, choice in enumerate(texts):  # "No, it is not"
            if choice and re.match(rf"{re.escape(choice)}\s*[,.;:!]", words) and not _others(words, texts, i):
                return self.letters[i]
        for choice in sorted(texts, key=len, reverse=True):  # "green, not red"
            if choice and re.search(r"\b(?:not|rather than|instead of) ", words):
                words = re.sub(rf"\b(?:not|rather than|instead of)\s+(?:the\s+)?{re.escape(choice)}(?!\w)", " ", words)
        if _DENIES.search(words):
            return None
        named = [i for i, choice in enumerate(texts) if _stands(choice, words) and not _longer(choice, words, texts)]
        return self.letters[named[0]] if len(named) == 1 else None


_VALUE = 80  # characters of an answer that is one value
_DENIES = re.compile(r"\b(?:not|no|never|neither|nor|without|cannot|except|\w+n't|or)\b")


def _valued(choice: str) -> bool:
    return any(c.isdigit() for c in choice) and len(choice) <= _VALUE


def _same(text: str, choice: str) -> bool:
    from mmcredit.rewards.equality.compare import equal  # configs are checked without mpmath

    return equal(text, choice)


def _stands(choice: str, words: str) -> bool:
    """Whether a choice of more than one letter or digit stands in a text as whole words."""
    return len(choice) > 1 and re.search(rf"(?<!\w){re.escape(choice)}(?!\w)", words) is not None


def _longer(choice: str, words: str, texts: Sequence[str]) -> bool:
    """Whether a choice is only seen inside of another one that stands there: "green" in "light green"."""
    rest = words
    for other in texts:
        if len(other) > len(choice) and choice in other:
            rest = rest.replace(other, " ")
    return rest != words and not _stands(choice, rest)


def _others(words: str, texts: Sequence[str], chosen: int) -> bool:
    return any(i != chosen and _stands(text, words) and text not in texts[chosen] for i, text in enumerate(texts))
