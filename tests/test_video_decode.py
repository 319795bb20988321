"""Every backend returns the frames asked for, with their times; what cannot be read names its file, in time."""

import os
import subprocess
import sys
import threading
import time
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image
from tests.video_clips import HEIGHT, WIDTH, number_of, write, write_sound

from mmcredit.components import build
from mmcredit.data.dropped import UnusableSample
from mmcredit.data.media import MediaLimits
from mmcredit.data.sample import Media
from mmcredit.data.videos.base import EMPTY
from video.clip import Clock, VideoError
from video.decode import BACKENDS, WindowCache, open_decoder
from video.frames import labels, sample, window_indices

av = pytest.importorskip("av")

CFR = np.arange(300) / 30
VFR = np.concatenate([[0], np.cumsum(np.random.default_rng(0).uniform(0.01, 0.12, 149))])
KINDS = {
    "cfr.mp4": (CFR, {}),
    "bframes.mp4": (CFR, {"options": {"bf": "3", "g": "40"}}),
    "vfr.mp4": (VFR, {}),
    "rotated.mp4": (CFR[:60], {"rotation": 90}),
    "upside_down.mp4": (CFR[:60], {"rotation": 180}),
    "offset.mkv": (CFR, {"start": 5.0, "options": {"bf": "2"}}),
    "offset.mp4": (CFR[:90], {"start": 5.0}),
    "uncounted.webm": (CFR[:60], {"codec": "libvpx-vp9", "options": {"deadline": "realtime", "cpu-used": "8"}}),
    "stream.ts": (CFR, {"fmt": "mpegts", "options": {"bf": "2", "g": "40"}}),
    "fragments.mp4": (CFR[:90], {"fragments": True}),
}
REFUSED = {"decord": {"rotated.mp4", "upside_down.mp4", "stream.ts"}, "torchcodec": {"stream.ts"}, "pyav": set()}


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    for name, (times, settings) in KINDS.items():
        settings = dict(settings)
        if settings.pop("fragments", False):  # an index in every fragment, no number of frames at the front
            whole = write(folder / f"whole_{name}", times, **settings)
            options = {"movflags": "frag_keyframe+empty_moov"}
            with av.open(str(whole)) as source, av.open(str(folder / name), "w", options=options) as target:
                stream = target.add_stream_from_template(source.streams.video[0])
                for packet in source.demux(video=0):
                    if packet.dts is not None:
                        packet.stream = stream
                        target.mux(packet)
        else:
            write(folder / name, times, **settings)
    return folder


@pytest.fixture(scope="module", params=BACKENDS)
def decoder(request):
    try:
        found = open_decoder(request.param)
    except ValueError as error:
        pytest.skip(str(error))
    yield found
    if request.param == "decord":
        found.close()


