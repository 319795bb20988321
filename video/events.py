"""The source of procedural video clips."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from pydantic import Field, field_validator, model_validator

from mmcredit.components import register
from mmcredit.data.scenes.layout import Lots
from mmcredit.data.sources.base import Rows, TableSource
from video.event_clips import KINDS, SLOTS, Event, Kind, Split, make_event, to_row
from video.frames import VideoLimits


@register("source", "video_events")
class VideoEvents(TableSource):
    """Questions about brief events in procedural clips, real mp4 files (H.264, 16 frames a second); no download.

        source:
          - video_events: {split: train, size: 2000, kinds: [appear, flash], coarse_fps: 1.0}

    For some seconds of a clip the picture has a coloured border; within, details are shown for a half or a quarter of a
    second. A thin border means two slots a second, a thick one four: the rate at which each slot is seen once. Kinds:
    `appear` (which shape), `tint` (which colour),
    `flash` (how many times), `change` (to which colour), `count` (how many different shapes),
    `moment` (when; its answer is another stretch than the window to look at). Answers are one word, a number from 1 to
    4, or "start - end".

    The coarse frames cannot answer: at their instants (`coarse_fps`, `coarse_max`, which must be those of
    `data.media.video`) no detail is shown, and clips that differ in the answer alone have the same coarse frames, to
    the byte. The best blind answer is right in a quarter of cases. Half the right rate shows every other slot. `decoys`
    are further windows, with borders of other colours and details of their own.

    Columns: `question`, `video` (the file's bytes), `answer`; `span` and `fps` (gold window and rate, for the rewards
    `retrieval` and `reasoning`), `duration`, `kind`, `split`, `completion` (the ideal response with its call, for
    `mmcredit sft`). In a share `stray` of the completions the call is off by up to two seconds at each end and has any
    rate, as windows that people annotate are not exact: what it shows within `min_frames` and `max_frames` is told as
    it is. Ids are video_events/split/seed/number. Item i is made when it is asked for (some 30 ms), the same in every
    process. A clip belongs to `test` (a fifth of all) or to `train` by a hash of what it shows: the splits share none.
    """

    split: Split = Field(default="train", description="train or test")
    size: int = Field(default=2000, gt=0, description="clips, before `where` and `limit`")
    seed: int = Field(default=0, ge=0, description="other seeds give other clips")
    kinds: list[Kind] = Field(
        default=["appear", "flash", "change", "count"], min_length=1, description=", ".join(KINDS)
    )
    image_size: int = Field(default=64, ge=32, le=512, multiple_of=16, description="pixels a side")
    coarse_fps: float = Field(default=1.0, gt=0, description="rate at which prompts show the whole clip")
    coarse_max: int = Field(default=256, ge=2, description="most frames with which prompts show it")
    decoys: int = Field(default=0, ge=0, le=3, description="further windows of a clip")
    stray: float = Field(default=0.0, ge=0, le=1, description="share of completions whose call is beside the gold one")
    min_frames: int = Field(default=4, ge=2, description="fewest frames of a window in completions, as in `retrieval`")
    max_frames: int = Field(default=128, ge=2, description="most frames of a window in completions")
    shortest: int = Field(default=8, ge=4, le=600, description="seconds of the shortest clip")
    longest: int = Field(default=16, ge=4, le=600, description="seconds of the longest clip")

    @field_validator("kinds")
    @classmethod
    def _once_each(cls, kinds: list[Kind]) -> list[Kind]:
        if len(set(kinds)) < len(kinds):
            raise ValueError(f"each of {', '.join(KINDS)} at most once")
        return kinds

    @model_validator(mode="after")
    def _fits_together(self) -> VideoEvents:
        if self.shortest > self.longest:
            raise ValueError(f"shortest {self.shortest} is over longest {self.longest}")
        if self.longest < (need := (1 + self.decoys) * (SLOTS // 2 + 1) + 1):
            raise ValueError(
                f"longest {self.longest} leaves no room for {1 + self.decoys} windows; {need} s are needed"
            )
        return self

    def rows(self) -> Rows:
        return EventRows(self)

    def describe(self) -> str:
        return f"{self.name} ({self.split})"


@lru_cache(maxsize=1024)
def file_of(event: Event) -> bytes:
    """The clip's file, some ten kilobytes: a run reads a sample several times, and opens its sources more than once."""
    return event.mp4()


class EventRows:
    """The clips of one split; each is made when it is read."""

    def __init__(self, source: VideoEvents) -> None:
        self._source = source
        self._event = lru_cache(maxsize=4096)(self._make)

    def _make(self, index: int) -> Event:
        s = self._source
        return make_event(
            s.kinds,
            s.seed,
            s.split,
            index,
            size=s.image_size,
            coarse_fps=s.coarse_fps,
            coarse_max=s.coarse_max,
            decoys=s.decoys,
            shortest=s.shortest,
            longest=s.longest,
        )

    def __len__(self) -> int:
        return self._source.size

    def columns(self) -> list[str]:
        return ["question", "video", "answer", "kind", "split", "span", "fps", "duration", "completion"]

    def column(self, name: str) -> Iterator[Any]:
        for index in range(len(self)):
            yield self._row(index).get(name)

    def read(self, index: int) -> dict[str, Any]:
        return {**self._row(index), "video": file_of(self._event(index))}

    def _row(self, index: int) -> dict[str, Any]:
        s, event = self._source, self._event(index)
        lots = Lots(s.seed, "video events, stray", s.split, index)
        call = event.stray(lots) if lots.chance(s.stray) else None
        return to_row(event, s.split, call, VideoLimits(min_frames=s.min_frames, max_frames=s.max_frames))

    def place(self, index: int) -> str:
        return self.id(index)

    def id(self, index: int) -> str:
        return f"video_events/{self._source.split}/{self._source.seed}/{index}"
