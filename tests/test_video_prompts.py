"""A video in a prompt: as data sets write it, with what says how to sample it, through the reader of the config."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from policy_cases import make_policy
from pydantic import Field
from tiny import tiny_png

from mmcredit import components
from mmcredit.components import build, register
from mmcredit.data.media import MediaLimits, content_key
from mmcredit.data.sample import Media
from mmcredit.data.sample_state import pack, unpack
from mmcredit.data.videos import VideoReader, video_loader


@pytest.fixture(autouse=True)
def readers(monkeypatch):
    """The registered ways to read videos, put back afterwards."""
    components.names("video")
    monkeypatch.setitem(components._REGISTRY, "video", {})

    @register("video", "noise")
    class Noise(VideoReader):
        """Frames of noise, as many as `count`."""

        count: int = Field(4, description="frames")

        def read(self, media: Media, limits: MediaLimits) -> Any:
            frames = np.random.RandomState(0).randint(0, 255, (self.count, 64, 64, 3), dtype=np.uint8)
            rate = float(media.options.get("fps", 1))
            return frames, {"fps": rate, "total_num_frames": self.count, "frames_indices": list(range(self.count))}


def read(folder: Path, row: dict[str, Any], **limits: Any):
    (folder / "rows.jsonl").write_text(json.dumps(row), encoding="utf-8")
    (folder / "v.mp4").write_bytes(b"\0\0\0\x18ftypmp42 any")
    source = build("source", {"jsonl": {"path": str(folder / "rows.jsonl")}})
    return source.load(MediaLimits(root=folder, **limits))[0]  # type: ignore[attr-defined]


def test_messages_of_qwen_vl_utils_are_taken_unchanged(tmp_path: Path) -> None:
    part = {"type": "video", "video": "v.mp4", "fps": 2.0, "video_start": 5, "video_end": 9.5, "max_pixels": 50176}
    content = [part, {"type": "text", "text": "what moves"}]
    sample = read(tmp_path, {"messages": [{"role": "user", "content": content}], "answer": "a"})
    (media,) = sample.media
    assert media.options == {"fps": 2.0, "video_start": 5, "video_end": 9.5, "max_pixels": 50176}
    assert media.path == tmp_path / "v.mp4"
    assert sample.messages[0]["content"] == [{"type": "video"}, {"type": "text", "text": "what moves"}]
    again = unpack(pack(sample))
    assert again.media == sample.media
    keys = {content_key(media), content_key(Media("video", path=media.path)),
            content_key(Media("video", path=media.path, options={"fps": 1.0}))}  # fmt: skip
    assert len(keys) == 3


def test_a_list_of_frames_is_a_video(tmp_path: Path) -> None:
    for name in ("0.png", "1.png"):
        (tmp_path / name).write_bytes(tiny_png(32, int(name[0])))
    content = [{"type": "video", "video": ["0.png", "1.png"], "sample_fps": 2}, {"type": "text", "text": "what"}]
    sample = read(tmp_path, {"messages": [{"role": "user", "content": content}], "answer": "a"})
    (media,) = sample.media
    assert [frame.path.name for frame in media.frames] == ["0.png", "1.png"]
    assert media.options == {"sample_fps": 2}
    assert unpack(pack(sample)).media == sample.media
    swapped = Media("video", frames=media.frames[::-1], options=media.options)
    assert content_key(media) != content_key(swapped)


def test_options_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    content = [{"type": "video", "video": "v.mp4", "fps": "fast"}, {"type": "text", "text": "what"}]
    with pytest.raises(ValueError, match=r"fps must be a number, got str 'fast'"):
        read(tmp_path, {"messages": [{"role": "user", "content": content}], "answer": "a"})


def test_the_reader_of_the_config_makes_the_frames(tmp_path: Path) -> None:
    sample = read(tmp_path, {"prompt": "what moves", "videos": ["v.mp4"], "answer": "a"})
    grids, keys = [], []
    for spec in (None, {"noise": {"count": 8}}):
        policy = make_policy("qwen3_vl")
        policy.media_limits = MediaLimits(root=tmp_path, video=spec)
        prompt = policy.encode(sample)
        grids.append(prompt.media["video_grid_thw"].tolist())
        keys.append(prompt.media_keys)
        assert "<0.5 seconds>" in policy.tokenizer.decode(prompt.tokens)  # the mean of the first two frames
    assert grids == [[[2, 4, 4]], [[4, 4, 4]]]
    assert keys[0] != keys[1]  # features of other frames of the same file are other features


def test_which_reader_must_be_clear() -> None:
    with pytest.raises(ValueError, match="unknown video 'none'"):
        video_loader(MediaLimits(video="none"))

    @register("video", "other")
    class Other(VideoReader):
        """A second one."""

    with pytest.raises(ValueError, match=r"data.media.video names no way to read videos; there are noise, other"):
        video_loader(MediaLimits())
    components._REGISTRY["video"].clear()
    assert video_loader(MediaLimits()) is None


def test_media_say_one_thing() -> None:
    with pytest.raises(ValueError, match="exactly one of them"):
        Media("video", data=b"x", frames=(Media("image", data=b"y"),))
    with pytest.raises(ValueError, match="this is an image"):
        Media("image", data=b"x", options={"fps": 2})
