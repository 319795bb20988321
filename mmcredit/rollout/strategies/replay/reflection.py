"""A question asked again with an earlier wrong answer in view (R3's self-reflection)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmcredit.data.sample import Sample
    from mmcredit.policy.prompt import Prompt
    from mmcredit.rollout.strategies.base import Stage

INSTRUCTION = (
    "Your answer above is wrong. Find the first error in it, say in one sentence what went wrong, and then solve the "
    "question again from the start. Give the final answer in the same form as asked for."
)


def reflection(sample: Sample, answer: Sequence[int], instruction: str, stage: Stage) -> tuple[Sample, Prompt] | None:
    """The sample x + wrong answer + instruction and its prompt; None if nothing of the answer fits or can be shown.

    `answer` are the ids of the wrong answer. Where the prompt is longer than allowed, as many of them as are too many
    go from the left: what an answer ends with is what was wrong.
    """
    answer = list(answer)
    while text := stage.decode(answer).strip():
        messages = (*sample.messages, {"role": "assistant", "content": text}, {"role": "user", "content": instruction})
        asked = replace(sample, id=f"{sample.id}#reflection", messages=messages)
        try:
            prompt = stage.policy.encode(asked)  # without the limit, which is looked at here
        except ValueError:  # the text of the answer holds what only the chat template may write
            return None
        over = len(prompt) - (stage.max_prompt_tokens or len(prompt))
        if over <= 0:
            return asked, prompt
        answer = answer[over:]
    return None
