"""The view `teacher` as settings: where the hint comes from, and how it is shown."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

if TYPE_CHECKING:
    from mmcredit.data.sample import Sample


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
