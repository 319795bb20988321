"""What a data source yields: `Sample`, and the media in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

# Keys of qwen-vl-utils that say which part of a video is taken, at which rate and at which size.
VIDEO_OPTIONS = (
    "fps", "nframes", "min_frames", "max_frames", "video_start", "video_end", "min_pixels", "max_pixels",
    "total_pixels", "resized_height", "resized_width", "sample_fps", "raw_fps",
)  # fmt: skip


@dataclass(frozen=True)
class Media:
    """One image or video of a sample, not decoded yet: a path below the media root, or its encoded bytes.

    A video may also come as a list of images, its `frames`; `options` say how it is to be sampled, by the keys that
    qwen-vl-utils knows (`VIDEO_OPTIONS`). `data.media.load_image` decodes images, a `data.videos.VideoReader` videos.
    """

    kind: Literal["image", "video"]
    path: Path | None = None  # absolute, inside the media root
    data: bytes | None = None  # encoded file content (PNG, JPEG, ...)
    name: str = ""  # what the data set called it, for error messages
    frames: tuple[Media, ...] = ()  # images, of a video that is no file
    options: Mapping[str, float] = field(default_factory=dict)  # of a video

    def __post_init__(self) -> None:
        if (self.path is not None) + (self.data is not None) + bool(self.frames) != 1:
            raise ValueError(f"media {self.name or '?'}: give a path, bytes or frames, exactly one of them")
        if self.kind == "image" and (self.frames or self.options):
            raise ValueError(f"media {self.name or '?'}: frames and options belong to a video, this is an image")


@dataclass(frozen=True)
class Sample:
    """One prompt: chat messages, the media they mention in order, the reference answer, and what else is known.

    `messages` follow the chat format of transformers: ``{"role": ..., "content": str | [part, ...]}`` with parts
    ``{"type": "text", "text": ...}``, ``{"type": "image"}``, ``{"type": "video"}``; the n-th image or video part
    stands for ``media[n]``.
    """

    id: str  # stable across epochs and machines
    messages: tuple[Mapping[str, Any], ...]
    media: tuple[Media, ...] = ()
    answer: str | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)
    place: str = ""  # where its row stands, as FILE:LINE or FILE[ROW]; empty if the id says it
    notes: tuple[str, ...] = ()  # what was decided when its row was read, for `check` to count

    def __post_init__(self) -> None:
        parts = [p for m in self.messages if not isinstance(m["content"], str) for p in m["content"]]
        kinds = [p["type"] for p in parts if p["type"] in ("image", "video")]
        if kinds != [m.kind for m in self.media]:
            raise ValueError(
                f"sample {self.name}: the messages mention {kinds or 'no media'}, but "
                f"{[m.kind for m in self.media]} came with it"
            )

    @property
    def name(self) -> str:
        """What every message calls this sample."""
        return name_of(self.id, self.place)


def name_of(id: str, place: str) -> str:
    """The one name of a row: its id, with its place (FILE:LINE) behind it where the id does not say it."""
    return id if id.endswith(place) else f"{id} ({place})"


def name_at(samples: Sequence[Sample], index: int) -> str:
    """What to call a sample that may not be readable: its name where its source knows it, else its number."""
    name = getattr(samples, "name", None)
    return str(name(index)) if callable(name) else f"number {index}"


def last_text(sample: Sample) -> str:
    """Text of the last message that is not the assistant's, without its media."""
    others = [message for message in sample.messages if message["role"] != "assistant"]
    content = (others or sample.messages)[-1]["content"]
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content if part["type"] == "text").strip()
