"""Answer extraction: tables of cases, and bounds on hostile text."""

from __future__ import annotations

from fractions import Fraction as F

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmcredit.answers.extract import (
    boxes,
    extract,
    last_boxed,
    last_number,
    last_tag,
    normalise,
    numbers,
)
from mmcredit.answers.option import option_letter


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"so \boxed{5}", "5"),
        (r"\boxed{1} then \boxed{2}", "2"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\left\{ x \right.}", r"\left\{ x \right."),
        (r"\boxed{a \\}", r"a \\"),
        (r"\boxed{\boxed{7}}", "7"),
        (r"\boxed{ 3 }, but \boxed{\frac{1}{", "3"),
        (r"} stray { \boxed{x}", "x"),
        (r"\fbox{9}", "9"),
        (r"\boxed {8}", "8"),
        (r"\boxed{}", ""),
        (r"\boxed{5", None),
        (r"\boxed 5", None),
        ("boxed{5}", None),
        ("", None),
    ],
)
def test_last_boxed(text: str, expected: str | None) -> None:
    assert last_boxed(text) == expected


def test_boxes_come_in_order_of_opening() -> None:
    assert boxes(r"\boxed{a \boxed{b}} \boxed{c}") == [r"a \boxed{b}", "b", "c"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<answer>red</answer>", "red"),
        ("<answer> red\n</answer> bye", "red"),
        ("<answer>a</answer><answer>b</answer>", "b"),
        ("<answer>a</answer><answer>b", "a"),
        ("<answer>a <answer>b</answer>", "b"),
        ("</answer><answer>a", None),
        ("<Answer>a</ANSWER >", "a"),
        ("<answer></answer>", ""),
        ("red", None),
    ],
)
def test_last_tag(text: str, expected: str | None) -> None:
    assert last_tag(text) == expected


def test_extract_chooses_the_place() -> None:
    text = r"<answer>\boxed{4}</answer> 5"
    assert extract(text, "tag") == r"\boxed{4}"
    assert extract(text, "boxed") == "4"
    assert extract(text, "whole") == text
    assert extract("<result>4</result>", "tag", "result") == "4"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" The  Red\nCircle. ", "the red circle"),
        ("**Yes**!", "yes"),
        ('"blue"', "blue"),
        ("ＡＢＣ", "abc"),
        ("3.50", "3.50"),
        ("-5", "-5"),
        ("o'clock", "o'clock"),
        ("Straße", "strasse"),
        ("...", ""),
    ],
)
def test_normalise(text: str, expected: str) -> None:
    assert normalise(text) == expected


def test_normalise_keeps_case_on_request() -> None:
    assert normalise(" Red. ", ignore_case=False) == "Red"


@settings(deadline=None)
@given(st.text(alphabet=st.characters(max_codepoint=126)))
def test_normalise_twice_is_normalise_once(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("B", "B"),
        ("b", "B"),
        ("(c)", "C"),
        ("[D].", "D"),
        ("A", "A"),
        ("**B**", "B"),
        (r"\text{B}", "B"),
        (r"$\boxed{\text{C}}$", "C"),
        ("B. a red circle", "B"),
        ("(B) a red circle", "B"),
        ("A) yes", "A"),
        ("The answer is (B).", "B"),
        ("the answer is C", "C"),
        ("Answer: D", "D"),
        ("ANSWER: D", "D"),
        ("The correct answer is option A because it is red.", "A"),
        ("The answer is A. Wait, the answer is B.", "B"),
        ("I choose C", "C"),
        ("Option B", "B"),
        ("the answer must be (a)", "A"),
        ("the answer is\n\nB", "B"),
        ("It shows a dog, so (C)", "C"),
        ("So it must be D", "D"),
        ("The answer is a cat", None),
        ("The answer is A cat", None),
        ("A cat sits on the mat", None),
        ("I think so", None),
        ("The answer is A or B", None),
        ("answer: A, B, C, D", None),
        ("A, B, C, D", None),
        ("(A) (B) (C) (D)", None),
        ("A. B. C. D.", None),
        ("A or B", None),
        ("ABCD", None),
        ("vitamin-C", None),
        ("", None),
    ],
)
def test_option_letter(text: str, expected: str | None) -> None:
    assert option_letter(text) == expected


