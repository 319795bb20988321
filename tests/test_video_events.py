"""Procedural clips: the coarse frames tell nothing, the right window at the right rate tells all; seeds and splits."""

import dataclasses
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

import video.components  # noqa: F401
from mmcredit.answers.item import RewardItem
from mmcredit.components import build
from mmcredit.data.media import MediaLimits
from video.decode import open_decoder
from video.event_clips import KINDS, NATIVE, NOTHING, SHAPES, SLOTS, gold_frames, make_event
from video.frames import sample, window_indices
from video.retrieval import parse_calls

pytest.importorskip("av")


def events(count, **more):
    return [make_event(KINDS, 0, "train", i, **more) for i in range(count)]


def slots_seen(event, frames):
    """Slots of the window whose detail, if there is one, is on screen in one of these frames."""
    return {event.window.slot(n) for n in frames if n in event.window.frames() and n not in event.coarse}


def test_the_gold_window_at_the_gold_rate_shows_every_slot_and_less_does_not():
    for event in events(40):
        window, total = event.window, event.seconds * NATIVE
        gold = gold_frames(window, event.seconds)
        assert [window.slot(n) for n in gold] == list(range(SLOTS))
        assert slots_seen(event, gold) == set(range(SLOTS))
        assert not slots_seen(event, event.coarse)
        half = window_indices(window.start, window.end, window.fps / 2, NATIVE, total)
        assert len(slots_seen(event, half)) <= SLOTS // 2
        elsewhere = (window.end + 1, event.seconds) if window.end + 2 <= event.seconds else (0, window.start - 1)
        if elsewhere[1] - elsewhere[0] >= 1:
            assert not slots_seen(event, window_indices(*map(float, elsewhere), window.fps, NATIVE, total))


def test_coarse_frames_are_the_same_for_every_answer(tmp_path):
    """So they carry no information on it, whatever a model makes of them."""
    for number, event in enumerate(events(5)):
        pictures = []
        for place, shape in enumerate(SHAPES):
            details = [NOTHING] * SLOTS
            details[place], details[place + 3] = (shape, ""), ("circle", "red")
            other = dataclasses.replace(event, windows=(dataclasses.replace(event.window, details=tuple(details)),))
            path = tmp_path / f"{number}_{place}.mp4"
            path.write_bytes(other.mp4())
            decoder = open_decoder("pyav")
            index = decoder.index(path)
            coarse = sample(index.times, index.fps, fps=1.0)
            assert tuple(coarse) == event.coarse
            pictures.append((decoder.frames_at(path, coarse).pixels, decoder.frames_at(path, gold_of(event)).pixels))
        for coarse, gold in pictures[1:]:
            np.testing.assert_array_equal(coarse, pictures[0][0])
            assert np.abs(gold.astype(int) - pictures[0][1]).max() > 100


def gold_of(event):
    return gold_frames(event.window, event.seconds)


def test_files_show_what_was_drawn(tmp_path):
    event = events(1)[0]
    path = tmp_path / "clip.mp4"
    path.write_bytes(event.mp4())
    assert event.mp4() == path.read_bytes()
    decoder = open_decoder("pyav")
    index = decoder.index(path)
    assert (len(index), index.fps) == (event.seconds * NATIVE, NATIVE)
    numbers = list(range(0, len(index), 3))
    shown = decoder.frames_at(path, numbers).pixels
    wanted = np.stack([event.frame(n) for n in numbers])
    assert np.abs(shown.astype(int) - wanted).mean() < 6  # what the codec's colours leave


