"""Rewards of retrieval and grounding: the tables of the spec, what is labelled and what is not, through the pool."""

import math

import pytest

import video.components  # noqa: F401
from mmcredit.answers.item import RewardItem
from mmcredit.components import build
from mmcredit.rewards.pool import RewardPool
from video.retrieval import parse_call
from video.rewards import accuracy, answer_of, difficulty, format_score, fps_match, iou, scaled, window_iou

CALL = "<span>{} - {}</span><fps>{}</fps>"


def response(start=10, end=20, fps=2, answer="B"):
    return f"<think>T1 {CALL.format(start, end, fps)}<12.5 seconds>\nT2</think><answer>{answer}</answer>"


@pytest.mark.parametrize(
    ("start", "end", "fps", "overlap", "match"),
    [
        (10, 20, 2, 1.0, 1.0),
        (13, 17, 4, 0.6, 0.6),
        (30, 40, 2, 0.0, 1.0),
        (10, 20, 7, 1.0, 0.0),
        (10, 20, 30, 1.0, 0.0),
    ],
)
def test_window_and_rate(start, end, fps, overlap, match):
    call = parse_call(response(start, end, fps))
    assert window_iou(call, (10, 20)) == pytest.approx(overlap)
    assert fps_match(call, 2) == pytest.approx(match)


def test_iou():
    assert iou((0, 10), (5, 15)) == pytest.approx(5 / 15)
    assert iou((0, 5), (5, 9)) == iou((0, 5), (7, 9)) == iou((3, 3), (3, 3)) == 0.0
    assert scaled(0.1, 0.1, 0.6) == 0.0
    assert scaled(0.6, 0.1, 0.6) == 1.0
    assert (scaled(0.5, 0.5, 0.5), scaled(0.49, 0.5, 0.5)) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("length", "pair", "value"),
    [
        (4.99, (0.6, 0.95), 0.285714),
        (5.0, (0.5, 0.9), 0.5),
        (14.99, (0.5, 0.9), 0.5),
        (15.0, (0.4, 0.85), 0.666667),
        (30.0, (0.3, 0.8), 0.8),
        (1e9, (0.3, 0.8), 0.8),
    ],
)
def test_difficulty_by_length(length, pair, value):
    assert difficulty(length) == pair
    assert scaled(0.7, *pair) == pytest.approx(value, abs=1e-6)
    gold = (100.0, 100.0 + length)
    text = f"<answer>{100:.4f} - {100 + 0.7 * length:.8f}</answer>"
    assert accuracy(text, "x", gold) == pytest.approx(value, abs=1e-3)


@pytest.mark.parametrize(
    ("text", "answer", "gold", "value"),
    [
        ("<answer>B</answer>", "B", None, 1.0),
        ("<answer> b\n</answer>", " b ", None, 1.0),
        ("<answer>B</answer>", "B", (1.0, 2.0), 1.0),  # a letter is a letter, also with a labelled window
        ("<answer>B.</answer>", "B", None, 0.0),
        ("<answer>(B)</answer>", "B", None, 0.0),
        ("B", "B", None, 0.0),
        ("<answer>B", "B", None, 0.0),
        ("<answer>A</answer><answer>B</answer>", "B", None, 0.0),  # the first one counts
        ("<answer>B</answer><answer>A</answer>", "B", None, 1.0),
        ("<answer><answer>B</answer></answer>", "B", None, 0.0),
        ("<answer></answer>", "B", None, 0.0),
        ("<answer></answer>", "", None, 0.0),
        ("<answer>Red</answer>", "red", None, 1.0),
        ("<answer>10.00 - 20.00</answer>", "10.00 - 20.00", (10.0, 20.0), 1.0),
        ("<answer> 10-20 </answer>", "10.00 - 20.00", (10.0, 20.0), 1.0),
        ("<answer>from 10 - 20</answer>", "10.00 - 20.00", (10.0, 20.0), 0.0),
        ("<answer>10 - 20 s</answer>", "10.00 - 20.00", (10.0, 20.0), 0.0),
        ("<answer>1.2.3 - 20</answer>", "10.00 - 20.00", (10.0, 20.0), 0.0),
        ("<answer>20 - 10</answer>", "10.00 - 20.00", (10.0, 20.0), 0.0),
        ("<answer>30 - 40</answer>", "10.00 - 20.00", (10.0, 20.0), 0.0),
    ],
)
def test_accuracy(text, answer, gold, value):
    assert accuracy(text, answer, gold) == pytest.approx(value)


