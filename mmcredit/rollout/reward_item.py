"""What a reward may see of a response."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmcredit.answers.item import RewardItem
from mmcredit.data.sample import last_text

if TYPE_CHECKING:
    from mmcredit.data.sample import Sample
    from mmcredit.policy.prompt import Prompt
    from mmcredit.rollout.engine import Response


def reward_item(sample: Sample, text: str, response: Response, prompt: Prompt | None = None) -> RewardItem:
    """What a reward may see of one response to `prompt`."""
    return RewardItem(
        response=text,
        answer=sample.answer,
        prompt=last_text(sample),
        num_tokens=response.sampled,
        truncated=response.finish == "length",
        sample_id=sample.id,
        visual_share=prompt.visual_share if prompt is not None and prompt.visual_whole else None,
        meta=dict(sample.meta),
        notes=dict(response.notes) if response.answered else None,
    )