def test_answers_follow_from_the_details():
    for event in events(60):
        shown = [detail for detail in event.window.details if detail[0]]
        if event.kind == "appear":
            assert [shape for shape, _ in shown] == [event.answer]
        elif event.kind == "tint":
            assert [colour for _, colour in shown] == [event.answer]
        elif event.kind == "flash":
            assert len(shown) == int(event.answer)
            places = [i for i, detail in enumerate(event.window.details) if detail[0]]
            assert all(b - a > 1 for a, b in pairwise(places))
        elif event.kind == "change":
            assert shown[-1][1] == event.answer != shown[0][1]
        elif event.kind == "count":
            assert len({shape for shape, _ in shown}) == int(event.answer)
        else:
            start, end = map(float, event.answer.split(" - "))
            assert event.window.start <= start < end <= event.window.end + 0.1
            assert (start, end) != (event.window.start, event.window.end)


def test_answers_are_even_and_do_not_depend_on_what_is_coarse():
    made = [make_event(["flash"], 0, "train", i) for i in range(400)]
    counts = Counter(event.answer for event in made)
    assert set(counts) == {"1", "2", "3", "4"}
    assert max(counts.values()) < 130
    wide = Counter(event.answer for event in made if event.window.width == "thick")
    assert max(wide.values()) / sum(wide.values()) < 0.36


def test_the_ideal_response_earns_everything():
    source = build("source", {"video_events": {"size": 10, "kinds": list(KINDS)}})
    samples = source.load(MediaLimits())
    retrieval, reasoning = build("reward", "retrieval"), build("reward", "reasoning")
    for sample_ in samples:
        item = RewardItem(sample_.meta["completion"], sample_.answer, meta=sample_.meta)
        assert retrieval([item]) == [1.0]
        assert reasoning([item]) == [pytest.approx(0.7)]
        assert [call.status for call in parse_calls(item.response)] == ["ok"]
        assert sample_.media[0].data[4:8] == b"ftyp"
        assert [part["type"] for part in sample_.messages[0]["content"]] == ["video", "text"]


def test_stray_calls_tell_what_they_show_and_keep_the_answer():
    fields = {"size": 40, "kinds": ["appear", "tint"], "max_frames": 8}
    gold, stray = (
        list(build("source", {"video_events": {**fields, "stray": share}}).load(MediaLimits())) for share in (0.0, 1.0)
    )
    hidden = []
    for sample_, ideal in zip(stray, gold, strict=True):
        text, other = sample_.meta["completion"], ideal.meta["completion"]
        (call,) = parse_calls(text)
        assert call.ok
        assert abs(call.start - sample_.meta["span"][0]) <= 2
        assert abs(call.end - sample_.meta["span"][1]) <= 2
        assert (sample_.answer, sample_.meta["span"]) == (ideal.answer, ideal.meta["span"])
        told, said = text.partition("</fps>")[2], other.partition("</fps>")[2]
        hidden.append(told == said.replace(f"\n{sample_.answer}<", "\nnothing<"))
        assert hidden[-1] or told == said
    assert 5 < sum(hidden) < 35, "some windows miss the detail, and say so"


def test_seeds_and_splits():
    def clips(**fields):
        source = build("source", {"video_events": {"size": 30, **fields}})
        rows = source.rows()
        return [rows._event(i) for i in range(30)]

    assert clips() == clips()
    assert clips() != clips(seed=1)
    train, test = ({e.key() for e in clips(split=s, seed=s2)} for s, s2 in (("train", 0), ("test", 5)))
    assert not train & test
    ids = [build("source", "video_events").rows().id(i) for i in (0, 7)]
    assert ids == ["video_events/train/0/0", "video_events/train/0/7"]


def test_decoys_have_other_borders_and_lie_apart():
    for event in events(20, decoys=1, longest=24):
        first, second = sorted(event.windows, key=lambda w: w.start)
        assert first.end < second.start
        assert first.border != second.border
        assert event.window.border in event.question


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"kinds": ["flash", "flash"]}, "at most once"),
        ({"shortest": 20, "longest": 10}, "shortest 20 is over longest 10"),
        ({"decoys": 3, "longest": 12}, "no room for 4 windows"),
        ({"image_size": 50}, "multiple of 16"),
    ],
)
def test_fields_that_do_not_fit(fields, said):
    with pytest.raises(ValueError, match=said):
        build("source", {"video_events": fields})
