"""Everything of this package that a config can name. The entry point `mmcredit.components` loads this module."""

from __future__ import annotations

from pathlib import Path

from mmcredit.policy.builtin import add_home
from video.benchmarks.choices import MLVU, LVBench, VideoMME
from video.benchmarks.grounding import ActivityNetMR, CharadesSTA
from video.benchmarks.nextgqa import NExTGQA
from video.events import VideoEvents
from video.reader import SampledVideo
from video.rewards import FpsMatch, GroundingAccuracy, Reasoning, Retrieval, RetrievalFormat, WindowIoU
from video.rollout import FrameRetrieval
from video.sd_grpo import SDGRPO
from video.segments import RetrievalSegments

__all__ = [
    "MLVU",
    "SDGRPO",
    "ActivityNetMR",
    "CharadesSTA",
    "FpsMatch",
    "FrameRetrieval",
    "GroundingAccuracy",
    "LVBench",
    "NExTGQA",
    "Reasoning",
    "Retrieval",
    "RetrievalFormat",
    "RetrievalSegments",
    "SampledVideo",
    "VideoEvents",
    "VideoMME",
    "WindowIoU",
]

add_home(Path(__file__).parent / "assets")
