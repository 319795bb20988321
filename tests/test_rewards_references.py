"""References as people store them, absent ones, and the response that must be paid."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmcredit.answers.item import RewardItem
from mmcredit.answers.references import answer_in, references, unwrapped
from mmcredit.components import build, build_all
from mmcredit.rewards.ideal import ideal_response

GSM8K = (
    "Natalia sold 48/2 = <<48/2=24>>24 clips in May.\n"
    "Natalia sold 48+24 = <<48+24=72>>72 clips altogether in April and May.\n#### 72"
)
MATH = r"""We have that $(x-1)^2 = 4,$ so $x = 3$ or $x = -1.$ Their product is $3 \cdot (-1) = \boxed{-3}.$"""
MATH_LONG = r"""The slope is $\boxed{\frac{1}{2}}$ by the formula.

[asy]
draw((0,0)--(1,1));
[/asy]"""


@pytest.mark.parametrize(
    ("stored", "answer"),
    [
        ("<answer> red </answer>", "red"),
        ("<think>warm</think>\n<answer>red</answer>\n", "red"),
        ("<answer>blue</answer> no: <answer>red</answer>", "red"),
        (r"\boxed{red}", "red"),
        (r"$\boxed{red}$", "red"),
        (r"\[\boxed{\text{red}}\]", r"\text{red}"),
        (r"<answer>\boxed{5}</answer>", "5"),
        (r"\fbox{5}", "5"),
        (r"\boxed{1} and then \boxed{2}.", "2"),
        ("#### 26", "26"),
        ("####26", "26"),
        ("so 20 + 6 = 26 #### 26", "26"),
        ("... #### 1,234", "1234"),
        ("#### $5", "$5"),
        ("#### red", "red"),
        (GSM8K, "72"),
        (MATH, "-3"),
        (MATH_LONG, r"\frac{1}{2}"),
        (r"The answer is $\boxed{12}$ apples", "12"),
        (r"Thus the area is \boxed{12\text{ cm}^2}", r"12\text{ cm}^2"),
        (r"Hence $x = \boxed{\{1, 2\}}$", r"\{1, 2\}"),
        # as they are
        ("red", "red"),
        (" 5 ", " 5 "),
        ("Markdown writes a small heading with #### in front", "Markdown writes a small heading with #### in front"),
        (
            "The <answer> tag opens, the </answer> tag closes it.",
            "The <answer> tag opens, the </answer> tag closes it.",
        ),
        (r"Write \boxed{x} around it", r"Write \boxed{x} around it"),
        (r"Put it in \boxed{}.", r"Put it in \boxed{}."),
        (r"Put it in \boxed{your answer}.", r"Put it in \boxed{your answer}."),
        (r"cut off \boxed{5", r"cut off \boxed{5"),
        ("#### Heading\nand text", "#### Heading\nand text"),
        ("a < b > c", "a < b > c"),
    ],
)
def test_unwrapped(stored: str, answer: str) -> None:
    assert unwrapped(stored) == answer


def test_a_reward_takes_its_own_tag_as_a_wrapping() -> None:
    assert unwrapped("<final>red</final>") == "<final>red</final>"
    assert unwrapped("<final>red</final>", tag="final") == "red"
    assert unwrapped("<answer>red</answer>", tag="final") == "red"


@pytest.mark.parametrize(
    ("response", "how", "answer"),
    [
        (r"<answer>\boxed{red}</answer>", "tag", "red"),
        (r"<answer>\boxed{red}</answer>", "boxed", "red"),
        (r"<answer>$\boxed{red}$</answer>", "tag", "red"),
        (r"<answer>it is \boxed{red}</answer>", "tag", r"it is \boxed{red}"),
        (r"\boxed{<answer>red</answer>}", "boxed", "red"),
        (r"so \boxed{red}", "whole", r"so \boxed{red}"),
        (r"red", "tag", None),
    ],
)
def test_answer_in_a_response(response: str, how: Any, answer: str | None) -> None:
    assert answer_in(response, how) == answer


# How each answer reward is answered rightly, and what right is.
PAID: list[tuple[Any, str, str]] = [
    ("exact_answer", "<answer>26</answer>", "26"),
    ({"exact_answer": {"extract": "boxed"}}, r"\boxed{26}", "26"),
    ("number", "<answer>26</answer>", "26"),
    ("option", "<answer>B</answer>", "B"),
    ("math", r"\boxed{26}", "26"),
    ({"math": {"extract": "tag"}}, "<answer>26</answer>", "26"),
    ("mathruler", r"\boxed{26}", "26"),
    ("latex_value", r"\boxed{26}", "26"),
    ("iou", "<answer>[0,0,2,2]</answer>", "[0,0,2,2]"),
]
WRAPPINGS = ["{}", "<answer> {} </answer>", r"\boxed{{{}}}", r"$\boxed{{{}}}$", "#### {}", "we see that\n#### {}"]


@pytest.mark.parametrize(("spec", "response", "right"), PAID)
def test_every_answer_reward_reads_wrapped_references(spec: Any, response: str, right: str) -> None:
    reward = build("reward", spec)
    items = [RewardItem(response, wrapping.format(right)) for wrapping in WRAPPINGS]
    assert reward(items) == [1.0] * len(items)
    wrong = [
        RewardItem(response, wrapping.format("C" if right == "B" else "[5,5,9,9]" if "[" in right else "27"))
        for wrapping in WRAPPINGS
    ]
    assert reward(wrong) == [0.0] * len(items)


@pytest.mark.parametrize(("spec", "response", "right"), PAID)
def test_a_list_of_references_means_any_of_them(spec: Any, response: str, right: str) -> None:
    reward = build("reward", spec)
    other = {"B": "C", "26": "27"}.get(right, "[5,5,9,9]")
    items = [
        RewardItem(response, other, meta={"answers": [other, right]}),
        RewardItem(response, right, meta={"answers": [right, other]}),
        RewardItem(response, None, meta={"answers": [None, right]}),
        RewardItem(response, "", meta={"answers": [f"<answer>{right}</answer>"]}),
        RewardItem(response, other, meta={"answers": [other]}),
    ]
    assert reward(items) == [1.0, 1.0, 1.0, 1.0, 0.0]


@pytest.mark.parametrize(("spec", "response", "right"), PAID)
@pytest.mark.parametrize("absent", [None, "", "  \n", "<answer> </answer>"])
def test_without_a_reference_no_answer_reward_applies(spec: Any, response: str, right: str, absent: str | None) -> None:
    reward = build("reward", spec)
    items = [RewardItem(response, absent), RewardItem("", absent, meta={"answers": []})]
    assert reward([*items, RewardItem(response, absent, meta={"answers": ["", None, " "]})]) == [None] * 3


def test_references_are_a_list_of_texts_and_numbers() -> None:
    assert references(RewardItem("", "a", meta={"answers": ["b", 3, "a", None]})) == ["a", "b", "3"]
    assert references(RewardItem("", None)) == []
    assert references(RewardItem("", "nan")) == ["nan"]  # a text; what stands for "missing" is known where data is read
    for wrong in ("b", [{"text": "b"}], {"a": 1}):
        with pytest.raises(ValueError, match=r"meta\['answers'\].*list of strings or numbers"):
            references(RewardItem("", "a", meta={"answers": wrong}))


@given(
    st.lists(st.sampled_from(["#", "\\boxed{", "}", "<answer>", "</answer>", "a", "1", " ", "\n", "$", "."])).map(
        "".join
    )
)
def test_unwrapping_anything_ends_and_leaves_nothing_wrapped(text: str) -> None:
    assert unwrapped(unwrapped(text)) is not None
    assert len(unwrapped(text)) <= len(text)


# --- the response that must be paid -----------------------------------------------------------------------------------

RUNS: list[list[Any]] = [
    ["exact_answer", "format"],
    ["exact_answer"],
    [{"exact_answer": {"extract": "boxed"}}, {"format": {"preset": "think_boxed"}}],
    [{"exact_answer": {"extract": "whole"}}],
    ["math", {"format": {"preset": "think_boxed"}}],
    ["math", "format"],
    [{"math": {"extract": "tag"}}, "format"],
    [{"math": {"extract": "whole"}}, "format"],
    ["number", {"format": {"prompt_opens_think": True}}],
    ["mathruler", {"format": {"preset": "think_boxed", "prompt_opens_think": True}}],
    ["exact_answer", "math", "format"],
    [{"exact_answer": {"tag": "final"}}],
    ["exact_answer", {"format": {"pattern": r"<think>\n.*\n</think>\n\n<answer>\n.*\n</answer>"}}],
    ["exact_answer", {"format": {"pattern": r"<think>.*</think>\s*<answer>.*</answer>"}}],
    ["latex_value", "number"],
]


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("reference", ["26", "#### 26", "<answer>26</answer>", r"so it is $\boxed{26}$."])
def test_an_ideal_response_earns_full_marks(run: list[Any], reference: str) -> None:
    rewards = build_all("reward", run)
    item = RewardItem("", reference)
    response = ideal_response(rewards, item)
    assert response is not None
    assert [reward([RewardItem(response, reference)])[0] for reward in rewards] == [1.0] * len(rewards)


def test_ideal_responses_of_other_kinds() -> None:
    assert ideal_response(build_all("reward", ["exact_answer"]), RewardItem("", None)) is None
    assert ideal_response(build_all("reward", ["exact_answer"]), RewardItem("", "  ")) is None
    option = build_all("reward", ["option", "format"])
    item = RewardItem("", "dark blue", meta={"choices": ["red", "dark blue"]})
    response = ideal_response(option, item)
    assert response is not None
    assert [reward([RewardItem(response, item.answer, meta=item.meta)])[0] for reward in option] == [1.0, 1.0]
    iou = build_all("reward", ["iou"])
    response = ideal_response(iou, RewardItem("", None, meta={"boxes": [[0, 0, 1, 1]]}))
    assert response == "<answer>[[0, 0, 1, 1]]</answer>"
    assert iou[0]([RewardItem(response, None, meta={"boxes": [[0, 0, 1, 1]]})]) == [1.0]


def test_a_reference_that_cannot_be_paid_is_found_out() -> None:
    rewards = build_all("reward", [{"exact_answer": {"extract": "boxed"}}])
    response = ideal_response(rewards, RewardItem("", "a } b"))
    assert rewards[0]([RewardItem(response or "", "a } b")]) == [0.0]