@pytest.mark.parametrize("name", KINDS)
def test_frames_are_the_ones_asked_for(decoder, clips, name):
    times = KINDS[name][0]
    path = clips / name
    if name in REFUSED[decoder.name]:
        with pytest.raises(VideoError, match=f"{name}.*take (the backend )?pyav"):
            decoder.frames_at(path, [0, 10])
        return
    index = decoder.index(path)
    assert len(index) == len(times)
    np.testing.assert_allclose(index.times, times, atol=1.1e-3)  # Matroska counts in milliseconds
    numbers = [0, 1, 10, len(times) // 2, len(times) - 1]
    turn = {"rotated.mp4": 3, "upside_down.mp4": 2}.get(name, 0)
    for asked in (numbers, numbers[::-1], [10, 10], [len(times) - 1]):
        shown = decoder.frames_at(path, asked)
        assert shown.indices == tuple(asked)
        assert [number_of(np.rot90(image, turn)) for image in shown.pixels] == asked
        np.testing.assert_array_equal(shown.times, index.times[asked])
    height, width = (WIDTH, HEIGHT) if turn == 3 else (HEIGHT, WIDTH)
    assert (index.height, index.width) == shown.pixels.shape[1:3] == (height, width)
    assert decoder.frames_at(path, [3, 4], size=(32, 96)).pixels.shape == (2, 32, 96, 3)


def test_a_window_holds_its_own_frames(decoder, clips):
    """The release's seek (a number of seconds, read as microseconds) gives the first seconds of the file instead."""
    index = decoder.index(clips / "cfr.mp4")
    chosen = sample(index.times, index.fps, 5.0, 7.0, fps=2)
    assert chosen == window_indices(5.0, 7.0, 2, 30, 300)
    shown = decoder.frames_at(clips / "cfr.mp4", chosen)
    assert [number_of(image) for image in shown.pixels] == chosen
    assert chosen[0] == 150
    assert labels(list(shown.times)) == ["<5.3 seconds>", "<6.7 seconds>"]


def test_frames_by_time(decoder, clips):
    asked = [0.0, 4.999, 5.0, 5.02, 9.97, 99.0, -1.0, 2.5]
    shown = decoder.frames(clips / "cfr.mp4", asked)
    assert shown.indices == (0, 149, 150, 150, 299, 299, 0, 75)
    assert [number_of(image) for image in shown.pixels] == list(shown.indices)
    slow = decoder.frames(clips / "vfr.mp4", [float(VFR[40]) + 0.001, float(VFR[41]) - 0.001, float(VFR[100])])
    assert slow.indices == (40, 40, 100)


def broken(folder, clips):
    whole = (clips / "cfr.mp4").read_bytes()
    at = whole.index(b"mdat")
    files = {
        "empty.mp4": b"",
        "noise.mp4": bytes(np.random.default_rng(0).integers(0, 256, 5000, dtype=np.uint8)),
        "text.mp4": b"this is no video\n" * 50,
        "headless.mp4": whole[: len(whole) // 2],
        "playlist.mp4": b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n" + str(clips / "cfr.mp4").encode() + b"\n",
        "scratched.mp4": whole[: at + 100] + bytes(4000) + whole[at + 4100 :],
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    with av.open(str(clips / "cfr.mp4")) as source:
        options = {"movflags": "faststart"}
        with av.open(str(folder / "front.mp4"), "w", options=options) as target:
            stream = target.add_stream_from_template(source.streams.video[0])
            for packet in source.demux(video=0):
                if packet.dts is not None:
                    packet.stream = stream
                    target.mux(packet)
    front = (folder / "front.mp4").read_bytes()
    (folder / "truncated.mp4").write_bytes(front[: len(front) * 2 // 3])
    write_sound(folder / "sound.m4a")
    return [*files, "truncated.mp4", "sound.m4a", "missing.mp4", "."]


def test_files_that_cannot_be_read_are_named(decoder, clips, tmp_path):
    for name in broken(tmp_path, clips):
        path = tmp_path / name
        began = time.monotonic()
        with pytest.raises(VideoError) as caught:
            decoder.frames_at(path, list(range(0, 300, 5)))
        assert str(path) in str(caught.value), name
        assert "\n" not in str(caught.value)
        assert caught.value.reason, name
        assert time.monotonic() - began < 60


def test_what_is_wrong_is_said(clips, tmp_path):
    broken(tmp_path, clips)
    pyav = open_decoder("pyav", max_pixels=HEIGHT * WIDTH)
    said = {}
    for name in ("empty.mp4", "truncated.mp4", "sound.m4a", "playlist.mp4", "missing.mp4"):
        with pytest.raises(VideoError) as caught:
            pyav.index(tmp_path / name)
        said[name] = caught.value
    assert "is empty (0 bytes)" in said["empty.mp4"].why
    assert "of 300 frames are there" in said["truncated.mp4"].why
    assert "no video stream (streams: audio)" in said["sound.m4a"].why
    assert [e.reason for e in said.values()] == ["damaged", "truncated", "no video stream", "damaged", "missing"]
    with pytest.raises(VideoError, match=f"more than max_pixels={HEIGHT * WIDTH - 1}"):
        open_decoder("pyav", max_pixels=HEIGHT * WIDTH - 1).index(clips / "cfr.mp4")
    with pytest.raises(ValueError, match=r"has frames 0 to 299, 300 is asked for"):
        pyav.frames_at(clips / "cfr.mp4", [300])
    with pytest.raises(ValueError, match="no frames are asked"):
        pyav.frames_at(clips / "cfr.mp4", [])
    with pytest.raises(ValueError, match="unknown video backend 'ffmpeg'"):
        open_decoder("ffmpeg")


def test_the_deadline_holds_in_this_process(clips):
    with pytest.raises(VideoError, match=r"was not decoded within 1e-09 s") as caught:
        open_decoder("pyav", deadline=1e-9).frames_at(clips / "cfr.mp4", [200])
    assert caught.value.reason == "deadline"


def test_a_decoder_that_hangs_is_killed_and_replaced(clips, monkeypatch):
    pytest.importorskip("decord")
    decoder = open_decoder("decord", deadline=0.5)
    real = decoder.command
    decoder.command = [sys.executable, "-c", "import time; print('{}', flush=True); time.sleep(600)"]
    with pytest.raises(VideoError, match="was not decoded within 0.5 s"):
        decoder.frames_at(clips / "cfr.mp4", [3])
    assert decoder._process is None
    decoder.command = [sys.executable, "-c", "import os; print('{}', flush=True); input(); os._exit(7)"]
    with pytest.raises(VideoError, match=r"ended decord's process \(exit"):
        decoder.frames_at(clips / "cfr.mp4", [3])
    decoder.command, decoder.deadline = real, 60.0
    assert number_of(decoder.frames_at(clips / "cfr.mp4", [3]).pixels[0]) == 3
    process = decoder._process
    decoder.close()
    assert process.returncode == -9


def test_a_long_video_is_read_sparsely(tmp_path):
    """Two hours at one frame a second: a window costs the frames from its key frame on, whatever stands before it."""
    path = write(tmp_path / "long.mp4", np.arange(7200.0), codec="mpeg4", options={"g": "60"}, base=Fraction(1, 1000))
    decoder = open_decoder("pyav")
    index = decoder.index(path)
    assert (len(index), round(index.duration)) == (7200, 7200)
    before = decoder.decoded
    shown = decoder.frames_at(path, sample(index.times, index.fps, 7000.0, 7010.0, fps=1))
    assert [number_of(image) for image in shown.pixels] == [n % 4096 for n in shown.indices]
    assert shown.times[0] == 7000.0
    assert decoder.decoded - before <= 60 + 10 + 16
    before = decoder.decoded
    coarse = sample(index.times, index.fps, fps=2, max_frames=16)
    assert decoder.frames_at(path, coarse).pixels.nbytes == 16 * HEIGHT * WIDTH * 3
    assert decoder.decoded - before <= 16 * (60 + 16)


class Counting:
    """A decoder that says how often it was asked."""

    name = "counting"

    def __init__(self, decoder):
        self.decoder, self.asked = decoder, 0

    def index(self, path):
        return self.decoder.index(path)

    def frames_at(self, path, indices, size=None):
        self.asked += 1
        return self.decoder.frames_at(path, indices, size)


def test_windows_are_cached_up_to_a_number_of_bytes(clips, tmp_path):
    counting = Counting(open_decoder("pyav"))
    one = HEIGHT * WIDTH * 3
    cache = WindowCache(counting, limit_bytes=4 * one)
    path = clips / "cfr.mp4"
    first = cache.frames_at(path, [1, 2])
    assert cache.frames_at(path, [1, 2]) is first
    assert (counting.asked, cache.hits, cache.misses, cache.held_bytes) == (1, 1, 1, 2 * one)
    with pytest.raises(ValueError, match="read-only"):
        first.pixels[0] = 0
    cache.frames_at(path, [1, 2], size=(24, 32))
    cache.frames_at(path, [3, 4])  # over the limit: the window used longest ago goes
    assert cache.held_bytes <= 4 * one
    cache.frames_at(path, [1, 2])
    assert counting.asked == 4
    cache.frames_at(path, list(range(9)))  # larger than the whole cache: given, not kept
    assert cache.held_bytes <= 4 * one
    copy = tmp_path / "copy.mp4"
    copy.write_bytes(path.read_bytes())
    cache.frames_at(copy, [1])
    write(copy, CFR[5:60])
    os.utime(copy, ns=(1, 1))
    assert len(cache.index(copy)) == 55  # a file that changed is read again
    asked = counting.asked
    cache.frames_at(copy, [1])
    assert counting.asked == asked + 1


def test_threads_share_a_cache(clips):
    cache = WindowCache(open_decoder("pyav"))
    seen = []

    def read(i):
        shown = cache.frames_at(clips / "bframes.mp4", [i, i + 50])
        seen.append([number_of(image) for image in shown.pixels] == [i, i + 50])

    threads = [threading.Thread(target=read, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [True] * 6


def test_the_extra_is_named(monkeypatch):
    code = (
        "import sys; sys.modules['av'] = None\n"
        "import video.decode, video.reader, video.components\n"
        "try: video.decode.open_decoder('pyav')\n"
        "except ValueError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'mmcredit[video]'" in done.stdout


def reader(**fields):
    return build("video", {"sampled": {"limits": {"min_volume": 2048}, **fields}})


def media(path, **options):
    return Media("video", path=path, name=f"'{path.name}' of sample x", options=options)


def test_rows_of_qwen_vl_utils_are_read(clips):
    pixels, about = reader().read(media(clips / "cfr.mp4", fps=2.0, video_start=5.0, video_end=7.0), MediaLimits())
    assert about["frames_indices"] == window_indices(5.0, 7.0, 2, 30, 300)
    assert [number_of(image) for image in pixels] == about["frames_indices"]
    assert (about["fps"], about["total_num_frames"]) == (30.0, 61)
    whole, about = reader(limits={"fps": 1, "coarse_frames": 8, "min_volume": 2048}).read(
        media(clips / "cfr.mp4"), MediaLimits()
    )
    assert [number_of(image) for image in whole] == about["frames_indices"] == sample(CFR, 30, fps=1, max_frames=8)
    assert reader().read(media(clips / "cfr.mp4", nframes=6.0), MediaLimits())[0].shape[0] == 6
    sized = reader().read(media(clips / "cfr.mp4", nframes=6.0, max_pixels=4096.0, min_pixels=1024.0), MediaLimits())
    assert sized[0].shape[1] * sized[0].shape[2] <= 4096
    _, about = reader().read(media(clips / "vfr.mp4", fps=2.0), MediaLimits())
    shown = np.array(about["frames_indices"]) / about["fps"]
    assert all(np.abs(VFR - t).min() < 1e-3 for t in shown)  # true times, whatever the rate


def test_bytes_lists_of_frames_and_single_frames(clips, tmp_path):
    data = (clips / "cfr.mp4").read_bytes()
    pixels, _ = reader().read(Media("video", data=data, name="x", options={"nframes": 4.0}), MediaLimits())
    assert [number_of(image) for image in pixels] == sample(CFR, 30, nframes=4)
    from tests.video_clips import picture

    names = []
    for i in range(3):
        Image.fromarray(picture(i)).save(tmp_path / f"{i}.png")
        names.append(Media("image", path=tmp_path / f"{i}.png"))
    listed = Media("video", frames=tuple(names), name="list", options={"sample_fps": 4.0})
    pixels, about = reader().read(listed, MediaLimits())
    assert [number_of(image) for image in pixels] == [0, 1, 2, 2]
    assert (about["fps"], about["frames_indices"]) == (4.0, [0, 1, 2, 3])
    single = write(tmp_path / "single.mp4", [0.0])
    pixels, about = reader().read(media(single), MediaLimits())
    assert (pixels.shape[0], about["frames_indices"]) == (2, [0, 0])


def test_videos_that_cannot_be_used_are_dropped_under_a_reason(clips, tmp_path):
    broken(tmp_path, clips)
    for name, reason in (("truncated.mp4", "media damaged"), ("missing.mp4", "media missing")):
        with pytest.raises(UnusableSample, match=f"video '{name}' of sample x") as caught:
            reader().read(media(tmp_path / name), MediaLimits())
        assert caught.value.reason == reason
    with pytest.raises(UnusableSample, match="the window 50 - 60 s") as caught:
        reader().read(media(clips / "cfr.mp4", video_start=50.0, video_end=60.0), MediaLimits())
    assert caught.value.reason == EMPTY
    short = write(tmp_path / "short.mp4", CFR[:3])
    with pytest.raises(UnusableSample, match="4 frames are asked of 3") as caught:
        reader().read(media(short, nframes=4.0), MediaLimits())
    assert caught.value.reason == "media too short"
    with pytest.raises(UnusableSample, match="more than max_pixels=10"):
        reader().read(media(clips / "cfr.mp4"), MediaLimits(max_pixels=10))


def test_a_clock():
    clock = Clock(100.0, "x")
    assert 99 < clock.left <= 100
    clock.check()
