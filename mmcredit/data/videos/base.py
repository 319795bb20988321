"""What a video reader is: a media item in, the frames that the processor is to see and their times out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmcredit.components import Component, build, names

if TYPE_CHECKING:
    from mmcredit.data.media import MediaLimits
    from mmcredit.data.sample import Media

EMPTY = "window empty"  # reason of the `UnusableSample` that a reader raises where a part of a video has no frames

# Frames [T,H,W,3] uint8 (array or tensor), and what the processor wants to know about them: fps, total_num_frames,
# frames_indices, duration (transformers' VideoMetadata).
Frames = tuple[Any, Mapping[str, Any]]


class VideoReader(Component):
    """A way to read videos. The frames that it chooses are the ones that the model sees."""

    def read(self, media: Media, limits: MediaLimits) -> Frames:
        """The frames of a video, and about them. Raises ValueError naming the file and the reason, and
        `UnusableSample` with the reason `EMPTY` where the part that is asked for (`Media.options`) has none."""
        raise TypeError(f"{type(self).__name__} does not implement read(media, limits)")


@dataclass(frozen=True)
class VideoLoader:
    """A reader with the limits of a run. `tag`, equal for equal settings, enters the keys of what is remembered."""

    reader: VideoReader
    limits: MediaLimits

    def __call__(self, media: Media) -> Frames:
        return self.reader.read(media, self.limits)

    @property
    def tag(self) -> str:
        """The reader with its fields."""
        return json.dumps(self.reader.spec(), sort_keys=True)


def video_loader(limits: MediaLimits) -> VideoLoader | None:
    """The loader that `data.media.video` names; without a name the only one that is installed, None if there is none.

    Raises ValueError for an unknown name, and if one of several has to be named.
    """
    spec = limits.video
    if spec is None:
        known = names("video")
        if len(known) > 1:
            raise ValueError(f"data.media.video names no way to read videos; there are {', '.join(known)}")
        if not known:
            return None
        spec = known[0]
    return VideoLoader(build("video", spec), limits)  # type: ignore[arg-type]
