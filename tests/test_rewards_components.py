"""Each reward on a table of cases, its errors, and its page and config entry."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mmcredit.answers.item import RewardItem
from mmcredit.components import UnknownName, build, build_all, names, page
from mmcredit.rewards.iou import mean_overlap, overlap

BUILT_IN = ["exact_answer", "format", "function", "iou", "length", "math", "number", "option"]


def value(spec: Any, response: str, answer: str | None = None, **rest: Any) -> float | None:
    reward = build("reward", spec)
    reward.prepare()
    (result,) = reward([RewardItem(response, answer, **rest)])
    return result


@pytest.mark.parametrize(
    ("spec", "response", "answer", "expected"),
    [
        ("exact_answer", "<think>blue?</think><answer> Red. </answer>", "red", 1.0),
        ("exact_answer", "<answer>blue</answer>", "red", 0.0),
        ("exact_answer", "<answer>the red one</answer>", "red", 0.0),
        ("exact_answer", "<answer>red</answer><answer>blue</answer>", "red", 0.0),
        ("exact_answer", "red", "red", 0.0),
        ("exact_answer", "<answer>3.0</answer>", "3", 0.0),
        ("exact_answer", "<answer></answer>", "", None),
        ("exact_answer", "<answer>.</answer>", "!", 0.0),
        ("exact_answer", "<answer>red</answer>", None, None),
        ({"exact_answer": {"ignore_case": False}}, "<answer>Red</answer>", "red", 0.0),
        ({"exact_answer": {"extract": "whole"}}, "  RED ", "red", 1.0),
        ({"exact_answer": {"extract": "boxed"}}, r"so \boxed{red}", "red", 1.0),
        ({"exact_answer": {"tag": "final"}}, "<final>red</final>", "red", 1.0),
        ("option", "<answer>(B)</answer>", "B", 1.0),
        ("option", "<answer>b</answer>", "(B) red", 1.0),
        ("option", "<answer>A or B</answer>", "B", 0.0),
        ("option", "<answer>A, B, C, D</answer>", "A", 0.0),
        ("option", "B", "B", 0.0),
        ("option", "<answer>B</answer>", None, None),
        ({"option": {"extract": "whole"}}, "I think the answer is C because it is red", "C", 1.0),
        ("number", "<answer>3 + 4 = 7</answer>", "7", 1.0),
        ("number", "<answer>1,000</answer>", "1000.0", 1.0),
        ("number", "<answer>50%</answer>", "0.5", 1.0),
        ("number", "<answer>50</answer>", "50%", 0.0),
        ({"number": {"percent": "keep"}}, "<answer>50</answer>", "50%", 1.0),
        ("number", "<answer>0.333</answer>", "1/3", 0.0),
        ("number", "<answer>none</answer>", "1/3", 0.0),
        ("number", "<answer>42</answer>", "so 42 apples #### 42", 1.0),
        ("number", "<answer>9007199254740993</answer>", "9007199254740992", 0.0),
        ("number", "<answer>1</answer>", None, None),
        ({"number": {"rel_tol": 0.05}}, "<answer>104</answer>", "100", 1.0),
        ({"number": {"rel_tol": 0.05}}, "<answer>106</answer>", "100", 0.0),
        ({"number": {"rel_tol": 0.05}}, "<answer>-104</answer>", "-100", 1.0),
        ({"number": {"abs_tol": 0.5}}, "<answer>0.5</answer>", "0", 1.0),
        ({"number": {"abs_tol": 0.5}}, "<answer>0.51</answer>", "0", 0.0),
    ],
)
def test_answer_rewards(spec: Any, response: str, answer: str | None, expected: float | None) -> None:
    assert value(spec, response, answer) == expected


def test_further_right_answers_stand_in_meta() -> None:
    assert value("exact_answer", "<answer>grey</answer>", "gray", meta={"answers": ["grey"]}) == 1.0
    assert value("exact_answer", "<answer>grey</answer>", None, meta={"answers": ["gray", "grey"]}) == 1.0
    assert value("number", "<answer>2</answer>", "1", meta={"answers": [2]}) == 1.0
    assert value({"exact_answer": {"answers_key": "all"}}, "<answer>b</answer>", "a", meta={"all": ["b"]}) == 1.0
    with pytest.raises(ValueError, match="list of strings"):
        value("exact_answer", "<answer>grey</answer>", "gray", meta={"answers": "grey"})


def test_option_reads_the_text_of_a_choice() -> None:
    choices = {"choices": ["red", "dark blue", "Vitamin C"]}
    assert value("option", "<answer>Dark  blue.</answer>", "B", meta=choices) == 1.0
    assert value("option", "<answer>(B)</answer>", "dark blue", meta=choices) == 1.0
    assert value("option", "<answer>vitamin C</answer>", "C", meta=choices) == 1.0
    assert value("option", "<answer>D</answer>", "C", meta=choices) == 0.0
    with pytest.raises(ValueError, match="'D' names none of the options ABC"):
        value({"option": {"letters": "ABC"}}, "<answer>B</answer>", "D")
    with pytest.raises(ValueError, match="at most 2 choices"):
        value({"option": {"letters": "AB"}}, "<answer>B</answer>", "A", meta=choices)


def test_a_reference_that_cannot_be_read_is_an_error_and_no_wrong_answer() -> None:
    with pytest.raises(ValueError, match="'plenty' has no number"):
        value("number", "<answer>7</answer>", "plenty")
    with pytest.raises(ValueError, match="holds no box"):
        value("iou", "<answer>[0,0,1,1]</answer>", "left")


GOOD = "<think>a</think><answer>b</answer>"


@pytest.mark.parametrize(
    ("spec", "response", "expected"),
    [
        ("format", GOOD, 1.0),
        ("format", f"\n{GOOD}\n", 1.0),
        ("format", "<think>a\nb</think>\n\n<answer>b</answer>", 1.0),
        ("format", f"{GOOD} bye", 0.0),
        ("format", f"hello {GOOD}", 0.0),
        ("format", GOOD + GOOD, 0.0),
        ("format", "<think>a</think>x<answer>b</answer>", 0.0),
        ("format", "<think> </think><answer>b</answer>", 0.0),
        ("format", "<think>a</think><answer> </answer>", 0.0),
        ("format", "<think>a<think></think><answer>b</answer>", 0.0),
        ("format", "<think><answer>a</answer></think><answer>b</answer>", 0.0),
        ("format", "<think>a</think><answer>b", 0.0),
        ("format", "<answer>b</answer><think>a</think>", 0.0),
        ("format", "a</think><answer>b</answer>", 0.0),
        ("format", "", 0.0),
        ({"format": {"prompt_opens_think": True}}, "a</think><answer>b</answer>", 1.0),
        ({"format": {"prompt_opens_think": True}}, GOOD, 0.0),
        ({"format": {"preset": "think_boxed"}}, r"<think>a \boxed{0}</think> so \boxed{1}.", 1.0),
        ({"format": {"preset": "think_boxed"}}, r"<think>a</think> \boxed{1} \boxed{2}", 0.0),
        ({"format": {"preset": "think_boxed"}}, r"<think>a</think> \boxed{ }", 0.0),
        ({"format": {"preset": "think_boxed"}}, r"<think>a</think> \boxed{1", 0.0),
        ({"format": {"preset": "think_boxed"}}, r"<think>a \boxed{1}</think>", 0.0),
        ({"format": {"pattern": r"yes|no.*"}}, "no\nway", 1.0),
        ({"format": {"pattern": r"yes|no.*"}}, "yes sir", 0.0),
    ],
)
def test_format(spec: Any, response: str, expected: float) -> None:
    assert value(spec, response) == expected


@pytest.mark.parametrize(
    ("tokens", "expected"),
    # DAPO: L_max 20480, buffer 4096, factor 1: no penalty up to 16384, -1/2 at 18432, -1 at the limit and beyond.
    [(0, 0.0), (16384, 0.0), (16385, -1 / 4096), (17408, -0.25), (18432, -0.5), (20480, -1.0), (30000, -1.0)],
)
def test_length_worked_numbers(tokens: int, expected: float) -> None:
    assert value({"length": {"l_max": 20480}}, "", num_tokens=tokens) == expected
    assert value({"length": {"l_max": 20480, "factor": 0.5}}, "", num_tokens=tokens) == expected / 2


def test_length_within_the_limit_is_plain_zero() -> None:
    assert str(value({"length": {"l_max": 64, "l_buf": 16}}, "", num_tokens=3)) == "0.0"


@pytest.mark.parametrize(
    ("response", "answer", "expected"),
    [
        ("[0,0,10,10]", "[0, 0, 10, 10]", 1.0),
        ("[0,0,10,10]", "[5,0,15,10]", 1 / 3),
        ("[0,0,10,10]", "[20,20,30,30]", 0.0),
        ("(0,0),(10,10)", "[0,0,10,5]", 0.5),
        ("<box>(0,0),(10,10)</box>", "[0,0,10,10]", 1.0),
        ('[{"bbox_2d": [0, 0, 10, 10], "label": "cat"}]', "[0.0,0.0,10.0,10.0]", 1.0),
        ("[0,0,10,10] [50,50,60,60]", "[0,0,10,10]", 0.5),  # a surplus box costs
        ("[0,0,10,10]", "[0,0,10,10] [50,50,60,60]", 0.5),  # so does a missing one
        ("[50,50,60,60] [0,0,10,10]", "[0,0,10,10] [50,50,60,60]", 1.0),  # order does not count
        ("[10,10,0,0]", "[0,0,10,10]", 0.0),  # corners the wrong way round are no box
        ("no box", "[0,0,10,10]", 0.0),
    ],
)
def test_iou(response: str, answer: str, expected: float) -> None:
    assert value("iou", f"<answer>{response}</answer>", answer) == pytest.approx(expected, abs=1e-12)


def test_iou_reference_in_meta_threshold_and_sizes() -> None:
    response = "<answer>[0,0,10,10]</answer>"
    assert value("iou", response, meta={"boxes": [[0, 0, 10, 10]]}) == 1.0
    assert value("iou", response, meta={"boxes": [0, 0, 10, 5]}) == 0.5
    assert value({"iou": {"threshold": 0.5}}, response, meta={"boxes": [0, 0, 10, 5]}) == 1.0
    assert value({"iou": {"threshold": 0.6}}, response, meta={"boxes": [0, 0, 10, 5]}) == 0.0
    assert value({"iou": {"coordinates": "xywh"}}, "<answer>[5,5,10,10]</answer>", "[5,5,10,10]") == 1.0
    assert value("iou", response) is None


def test_greedy_pairing_takes_the_best_overlap_first() -> None:
    a, b = (0.0, 0.0, 10.0, 10.0), (0.0, 0.0, 10.0, 8.0)
    assert overlap(a, b) == pytest.approx(0.8)
    assert mean_overlap([b, a], [a]) == 0.5  # a-a (1.0) wins over b-a (0.8); one box too many
    assert mean_overlap([], [a]) == 0.0


@pytest.mark.parametrize(
    ("response", "answer", "expected"),
    [
        (r"\boxed{\frac{1}{2}}", "0.5", 1.0),
        (r"\boxed{0.5}", r"$\frac{1}{2}$", 1.0),
        (r"\boxed{50\%}", "0.5", 1.0),
        (r"\boxed{(x+1)^2}", "x^2+2x+1", 1.0),
        (r"\boxed{2\sqrt{2}}", r"\sqrt{8}", 1.0),
        (r"\boxed{x=5}", "5", 1.0),
        (r"\boxed{\{2,1\}}", r"\{1,2\}", 1.0),
        (r"\boxed{(1,2)}", "(2,1)", 0.0),
        (r"\boxed{3.14}", r"\pi", 0.0),
        (r"\boxed{1,000}", "1000", 1.0),
        (r"\boxed{1/2}", "1/2", 1.0),
        (r"\boxed{1/3}", "1/2", 0.0),
        (r"\boxed{007}", "7", 1.0),
        (r"\boxed{8}", "7", 0.0),
        (r"\boxed{B}", "(B)", 1.0),
        (r"\boxed{C}", "(B)", 0.0),
        (r"\boxed{}", "7", 0.0),
        (r"\boxed{what}", "7", 0.0),
        ("7", "7", 0.0),
        (r"\boxed{7}", None, None),
    ],
)
def test_math(response: str, answer: str | None, expected: float | None) -> None:
    assert value("math", response, answer) == expected


def test_math_in_the_whole_response_and_further_answers() -> None:
    assert value({"math": {"extract": "whole"}}, r"So the result is $\frac{3}{4}$.", "0.75") == 1.0
    assert value("math", r"\boxed{2}", "1", meta={"answers": [2]}) == 1.0


def test_function_by_file_and_by_module(tmp_path: Any) -> None:
    (tmp_path / "beside.py").write_text("FACTOR = 3\n")
    file = tmp_path / "mine.py"
    file.write_text(
        "from beside import FACTOR\n"
        "def one(item, plus=0):\n    return len(item.response) * FACTOR + plus\n"
        "def all_of_them(items):\n    return [len(items)] * len(items)\n"
    )
    assert value({"function": {"path": f"{file}:one", "kwargs": {"plus": 1}}}, "ab") == 7
    batch = build("reward", {"function": {"path": f"{file}:all_of_them", "call": "batch"}})
    assert batch.whole_batch()
    assert batch([RewardItem("a", None), RewardItem("b", None)]) == [2, 2]
    assert value({"function": {"path": "operator:truth"}}, "ab") is True
    with pytest.raises(ValueError, match="no function 'two'; it has: one, all_of_them"):
        value({"function": {"path": f"{file}:two"}}, "ab")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"function": {"path": "nowhere.py:name"}}, "no such file"),
        ({"function": {"path": "name"}}, "write file.py:name"),
        ({"function": {"path": "m:a b"}}, "write file.py:name"),
        ({"function": {}}, "path is missing"),
        ({"format": {"pattern": "("}}, "not a regular expression"),
        ({"format": {"preset": "think"}}, "preset"),
        ({"length": {"l_max": 100}}, "l_buf=4096 must not exceed l_max=100"),
        ({"length": {}}, "l_max is missing"),
        ({"exact_answer": {"extrac": "tag"}}, "did you mean 'extract'"),
        ({"exact_answer": {"weight": float("nan")}}, "weight"),
        ({"exact_answer": {"timeout": 0}}, "timeout"),
        ({"number": {"rel_tol": -1}}, "rel_tol"),
    ],
)
def test_wrong_config_entries_are_refused(spec: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build("reward", spec)


def test_unknown_reward_names_the_nearest() -> None:
    with pytest.raises(UnknownName, match="did you mean 'exact_answer'"):
        build("reward", "exact_anwser")


@pytest.mark.parametrize("name", BUILT_IN)
def test_page_and_config_entry(name: str) -> None:
    assert name in names("reward")
    needed: dict[str, Any] = {"length": {"l_max": 8192, "weight": 0.5}, "function": {"path": "operator:truth"}}
    (reward,) = build_all("reward", [{name: needed.get(name, {"timeout": 3})}])
    entry = json.loads(json.dumps(reward.spec()))
    assert build("reward", entry) == reward
    text = page(type(reward))
    assert all(field in text for field in type(reward).model_fields)
    assert len((type(reward).__doc__ or "").splitlines()) >= 5


@pytest.mark.parametrize(
    ("text", "reference", "right"),
    [
        ("twelve", "12", 1.0),
        ("Twenty-one.", "21", 1.0),
        ("7", "seven", 1.0),
        ("one of them", "1", 0.0),
        ("12 000 km", "12000", 1.0),
        ("12\u202f000", "12000", 1.0),
        ("it is 12\u00a0000", "12000", 1.0),
        ("12 000", "0", 0.0),
        ("1 200 30", "30", 1.0),
        ("1 2/3", "5/3", 1.0),
    ],
)
def test_numbers_in_words_and_behind_spaces(text: str, reference: str, right: float) -> None:
    assert value("number", f"<answer>{text}</answer>", reference) == right


@pytest.mark.parametrize(
    ("text", "reference"), [("don’t", "don't"), ("red\u200b", "Red"), ("3\u20115", "3-5"), ("“red”", "red")]
)
def test_texts_that_differ_in_type_only_are_equal(text: str, reference: str) -> None:
    assert value("exact_answer", f"<answer>{text}</answer>", reference) == 1.0
