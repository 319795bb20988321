"""A prompt and the beginning of a response as one prompt, media of both included."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from mmcredit.policy.layout import Row

if TYPE_CHECKING:
    from mmcredit.policy.prompt import Prompt
    from mmcredit.rollouts import Inserted


def joined(prompt: Prompt, said: Sequence[int], inserted: Sequence[Inserted]) -> Prompt:
    """The prompt with the response `said` behind it: the ids, positions and media that scoring the response reads.

    So a sampler that takes media in prompts only can go on behind what was `inserted`.
    """
    tokens = torch.tensor(list(said), dtype=prompt.tokens.dtype)
    # One more token tells where the next one stands.
    row = Row(prompt, torch.cat([tokens, tokens.new_zeros(1)]), 0, tuple(inserted))
    positions = row.positions
    parts = [prompt, *(one.piece for one in inserted)]
    media = {
        name: torch.cat([part.media[name] for part in parts if name in part.media])
        for name in dict.fromkeys(name for part in parts for name in part.media)
    }
    images, videos = [], []  # keys: those of images stand first
    for part in parts:
        count = len(part.media.get("image_grid_thw", ()))
        images += part.media_keys[:count]
        videos += part.media_keys[count:]
    return replace(
        prompt,
        tokens=torch.cat([prompt.tokens, tokens]),
        positions=torch.cat([prompt.positions, positions[..., :-1]], -1),
        next_position=int(positions[..., -1].max()),
        visual=torch.cat([prompt.visual, row.visual[:-1]]),
        media=media,
        media_keys=(*images, *videos),
        unexpanded=None,
        clips=tuple(clip for part in parts for clip in part.clips),
    )
