"""A prompt that goes on with tokens of a response, so that several endings of it share all of it in a score pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from mmcredit.policy.prompt import Prompt


def extend(prompt: Prompt, tokens: Sequence[int]) -> Prompt:
    """`prompt` followed by text `tokens`: a response behind it has the positions it would have behind both."""
    count = len(tokens)
    steps = torch.arange(count) + prompt.next_position
    return replace(
        prompt,
        tokens=torch.cat([prompt.tokens, torch.tensor(list(tokens), dtype=torch.int64)]),
        positions=torch.cat([prompt.positions, steps.expand(*prompt.positions.shape[:-1], count)], -1),
        next_position=prompt.next_position + count,
        visual=torch.cat([prompt.visual, torch.zeros(count, dtype=torch.bool)]),
        unexpanded=None,
    )
