"""How a video of a data set becomes frames, as the component `data.media.video`."""

from __future__ import annotations

import hashlib
import os
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from mmcredit.components import register
from mmcredit.data.dropped import UnusableSample
from mmcredit.data.media import label, load_image, read_bytes
from mmcredit.data.videos.base import EMPTY, VideoReader
from mmcredit.scratch import scratch_folder
from video.clip import VideoError, VideoIndex, resized
from video.decode import WindowCache, open_decoder
from video.frames import NoFrames, VideoLimits, frame_size, sample, volume_size

if TYPE_CHECKING:
    from mmcredit.data.media import MediaLimits
    from mmcredit.data.sample import Media
    from mmcredit.data.videos.base import Frames

PIXELS = ("min_pixels", "max_pixels", "total_pixels", "resized_height", "resized_width")
# Of a VideoError's reason: under which `check` counts the sample that it drops.
COUNTED = {"missing": "media missing", "too large": "media too large"}


@register("video", "sampled")
class SampledVideo(VideoReader):
    """Frames of a whole video or of the window that its row names, chosen and sized as the Qwen models are trained.

        data: {media: {video: {sampled: {backend: pyav, limits: {fps: 2.0, coarse_frames: 256}}}}}

    Rows are those of qwen-vl-utils: {"type": "video", "video": PATH, "fps": 2, "video_start": 5, "video_end": 9}, also
    nframes, min_frames, max_frames, and min_pixels, max_pixels, total_pixels, resized_height, resized_width, which cap
    each frame; without one of these the whole clip is kept within `limits` (frames x height x width, Qwen3-VL's rule).
    A list of pictures is a video, too: sample_fps (default 2) says how many a second they are. Frames carry their true
    times, also at a variable rate. A video of one frame is shown as that frame twice.

    Backends: `pyav` (default), `decord` (in a process that is killed at the deadline), `torchcodec`. Source: arXiv
    2605.26680; qwen-vl-utils 0.0.14.
    """

    backend: Literal["pyav", "decord", "torchcodec"] = Field("pyav", description="what decodes")
    limits: VideoLimits = Field(default_factory=VideoLimits, description="frames and pixels of a clip")
    patch_size: int = Field(16, ge=2, le=64, description="patch of the model: 16 Qwen3-VL, 14 Qwen2.5-VL")
    deadline: float = Field(60.0, gt=0, description="seconds for one clip")
    cache_mb: int = Field(512, ge=0, description="decoded clips that are kept, MiB")

    def decoder(self, limits: MediaLimits) -> WindowCache:
        """The decoder with its cache, one for equal settings. Raises ValueError naming the extra that is missing."""
        return _decoder(self.backend, self.deadline, limits.max_pixels, self.cache_mb)

    def read(self, media: Media, limits: MediaLimits) -> Frames:
        try:
            if getattr(media, "frames", ()):
                return self._listed(media, limits)
            return self._clip(media, limits)
        except VideoError as error:
            reason = COUNTED.get(error.reason, "media damaged")
            raise UnusableSample(f"{label(media)} {error.why}", reason) from error
        except NoFrames as error:
            asked = {"video_start", "video_end"} & set(media.options)
            reason = EMPTY if asked else "media too short"
            raise UnusableSample(f"{label(media)}: {error}", reason) from error

    def _clip(self, media: Media, limits: MediaLimits) -> Frames:
        options = dict(getattr(media, "options", {}))
        path = local_file(media, limits)
        decoder = self.decoder(limits)
        index = decoder.index(path)
        chosen = self.chosen(index, options)
        size = self.size(len(chosen), index.height, index.width, options)
        return decoder.frames_at(path, chosen, size).pixels, about(index, chosen)

    def chosen(self, index: VideoIndex, options: dict[str, float]) -> list[int]:
        """Frame numbers by qwen-vl-utils' keys. Raises NoFrames, and ValueError for keys that contradict."""
        start, end = options.get("video_start"), options.get("video_end")
        if len(index) == 1 and start is None and end is None:
            return [0, 0]
        nframes = options.get("nframes")
        fps = options.get("fps")
        return sample(
            index.times,
            index.fps,
            start,
            end,
            fps=self.limits.fps if fps is None and nframes is None else fps,
            nframes=None if nframes is None else int(nframes),
            min_frames=options.get("min_frames", self.limits.min_frames),
            max_frames=options.get("max_frames", min(self.limits.coarse_frames, len(index))),
        )

    def size(self, nframes: int, height: int, width: int, options: dict[str, float]) -> tuple[int, int]:
        """Height and width at which a clip is shown."""
        capped = {key: options[key] for key in PIXELS if key in options}
        if capped:
            return frame_size(nframes, height, width, self.patch_size, capped)
        return volume_size(nframes, height, width, self.patch_size, self.limits)

    def _listed(self, media: Media, limits: MediaLimits) -> Frames:
        options = dict(media.options)
        images = [np.asarray(load_image(frame, limits)) for frame in media.frames]
        sizes = {image.shape for image in images}
        if len(sizes) > 1:
            raise UnusableSample(
                f"{label(media)}: its {len(images)} frames differ in size: {sorted(sizes)}", "media malformed"
            )
        images += [images[-1]] * (len(images) % 2)
        height, width = images[0].shape[:2]
        size = self.size(len(images), height, width, options)
        fps = float(options.get("sample_fps", 2.0))
        metadata = {
            "fps": fps,
            "total_num_frames": len(images),
            "frames_indices": list(range(len(images))),
            "duration": len(images) / fps,
            "video_backend": "frames",
        }
        return np.stack([resized(image, size) for image in images]), metadata


def about(index: VideoIndex, chosen: list[int]) -> dict[str, Any]:
    """What a processor wants to know of chosen frames (transformers' VideoMetadata).

    It takes frames_indices / fps for the times, so they are given as true times on that scale: whole frame numbers at
    a constant rate. total_num_frames is the window's, from which Qwen2.5-VL takes the rate that was sampled.
    """
    exact = [float(index.times[i]) * index.fps for i in chosen]
    whole = [round(value) for value in exact]
    even = all(abs(a - b) <= 0.01 for a, b in zip(exact, whole, strict=True))
    return {
        "fps": index.fps,
        "total_num_frames": max(chosen) - min(chosen) + 1,
        "frames_indices": whole if even else exact,
        "duration": index.duration,
        "height": index.height,
        "width": index.width,
    }


@lru_cache(maxsize=8)
def _decoder(backend: str, deadline: float, max_pixels: int, cache_mb: int) -> WindowCache:
    return WindowCache(open_decoder(backend, deadline, max_pixels), cache_mb * 2**20)


def local_file(media: Media, limits: MediaLimits) -> Path:
    """The file of a video; the bytes of one that came as bytes are written down once, under their hash."""
    data = read_bytes(media, limits) if media.data is not None else None
    if data is None:
        assert media.path is not None
        return media.path
    folder = scratch_folder("mmcredit-videos-")
    path = folder / hashlib.sha256(data).hexdigest()
    if not path.exists():
        aside = folder / f"{path.name}.{os.getpid()}"
        aside.write_bytes(data)
        aside.replace(path)
    return path
