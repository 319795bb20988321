"""A prompt as the model reads it, made once and used by sampling and scoring alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from mmcredit.data.sample import Sample


@dataclass(frozen=True)
class Clip:
    """Which moments of a video its frames are."""

    times: tuple[float, ...]  # seconds of the video, one per frame that was read
    duration: float | None = None  # seconds of the whole video

    @classmethod
    def of(cls, about: Mapping[str, Any]) -> Clip:
        """From what a reader says of its frames (transformers' VideoMetadata)."""
        rate = float(about.get("fps") or 0.0)
        found = about.get("duration")
        times = tuple(float(index) / rate for index in about.get("frames_indices") or ()) if rate else ()
        return cls(times, None if found is None else float(found))


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
    clips: tuple[Clip, ...] = ()  # of the videos, in order; () where that is not known
    sample: Sample | None = field(default=None, repr=False, compare=False)  # what it was made from, for other views

    @property
    def visual_share(self) -> float:
        """Visual tokens that the language model sees, of those there were; 1 without media."""
        return int(self.visual.sum()) / self.visual_whole if self.visual_whole else 1.0

    def __len__(self) -> int:
        return self.tokens.shape[0]
