"""The view `teacher`: the same prompt with a hint in its last user message.

On-policy distillation (arXiv 2603.10165) scores the response's own ids under this prompt. Here the hint comes with the
sample: its meta, or a sentence made of the reference answer (privileged information, for verifiable tasks).
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

if TYPE_CHECKING:
    from mmcredit.data.sample import Sample
    from mmcredit.policy.passes import View
    from mmcredit.policy.prompt import Prompt


class TeacherView(BaseModel):
    """Where the hint comes from, and how it is shown."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    hint: str | None = Field("hint", description="key of Sample.meta that holds the hint; none = do not look there")
    answer: str | None = Field(
        None, description="hint of a sample that brings none, with {answer} in it; none = such a sample has no teacher"
    )
    tag: str = Field("[Hint]", description="line above the hint")
    min_characters: int = Field(11, ge=1, description="shorter hints are none (release: more than 10 characters)")

    @field_validator("answer")
    @classmethod
    def _has_a_place(cls, answer: str | None) -> str | None:
        if answer is not None and "{answer}" not in answer:
            raise ValueError("must contain {answer}, where the reference answer goes")
        return answer

    def of(self, sample: Sample) -> str | None:
        """The hint for a sample, stripped; None if there is none. Raises ValueError for one that is not text."""
        given = None if self.hint is None else sample.meta.get(self.hint)
        if isinstance(given, list | tuple) and all(isinstance(part, str) for part in given):
            given = "\n".join(given)
        if given is not None and not isinstance(given, str):
            raise ValueError(f"sample {sample.id}: meta.{self.hint} must be text, got {type(given).__name__}")
        hint = (given or "").strip()
        if not hint and self.answer is not None and sample.answer is not None:
            hint = self.answer.replace("{answer}", sample.answer).strip()
        return hint if len(hint) >= self.min_characters else None

    def shown(self, sample: Sample) -> Sample | None:
        """The sample with the hint below the text of its last user message (without one: of its last message).

        None if there is no hint. Raises ValueError for a hint that is not text.
        """
        hint = self.of(sample)
        if hint is None:
            return None
        users = [i for i, m in enumerate(sample.messages) if m["role"] == "user"]
        place = users[-1] if users else len(sample.messages) - 1
        messages = list(sample.messages)
        messages[place] = _append(messages[place], f"\n\n{self.tag}\n{hint}")
        return dataclasses.replace(sample, messages=tuple(messages))


def _append(message: Mapping[str, Any], text: str) -> dict[str, Any]:
    content = message["content"]
    if isinstance(content, str):
        return {**message, "content": content + text}
    return {**message, "content": [*content, {"type": "text", "text": text}]}


class TeacherPrompts:
    """Makes the prompts of the view; a value of `Policy.view_prompts`.

    None for a sample without a hint. A hint that cannot be encoded (reserved tokens in it, no text) is none either; a
    warning names the sample, once, and `refused` keeps the reason by sample.
    """

    def __init__(self, encode: Callable[[Sample], Prompt], settings: TeacherView | None = None) -> None:
        self.encode, self.settings = encode, settings or TeacherView()
        self.refused: dict[str, str] = {}

    def __call__(self, view: View, prompt: Prompt) -> Prompt | None:
        """The prompt of the teacher. Raises ValueError for a prompt that was not made from a sample."""
        if prompt.sample is None:
            raise ValueError(f"sample {prompt.sample_id}: a teacher's prompt is made from its sample; encode it again")
        try:
            sample = self.settings.shown(prompt.sample)
            return None if sample is None else self.encode(sample)
        except ValueError as error:
            if prompt.sample_id not in self.refused:
                self.refused[prompt.sample_id] = str(error)
                warnings.warn(f"no teacher for {error}", stacklevel=2)
            return None
