"""What other projects' users reported about video input, tried here. Each test names the report that it follows."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from tiny import tiny_vl
from video_clips import number_of, write

import video.components  # noqa: F401
from mmcredit.components import build
from mmcredit.data.dropped import reason_of
from mmcredit.data.media import MediaLimits
from mmcredit.data.sample import Media, Sample
from mmcredit.data.videos import VideoLoader
from mmcredit.policy.policy import Policy
from video.tags import add_tags

pytest.importorskip("av")
LIMITS = {"fps": 2.0, "min_volume": 2048, "max_volume": 65536}


def reader(patch: int = 8):
    return build("video", {"sampled": {"patch_size": patch, "limits": LIMITS}})


@pytest.fixture(scope="module", params=["qwen3_vl", "qwen2_5_vl"])
def policy(request) -> Policy:
    model, processor = tiny_vl(request.param)
    add_tags(processor.tokenizer, model)
    made = Policy(model, processor.tokenizer, processor)
    made.encoder.load_video = VideoLoader(reader(model.config.vision_config.patch_size), MediaLimits())
    return made


def asked(*videos: Media) -> Sample:
    parts = [{"type": "video"} for _ in videos] + [{"type": "text", "text": "what moves"}]
    return Sample("s", ({"role": "user", "content": parts},), videos, answer="a")


def clip(folder: Path, name: str, seconds: float, rate: int = 10) -> Path:
    return write(folder / name, np.arange(round(seconds * rate)) / rate)


def blocks(policy: Policy, prompt) -> list[int]:
    """Video tokens of a prompt, run by run."""
    pads = (prompt.tokens == policy.model.config.video_token_id).tolist()
    starts = [i for i, pad in enumerate(pads) if pad and (i == 0 or not pads[i - 1])]
    return [pads[start:].index(False) for start in starts]


def test_videos_of_one_sample_have_their_own_numbers_of_frames(policy, tmp_path) -> None:
    """hiyouga/LlamaFactory#10608: every video was expanded with the first one's frames."""
    files = [clip(tmp_path, "a.mp4", 2), clip(tmp_path, "b.mp4", 5)]
    pair = policy.encode(asked(*(Media("video", path=f, name=f.name) for f in files)))
    alone = [policy.encode(asked(Media("video", path=f, name=f.name))) for f in files]
    grids = pair.media["video_grid_thw"]
    assert grids[:, 0].tolist() == [2, 5]
    assert blocks(policy, pair) == [n for one in alone for n in blocks(policy, one)]
    merge = policy.processor.video_processor.merge_size**2
    assert sum(blocks(policy, pair)) == int(grids.prod(1).sum()) // merge


def test_frames_of_a_list_are_labelled_by_its_own_rate(policy, tmp_path) -> None:
    """QwenLM/Qwen3-VL#1992 and #2117: a list of frames was taken for 24 frames a second."""
    from PIL import Image
    from video_clips import picture

    frames = []
    for i in range(4):
        Image.fromarray(picture(i)).save(tmp_path / f"{i}.png")
        frames.append(Media("image", path=tmp_path / f"{i}.png"))
    _, about = reader().read(Media("video", frames=tuple(frames), options={"sample_fps": 0.5}), MediaLimits())
    assert [i / about["fps"] for i in about["frames_indices"]] == [0.0, 2.0, 4.0, 6.0]
    prompt = policy.encode(asked(Media("video", frames=tuple(frames), name="l", options={"sample_fps": 0.5})))
    if "qwen3" in policy.model.config.model_type:
        text = policy.tokenizer.decode(prompt.tokens)
        assert "<1.0 seconds>" in text
        assert "<5.0 seconds>" in text


def test_more_frames_than_there_are(policy, tmp_path) -> None:
    """EvolvingLMMs-Lab/lmms-eval#874, QwenLM/Qwen3-VL#2012: a fixed number of frames over that of a short clip.

    Asked for by a row it is an error that says both numbers, by rate or by a limit all frames are shown."""
    path = clip(tmp_path, "short.mp4", 0.9)
    with pytest.raises(ValueError, match=r"32 .*9") as caught:
        policy.encode(asked(Media("video", path=path, name="short.mp4", options={"nframes": 32})))
    assert reason_of(caught.value)
    pixels, _ = reader().read(Media("video", path=path, options={"fps": 30.0, "max_frames": 32}), MediaLimits())
    assert len(pixels) == 8


def test_a_clip_of_one_picture_and_odd_numbers_fill_whole_groups(policy, tmp_path) -> None:
    """QwenLM/Qwen3-VL#1689 (one frame was refused), hiyouga/LlamaFactory#6839 (odd counts)."""
    one = policy.encode(asked(Media("video", path=write(tmp_path / "one.mp4", [0.0]), name="one.mp4")))
    assert one.media["video_grid_thw"][:, 0].tolist() == [1]
    three = policy.encode(asked(Media("video", path=write(tmp_path / "3.mp4", [0.0, 0.5, 1.0]), name="3.mp4")))
    assert len(blocks(policy, three)) >= 1
    assert three.media["video_grid_thw"][0, 0] == 1, "an even number of frames is shown"


def overstated(path: Path, source: Path, extra: int) -> Path:
    """A copy of a clip with `extra` packets at its end that hold no picture."""
    import av

    with av.open(str(source)) as given, av.open(str(path), "w") as made:
        stream = made.add_stream_from_template(given.streams.video[0])
        last = None
        for packet in given.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                made.mux(packet)
                last = (packet.pts, packet.dts, packet.duration, packet.time_base)
        for number in range(1, extra + 1):
            empty = av.Packet(b"\x00\x00\x00\x02\x09\x10")  # an access unit delimiter and nothing else
            empty.stream = stream
            empty.time_base = last[3]
            step = last[2] or round(Fraction(1, 10) / last[3])
            empty.pts, empty.dts, empty.duration = last[0] + number * step, last[1] + number * step, step
            made.mux(empty)
    return path


def test_frames_that_the_file_counts_and_does_not_hold(tmp_path) -> None:
    """QwenLM/Qwen3-VL#1770: 1227 frames were announced and 1225 could be read, which failed the request."""
    source = clip(tmp_path, "a.mp4", 3)
    path = overstated(tmp_path / "more.mp4", source, 2)
    media = Media("video", path=path, name="more.mp4")
    with pytest.raises(ValueError, match=r"more\.mp4") as caught:
        reader().read(media, MediaLimits())
    assert reason_of(caught.value) == "media damaged"
    inside = Media("video", path=path, name="more.mp4", options={"video_start": 0.5, "video_end": 2.0, "fps": 4.0})
    pixels, about = reader().read(inside, MediaLimits())
    shown = [index / about["fps"] for index in about["frames_indices"]]
    assert shown == pytest.approx([number_of(image) / 10 for image in pixels])
