"""For runs of tests: a reader of videos that draws its frames, and a strategy for models that never make a call.

A video file of tests holds one number, its length in seconds. Frame i at four frames a second shows the grey level i.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from mmcredit.components import register
from mmcredit.data.dropped import UnusableSample
from mmcredit.data.media import MediaLimits
from mmcredit.data.sample import Media
from mmcredit.data.videos import EMPTY, VideoReader
from mmcredit.rollout.reaction import Reply, Said
from video.retrieval import STATUSES, Call
from video.rollout import NOTE, Answering, Answers, FrameRetrieval, Promise

FPS = 4.0
SIDE = 64
LOCK = Lock()


@register("video", "drawn")
class Drawn(VideoReader):
    """Grey frames, the level of which is their number."""

    def read(self, media: Media, limits: MediaLimits) -> Any:
        """As a reader does; dies where the file `die` in the folder says, once."""
        if media.path is not None:
            _perhaps_die(media.path.parent)
        text = media.path.read_text() if media.path is not None else (media.data or b"").decode()
        if not text.isdigit():
            raise ValueError(f"{media.name} is no video: {text[:20]!r}")
        total = int(int(text) * FPS)
        start = max(0, int(np.ceil(media.options.get("video_start", 0) * FPS)))
        last = min(int(media.options.get("video_end", 1e9) * FPS), total - 1)
        if last <= start:
            raise UnusableSample(f"{media.name}: no frames there", EMPTY)
        rate = media.options.get("fps", 1.0)
        count = (last - start + 1) / FPS * rate
        count = min(
            max(count, media.options.get("min_frames", 2)), media.options.get("max_frames", 8), last - start + 1
        )
        indices = np.linspace(start, last, max(2, int(count) // 2 * 2)).round().astype(int).tolist()
        frames = np.stack([np.full((SIDE, SIDE, 3), i % 256, dtype=np.uint8) for i in indices])
        return frames, {"fps": FPS, "total_num_frames": last - start + 1, "frames_indices": indices}


def _perhaps_die(folder: Path) -> None:
    """The file `die` holds how many more windows may be read."""
    file = folder / "die"
    with LOCK:  # windows are read by several threads
        if file.exists():
            left = int(file.read_text())
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)
            file.write_text(str(left - 1))


class AnyToken(Answering):
    """Takes many tokens of a random model for calls, whose windows depend on them."""

    @property
    def stops(self) -> tuple[int, ...]:
        """Half of a tiny vocabulary."""
        return tuple(range(40, 240))

    def __call__(self, said: Said) -> Reply | Promise:
        """A window for every second of these tokens, at most two."""
        token, number = said.tokens[-1], len(said.inserted)
        if len(said.inserted) >= self.windows.limits.max_retrievals or token % 3:
            return Reply(notes={f"{NOTE}9": float(STATUSES.index("ignored"))})
        call = Call(token % 5, token % 5 + 2 + token % 3, 1 + token % 3, "ok")
        key, future = self.windows.start(self.media, call, self.windows.limits.max_frames)
        return Promise(self, call, said.room, number, key, future)


class AnyAnswers(Answers):
    """Who answers."""

    def __call__(self, sample: Any) -> Any:
        """The reaction of `AnyToken` to each sample."""
        made = super().__call__(sample)
        return None if made is None else AnyToken(**vars(made))


@register("strategy", "any_token")
class AnyTokenRetrieval(FrameRetrieval):
    """`retrieval` for a model that says no calls."""

    @contextmanager
    def reactions(self, policy: Any) -> Iterator[Answers]:
        """As `retrieval`, with `AnyToken` in its place."""
        with super().reactions(policy) as answers:
            yield AnyAnswers(answers.windows, answers.ids)
