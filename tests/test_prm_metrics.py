"""Agreement of spans; the spec's intervals and formats."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmcredit.answers.item import RewardItem
from mmcredit.rewards.format import Format
from prm.metrics import (
    auroc,
    critic_reward,
    macro_iou,
    matches,
    merge,
    mhalo_f1m,
    mhalo_iou,
    policy_format,
    span_prf,
    word_spans,
)


@pytest.mark.parametrize(
    ("gold", "predicted", "value"),
    [
        ([[2, 6], [10, 14]], [[4, 8]], 0.2),
        ([[2, 6], [10, 14]], [[2, 6], [10, 14]], 1.0),
        ([], [], 1.0),
        ([[1, 2]], [], 0.0),
        ([], [[1, 2]], 0.0),
        ([[1, 6], [7, 15]], [[7, 15]], 8 / 13),
        ([[1, 6]], [[1, 4], [3, 6]], 1.0),
        ([[1, 6]], [[1, 3], [3, 6]], 1.0),
        ([[3, 3]], [], 1.0),
    ],
)
def test_macro_iou(gold, predicted, value):
    assert macro_iou(gold, predicted) == pytest.approx(value)


def test_span_prf_and_its_empty_ends():
    assert vars(span_prf([[0, 4], [6, 8]], [[0, 3], [9, 12]])) == {"precision": 0.5, "recall": 0.5, "f1": 0.5}
    assert vars(span_prf([[0, 4]], [])) == {"precision": 1.0, "recall": 0.0, "f1": 0.0}
    assert vars(span_prf([], [[0, 4]])) == {"precision": 0.0, "recall": 1.0, "f1": 0.0}
    assert span_prf([], []).f1 == 1.0
    assert matches([[0, 10]], [[0, 5]]) == 1  # an IoU of exactly one half counts
    assert matches([[0, 10]], [[0, 4]]) == 0
    assert matches([[0, 4]], [[0, 4], [0, 4]]) == 1  # one to one
    # As given: two halves of one gold span are one hit and one false alarm, touching gold spans are two.
    assert vars(span_prf([[1, 6]], [[1, 4], [3, 6]])) == pytest.approx({"precision": 0.5, "recall": 1.0, "f1": 2 / 3})
    assert vars(span_prf([[14, 19], [19, 24]], [[16, 19]])) == pytest.approx(
        {"precision": 1.0, "recall": 0.5, "f1": 2 / 3}
    )
    # The release asks the best gold span only: one that is taken is not replaced by the next best.
    assert matches([[0, 10], [0, 9]], [[0, 10], [0, 10]]) == 1
    assert matches([[3, 3]], [[3, 3]]) == 0


spans = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=6)


@given(spans, spans)
def test_macro_iou_counts_covered_places(gold, predicted):
    a = {i for s, e in gold for i in range(s, e)}
    b = {i for s, e in predicted for i in range(s, e)}
    expected = len(a & b) / len(a | b) if a and b else float(not a and not b)
    assert macro_iou(gold, predicted) == pytest.approx(expected)
    assert sum(e - s for s, e in merge(gold)) == len(a)


def test_auroc():
    assert auroc([0.1, 0.9, 0.5], [False, True, True]) == 1.0
    assert auroc([1, 1, 1], [False, True, True]) == 0.5
    assert auroc([2, 1, 0], [False, True, True]) == 0.0
    assert auroc([1.0, 2.0], [True, True]) is None


def test_mhalo():
    text = "the red cup is on the desk"
    assert word_spans(text, [(4, 11)]) == [(1, 3)]
    assert word_spans(text, [(5, 6), (3, 4)]) == [(1, 2)]
    assert mhalo_f1m([(1, 3)], [(2, 4)]) == pytest.approx(0.5)
    assert mhalo_iou([(1, 3), (5, 7)], [(1, 3)]) == 0.5
    assert (mhalo_f1m([], []), mhalo_iou([], [])) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("response", "holds"),
    [
        ("<think>a</think><answer>b</answer>", True),
        ("<think>a</think>\n<answer>b</answer>", True),
        ("<think>a</think><answer>b</answer>\n", False),
        (" <think>a</think><answer>b</answer>", False),
        ("<think>a</think> so <answer>b</answer>", False),
        ("<think>a</think><answer>b</answer><answer>c</answer>", True),
        ("<think>a</think><think>b</think><answer>c</answer>", True),
        ("<think></think><answer></answer>", True),
    ],
)
def test_policy_format_of_the_release(response, holds):
    assert policy_format(response) == holds
    reward = Format(pattern=r"<think>.*?</think>\s*<answer>.*?</answer>")
    assert reward([RewardItem(response, None)]) == [float(holds)]


def test_critic_reward():
    good = "<think>a</think><answer>['b']</answer>"
    assert critic_reward(good, [(1, 6), (7, 15)], [(7, 15)]) == pytest.approx(8 / 13)
    assert critic_reward(good + " and more", [(1, 6)], [(1, 6)]) == 0.0
