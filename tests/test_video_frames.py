"""The one sampler: numbers of qwen-vl-utils and of Qwen3-VL's processor, times of groups, limits, what a call gets."""

import json
from pathlib import Path

import numpy as np
import pytest
from transformers.models.qwen3_vl.video_processing_qwen3_vl import smart_resize

from video.frames import (
    NoFrames,
    Plan,
    VideoLimits,
    frame_range,
    frame_size,
    group_times,
    is_constant,
    labels,
    plan_window,
    sample,
    smart_nframes,
    spread,
    volume_size,
    window_indices,
)
from video.retrieval import Call, parse_call

HERE = Path(__file__).parent


def lines(name):
    """Numbers made with qwen-vl-utils 0.0.14 itself."""
    return [json.loads(line) for line in (HERE / name).read_text().splitlines()]


def test_counts_windows_and_frame_numbers_of_qwen_vl_utils():
    seen = {"refused window": 0, "refused count": 0, "counted": 0}
    for row in lines("qwen_vl_utils_counts.jsonl"):
        ele, total, fps = row["ele"], row["total"], row["fps"]
        counts = {key: ele[key] for key in ("fps", "nframes", "min_frames", "max_frames") if key in ele}
        window = ele.get("video_start"), ele.get("video_end")
        if row["range"] is None:
            seen["refused window"] += 1
            with pytest.raises(NoFrames):
                frame_range(*window, total, fps)
            continue
        first, last = frame_range(*window, total, fps)
        assert [first, last, last - first + 1] == row["range"], row
        if row["nframes"] is None:
            seen["refused count"] += 1
            with pytest.raises(NoFrames):
                smart_nframes(last - first + 1, fps, **counts)
            continue
        seen["counted"] += 1
        assert smart_nframes(last - first + 1, fps, **counts) == row["nframes"], row
        chosen = sample(np.arange(total) / fps, fps, *window, **counts)
        n = len(chosen)
        shown = chosen if n <= 40 else [chosen[0], chosen[1], chosen[n // 2], chosen[-2], chosen[-1], sum(chosen)]
        assert shown == row["indices"], row
    assert min(seen.values()) >= 20, seen


def test_frame_sizes_of_qwen_vl_utils():
    seen = {True: 0, False: 0}
    for row in lines("qwen_vl_utils_sizes.jsonl"):
        asked = row["nframes"], row["height"], row["width"], row["patch"], row["ele"]
        seen[row["size"] is None] += 1
        if row["size"] is None:
            with pytest.raises(ValueError, match="is below min_pixels|at most 200:1"):
                frame_size(*asked)
        else:
            assert list(frame_size(*asked)) == row["size"], row
    assert min(seen.values()) >= 10


def test_sizes_of_the_volume_rule():
    limits = VideoLimits()
    for nframes, height, width in ((256, 360, 640), (60, 360, 640), (8, 360, 640), (4, 360, 640)):
        assert volume_size(nframes, height, width) in [(192, 320), (352, 640)]
    rng = np.random.default_rng(0)
    for _ in range(300):
        nframes = int(rng.integers(1, 130)) * 2
        height, width = (int(x) for x in rng.integers(20, 2000, 2))
        theirs = smart_resize(nframes, height, width, 2, 32, min_pixels=limits.min_volume, max_pixels=limits.max_volume)
        assert volume_size(nframes, height, width) == tuple(theirs)
    with pytest.raises(ValueError, match="at most 200:1"):
        volume_size(4, 32, 6500)


@pytest.mark.parametrize(
    ("nframes", "size", "grid", "tokens"),
    [(256, (192, 320), (128, 12, 20), 7680), (60, (352, 640), (30, 22, 40), 6600), (8, (352, 640), (4, 22, 40), 880)],
)
def test_the_token_table_of_the_spec(nframes, size, grid, tokens):
    assert volume_size(nframes, 360, 640) == size
    plan = Plan("ok", "", tuple(range(nframes)), (), size)
    assert plan.grid == grid
    assert plan.grid[0] * plan.grid[1] * plan.grid[2] // 4 == tokens


def test_check_values_of_the_sampler():
    chosen = window_indices(5.0, 9.0, 2, 30, 9001)
    assert chosen == [150, 167, 184, 201, 219, 236, 253, 270]
    assert labels([i / 30 for i in chosen]) == ["<5.3 seconds>", "<6.4 seconds>", "<7.6 seconds>", "<8.7 seconds>"]
    assert len(window_indices(5.0, 5.8, 3, 30, 9001)) == 4
    assert len(window_indices(5.0, 5.05, 5, 30, 9001)) == 2
    assert len(window_indices(0, 300, 2, 30, 9000)) == 256
    assert window_indices(8.0, 99.0, 2, 30, 300)[-1] == 299  # clamped to the end
    for start, end in ((10.0, 12.0), (500, 900), (5.0, 5.01)):
        with pytest.raises(NoFrames, match=f"the window {start:g} - {end:g} s"):
            window_indices(start, end, 2, 30, 300)
    with pytest.raises(ValueError, match="fps or nframes, not both"):
        smart_nframes(100, 30, fps=2, nframes=4)
    with pytest.raises(NoFrames):
        smart_nframes(1, 30)


def test_times_of_groups():
    assert group_times([1.0, 2.0, 5.0]) == [1.5, 5.0]  # an odd last frame stands for two
    assert group_times([0.0, 0.5]) == [0.25]
    given = [1.0, 2.0, 5.0]
    group_times(given)
    assert given == [1.0, 2.0, 5.0]


def test_variable_rate_goes_by_time():
    # 10 s at 30 frames a second, then 10 s at 2.
    times = np.concatenate([np.arange(300) / 30, 10 + np.arange(20) / 2])
    assert not is_constant(times)
    assert is_constant(np.round(np.arange(300) / 30, 3))  # a clock of a millisecond
    chosen = sample(times, len(times) / 20, fps=2)
    shown = times[chosen]
    assert len(chosen) % 2 == 0
    steps = np.diff(shown)  # evenly in time, not in frame numbers; one frame goes to keep the number even
    assert sorted(np.abs(steps - 0.5))[-2] < 0.05
    assert steps.max() <= 1.0
    inside = sample(times, len(times) / 20, 12.0, 16.0, fps=2)
    assert times[inside].min() == 12.0
    assert times[inside].max() == 16.0
    assert len(set(inside)) == len(inside)
    with pytest.raises(NoFrames):
        sample(times, 16.0, 12.1, 12.4, fps=2)
    with pytest.raises(NoFrames):
        sample(times, 16.0, 30, 40, fps=2)


CLIP = np.arange(900) / 30  # 30 s


def test_a_call_gets_its_window():
    plan = plan_window(parse_call("<span>5 - 9</span><fps>2</fps>"), CLIP, 30, 360, 640)
    assert (plan.status, plan.indices) == ("ok", (150, 167, 184, 201, 219, 236, 253, 270))
    assert plan.times == tuple(CLIP[list(plan.indices)])
    assert plan.fps == pytest.approx(2)
    assert plan.tokens == 880 + 4 * 2 + sum(map(len, labels(plan.times)))
    assert plan_window(parse_call("<span>5 - 9</span><fps>2</fps>"), CLIP, 30, 360, 640, budget=plan.tokens) == plan


def test_rates_are_cut_and_lowered():
    def frames(fps, start=0.0, end=10.0, **fields):
        return len(plan_window(Call(start, end, fps, "ok"), CLIP, 30, 64, 64, VideoLimits(**fields)).indices)

    assert frames(30) == frames(5) == 50
    assert frames(1) == 10
    assert frames(1, min_rate=2) == frames(2) == 20
    assert frames(5, max_frames=16) == 16
    lower = plan_window(Call(0.0, 10.0, 5, "ok"), CLIP, 30, 64, 64, VideoLimits(max_frames=16))
    assert lower.fps == pytest.approx(1.6)


def test_over_budget_the_rate_goes_down_before_the_call_fails():
    call = Call(0.0, 10.0, 4, "ok")
    limits = VideoLimits(max_volume=16 * 64 * 64, min_volume=32 * 32)
    whole = plan_window(call, CLIP, 30, 64, 64, limits)
    fewer = plan_window(call, CLIP, 30, 64, 64, limits, budget=whole.tokens - 1)
    assert fewer.status == "ok"
    assert fewer.tokens < whole.tokens
    assert 2 <= len(fewer.indices) < len(whole.indices)
    assert (fewer.indices[0], fewer.indices[-1]) == (whole.indices[0], whole.indices[-1])
    refused = plan_window(call, CLIP, 30, 64, 64, limits, budget=3)
    assert (refused.status, refused.indices) == ("out_of_budget", ())
    assert "3 are left" in refused.reason


@pytest.mark.parametrize(("start", "end"), [(30.0, 40.0), (99.0, 100.0), (5.0, 5.01)])
def test_windows_without_frames(start, end):
    assert plan_window(Call(start, end, 2, "ok"), CLIP, 30, 64, 64).status == "empty"


def test_calls_that_are_not_ok_stay_what_they_are():
    assert plan_window(Call(status="malformed", reason="order"), CLIP, 30, 64, 64) == Plan("malformed", "order")
    assert plan_window(Call(0, 9, 2, "ok"), np.zeros(1), 30, 64, 64).status == "empty"  # a video of one frame


def test_limits_that_contradict():
    with pytest.raises(ValueError, match="min_rate 9.0 is over max_rate 5.0"):
        VideoLimits(min_rate=9)


def test_spread_rounds_half_to_even():
    assert spread(0, 3, 3) == [0, 2, 3]
    assert spread(0, 5, 3) == [0, 2, 5]
