"""Everything of this package that a config can name. The entry point `mmcredit.components` loads this module."""

from __future__ import annotations

from video.reader import SampledVideo
from video.rewards import FpsMatch, GroundingAccuracy, Reasoning, Retrieval, RetrievalFormat, WindowIoU
from video.rollout import FrameRetrieval
from video.sd_grpo import SDGRPO
from video.segments import RetrievalSegments

__all__ = [
    "SDGRPO",
    "FpsMatch",
    "FrameRetrieval",
    "GroundingAccuracy",
    "Reasoning",
    "Retrieval",
    "RetrievalFormat",
    "RetrievalSegments",
    "SampledVideo",
    "WindowIoU",
]