@pytest.mark.parametrize(
    ("text", "released", "ordered"),
    [
        (response(), 1.0, 1.0),
        ("<think>a</think><answer>B</answer>", 1.0, 1.0),
        (" <think>a</think><answer>B</answer>", 0.6, 0.6),
        ("<think>a<answer>B</answer>", 0.6, 0.6),
        ("<think>a</think>B", 0.6, 0.6),
        ("nothing", 0.2, 0.2),
        ("", 0.2, 0.2),
        ("<think>a <span>1 - 2</span></think><answer>B</answer>", 0.8, 0.8),
        ("<think>a <span>1 - 2<fps>2</fps></think><answer>B</answer>", 0.8, 0.8),
        ("<think>a</think><answer>B</answer>" + CALL.format(1, 2, 3), 1.0, 0.8),
        ("<think>a</think>" + CALL.format(1, 2, 3) + "<answer>B</answer>", 1.0, 0.8),
        (CALL.format(1, 2, 3) + "<think>a</think><answer>B</answer>", 0.6, 0.4),
        ("<think>a <fps>2</fps><span>1 - 2</span></think><answer>B</answer>", 1.0, 0.8),
        ("<think>a </span>1<span></fps>2<fps></think><answer>B</answer>", 1.0, 0.8),
        ("<answer>B</answer><think>a</think>", 0.6, 0.4),
        ("<think>a" + 2 * CALL.format(1, 2, 3) + "</think><answer>B</answer>", 1.0, 1.0),
    ],
)
def test_format(text, released, ordered):
    assert format_score(text, order=False) == pytest.approx(released)
    assert format_score(text) == pytest.approx(ordered)


def test_the_first_answer_is_read():
    assert answer_of("<answer> x </answer> <answer>y</answer>") == "x"
    assert answer_of("<answer>x") is None


def item(text, answer="B", truncated=False, **meta):
    return RewardItem(text, answer, truncated=truncated, meta=meta)


def test_components_by_label():
    both = {"span": [10, 20], "fps": 2}
    retrieval = build("reward", "retrieval")
    assert retrieval.segment == "retrieval"
    texts = [response(), response(13, 17, 4), response(30, 40, 2), "<think>a</think><answer>A</answer>"]
    assert retrieval([item(t, **both) for t in texts]) == pytest.approx([1.0, 0.6, 0.5, 0.0])
    assert retrieval([item(texts[1], gt_span_start=10.0, gt_span_end=20.0)]) == pytest.approx([0.6])  # one label
    assert retrieval([item(texts[0])]) == [None]
    assert build("reward", "window_iou")([item(texts[1], **both), item(texts[1])]) == [pytest.approx(0.6), None]
    assert build("reward", "fps_match")([item(texts[1], **both), item(texts[1])]) == [pytest.approx(0.6), None]
    last = build("reward", {"window_iou": {"call": "last"}})
    assert last([item(response(30, 40) + response(), **both), item("none", **both)]) == [1.0, 0.0]
    reasoning = build("reward", "reasoning")
    assert reasoning.segment == "reasoning"
    assert reasoning([item(texts[0]), item(texts[3])]) == pytest.approx([0.7, 0.1])
    assert reasoning([item(texts[0], truncated=True)]) == pytest.approx([0.1])
    assert reasoning([item(texts[0], answer=None)]) == [None]
    grounding = build("reward", "grounding_accuracy")
    said = response(answer="10.00 - 18.00")
    assert grounding([item(said, answer="10.00 - 20.00", span=[5, 30])]) == pytest.approx([0.75])  # the answer's window
    assert grounding([item(said, answer=None, span=[10, 20])]) == pytest.approx([0.75])
    assert grounding([item(said, answer="see there", answer_span=[10, 20])]) == pytest.approx([0.75])
    assert grounding([item(response(answer="3"), answer="3", span=[10, 20])]) == [
        1.0
    ]  # a count, with a window to look at
    assert build("reward", {"retrieval_format": {"order": False}})([item("")]) == pytest.approx([0.2])


@pytest.mark.parametrize(
    "meta",
    [{"span": [5]}, {"span": "5-9"}, {"span": [9, 5]}, {"span": [-1, 5]}, {"fps": 0}, {"fps": "2"}, {"fps": True}],
)
def test_labels_that_are_none(meta):
    with pytest.raises(ValueError, match=r"meta\['(span|fps)'\] must be"):
        build("reward", "retrieval")([item(response(), **meta)])


def test_without_a_label_the_part_is_unknown_and_the_total_goes_on():
    rewards = [build("reward", "retrieval"), build("reward", "reasoning")]
    with RewardPool(rewards) as pool:
        found = pool.score([item(response(), span=[10, 20], fps=2), item(response())])
    assert found.parts["retrieval"][0] == 1.0
    assert math.isnan(found.parts["retrieval"][1])
    assert found.total == pytest.approx([1.7, 0.7])
    assert found.applies["retrieval"] == [True, False]
    assert found.counts["retrieval/not_applicable"] == 1