def test_option_letter_knows_only_the_given_letters() -> None:
    assert option_letter("E", "ABCD") is None
    assert option_letter("the answer is E", "ABCDE") == "E"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("42", F(42)),
        ("so 3 + 4 = 7.", F(7)),
        ("-5", F(-5)),
        ("x=-5", F(-5)),
        ("\u22125", F(-5)),
        ("+5", F(5)),
        ("9-5", F(5)),
        ("pages 3-5", F(5)),
        ("- 5 apples", F(5)),
        ("1,234,567.5", F("1234567.5")),
        ("1{,}000", F(1000)),
        (r"12\,000", F(12000)),
        ("1,23", F(23)),
        (".5", F(1, 2)),
        ("it is...5", F(5)),
        ("0.1", F(1, 10)),
        ("3/4", F(3, 4)),
        ("-3/4", F(-3, 4)),
        ("2 1/2", F(5, 2)),
        ("½", F(1, 2)),
        ("2½", F(5, 2)),
        (r"\frac{3}{4}", F(3, 4)),
        (r"-\dfrac{1}{2}", F(-1, 2)),
        (r"2\frac{1}{2}", F(5, 2)),
        ("50%", F(1, 2)),
        (r"12.5\%", F(1, 8)),
        ("1.5e-3", F(3, 2000)),
        ("2E3", F(2000)),
        (r"1.5 \times 10^{-3}", F(3, 2000)),
        ("3 x 10^2", F(300)),
        ("6×10²³", F(6 * 10**23)),
        ("10^3", F(1000)),
        ("$1,200", F(1200)),
        ("5cm", F(5)),
        ("area 12 m²", F(12)),
        ("12 m^2", F(12)),
        ("x_1", None),
        ("abc123", None),
        ("version 1.2.3", F("1.2")),
        ("1/0", None),
        ("12/05/2020", F(2020)),
        ("１２", F(12)),
        ("1e999999999", None),
        ("7" * 1000, None),
        ("none", None),
        ("", None),
    ],
)
def test_last_number(text: str, expected: F | None) -> None:
    assert last_number(text) == expected


def test_percent_can_be_kept_and_all_numbers_are_found() -> None:
    assert last_number("50%", percent="keep") == 50
    assert numbers("1, 2.5 and 3/4") == [1, F(5, 2), F(3, 4)]


@settings(deadline=None)
@given(st.fractions(max_denominator=10**6), st.integers(-(10**12), 10**12))
def test_written_numbers_are_read_back_exactly(fraction: F, integer: int) -> None:
    assert last_number(f"it is {fraction}.") == fraction
    assert last_number(f"it is {integer:,}.") == integer


@settings(deadline=None)
@given(st.text(alphabet="\\boxed{}()[]<>/answerABC0123456789.,-+%^ efrac$*\n"))
def test_no_text_breaks_the_extraction(text: str) -> None:
    last_boxed(text), last_tag(text), last_number(text), option_letter(text), normalise(text)


@pytest.mark.parametrize(
    "piece",
    [
        r"\boxed{",
        "<answer>",
        "</answer>",
        "9",
        "9,",
        "1 ",
        "1/",
        "{",
        "(",
        "A ",
        " ",
        "the answer is ",
        "-",
        r"\frac{1",
    ],
)
def test_long_repetitions_take_linear_work(piece: str) -> None:
    # Quadratic work on 50,000 pieces would run for minutes: the test would hang, not fail a stopwatch.
    text = piece * 50_000
    last_boxed(text), last_tag(text), last_number(text), option_letter(text), normalise(text)
