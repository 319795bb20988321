"""Reward: the reasoning says something about the picture that can be checked, true or not."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pydantic import Field

from mmcredit.answers.item import RewardItem
from mmcredit.components import register
from mmcredit.data.scenes.claims import claims, clauses
from mmcredit.rewards.base import Reward

_BLOCKS = re.compile(r"\s*<think>([^<]*)</think>\s*<answer>[^<]*</answer>\s*", re.DOTALL)


@register("reward", "claims")
class Claims(Reward):
    """Whether the reasoning makes claims about a scene, true or not: share of clauses that are one * min(1, d / least).

        rewards:
          - exact_answer: {weight: 0.6}
          - claims: {weight: 0.4, least: 3}

    d is the number of different claims. 1 if the think block consists of claims and nothing else, `least` different
    ones among them; a response that is not one think block and one answer block is worth 0. Claims are those of
    `mmcredit.data.scenes.claims`, for the source `scenes`; the scene is not looked at.

    Beside a penalty for false claims (`perceval` with the verifier `scene_oracle`): a penalty alone teaches to make
    fewer claims, or to write what cannot be read as one.
    """

    least: int = Field(3, ge=1, description="claims that are asked for")

    def __call__(self, items: Sequence[RewardItem]) -> list[float]:
        return [self._value(item.response) for item in items]

    def _value(self, response: str) -> float:
        match = _BLOCKS.fullmatch(response)
        if match is None:
            return 0.0
        thought = match.group(1)
        made = [" ".join(claim.text.lower().split()) for claim in claims(thought)]
        said = sum(1 for _ in clauses(thought))
        return len(made) / said * min(1.0, len(set(made)) / self.least) if said else 0.0
