"""Reward: the response has the wanted shape."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from pydantic import Field, field_validator

from mmcredit.answers.extract import boxes
from mmcredit.answers.item import RewardItem
from mmcredit.answers.plain import visible
from mmcredit.components import register
from mmcredit.rewards.base import Reward


@register("reward", "format")
class Format(Reward):
    r"""1 if the response has the wanted shape, else 0.

    `preset: think_answer`: nothing but ``<think>...</think>`` and then ``<answer>...</answer>``, white space aside;
    each of the four tags exactly once; neither part blank.

    `preset: think_boxed`: begins with ``<think>...</think>``, each tag exactly once, not blank; after it text with
    exactly one complete ``\boxed{...}``, not blank. Boxes inside the thoughts do not count.

    `prompt_opens_think`: the chat template has put ``<think>`` at the end of the prompt, so the response must not
    repeat it.

    `pattern`: a regular expression of your own that must match the whole response (``re.fullmatch`` with DOTALL); it
    replaces the preset.
    """

    preset: Literal["think_answer", "think_boxed"] = Field("think_answer", description="the wanted shape")
    prompt_opens_think: bool = Field(False, description="the prompt ends with <think>")
    pattern: str | None = Field(None, description="regular expression for the whole response; replaces the preset")

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str | None) -> str | None:
        try:
            re.compile(pattern or "", re.DOTALL)
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from None
        return pattern

    def __call__(self, items: Sequence[RewardItem]) -> list[float]:
        return [float(self._holds(item.response)) for item in items]

    def _holds(self, response: str) -> bool:
        if self.pattern is not None:
            return re.fullmatch(self.pattern, response, re.DOTALL) is not None
        if self.prompt_opens_think:
            response = "<think>" + response
        response = response.strip()
        if not response.startswith("<think>") or any(response.count(tag) != 1 for tag in ("<think>", "</think>")):
            return False
        thought, _, rest = response.removeprefix("<think>").partition("</think>")
        if not visible(thought).strip():
            return False
        if self.preset == "think_boxed":
            found = boxes(rest)
            return len(found) == 1 and bool(visible(found[0]).strip())
        rest = rest.strip()
        if any(response.count(tag) != 1 for tag in ("<answer>", "</answer>")):
            return False
        if not (rest.startswith("<answer>") and rest.endswith("</answer>")):
            return False
        return bool(visible(rest.removeprefix("<answer>").removesuffix("</answer>")).strip())
