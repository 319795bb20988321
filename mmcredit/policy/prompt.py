"""A prompt as the model reads it, made once and used by sampling and scoring alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from mmcredit.data.sample import Sample


@dataclass(frozen=True)
class Prompt:
    """One encoded prompt: ids with one placeholder per visual token, positions, and preprocessed media.

    Both the rollout engine and the score passes read this object, so they cannot disagree about the input.
    """

    sample_id: str
    tokens: Tensor  # [P] int64, placeholders already expanded
    positions: Tensor  # [P] int64 for text models, [3,P] (temporal, height, width) for M-RoPE
    next_position: int  # position of the first response token; the same on all rows
    visual: Tensor  # [P] bool, payload placeholders (<|image_pad|>, <|video_pad|>)
    media: Mapping[str, Tensor] = field(default_factory=dict)  # processor output: pixel_values, image_grid_thw, ...
    media_keys: tuple[str, ...] = ()  # per image/video: content hash + preprocessing, for the feature cache
    visual_whole: int = 0  # visual tokens before they were pooled
    unexpanded: Tensor | None = None  # [P'] int64, one placeholder per media item, for engines that expand themselves
    sample: Sample | None = field(default=None, repr=False, compare=False)  # what it was made from, for other views

    @property
    def visual_share(self) -> float:
        """Visual tokens that the language model sees, of those there were; 1 without media."""
        return int(self.visual.sum()) / self.visual_whole if self.visual_whole else 1.0

    def __len__(self) -> int:
        return self.tokens.shape[0]
