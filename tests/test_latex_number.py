"""Values of LaTeX expressions: those of latex2sympy2 1.9.1 and Python's `eval`, and what is never computed."""

from __future__ import annotations

import math

import pytest

from mmcredit.answers.latex_number import LONGEST, latex_number
from mmcredit.rewards.latex_value import equal_values

# Written by the official pair; whole and decimal numbers are told apart, since (2/2,2) is compared as text.
VALUES = {
    "1,000": 1000, "2.0": 2, "0.50": 0.5, r"150\%": 1.5, r"200\%": 2, "1,3269": 1326 * 9, "007": 7, "5.": 5,
    "2/2": 1.0, "2:4": 0.5, r"\frac{4}{2}": 2.0, r"2\frac{1}{2}": 1.0, "3 1/2": 1.5, "2(3)": 6, "(2)(3)": 6,
    "2^3^2": 64, "-2^2": -4, "2^{-1}": 0.5, r"\sqrt{4}": 2.0, r"\sqrt[3]{8}": 2.0, "3!!": 720, "(2+1)!": 6,
    r"\log 100": 2.0, r"\log_{2}{8}": 3.0, r"\log_2 8": 3.0, r"\sin^{-1}(1)": math.asin(1), "e^0": 1, r"\exp(0)": 1,
    r"\lfloor 2.5 \rfloor": 2, r"\binom{-1}{2}": 1, r"\binom{5.5}{2}": 12.375, r"{5 \choose 2}": 10, r"\gcd(4,6)": 2,
    "$5$": 5, r"\left(2\right)": 2, r"\{3\}": 3, "[3]": 3, "x=5": 5, r"\alpha = 3": 3, "x_1=3": 3, "1<2": 1, "2<1": 0,
    "5)": 5, "5_1": 5, r"5\to 6": 5, "0.333...": 0.333, "3!^2": 6, r"\log_5{25}^{2}": 4.0, r"5\{3\}": 15,
}  # fmt: skip
NONE = (
    *("", "x", "2x", "pi", "π", "e", "2e", r"\ln 2", r"\exp(1)", r"\cot 1", r"|3|", r"\infty", "i", "1,2", "(1,2)"),
    *(r"\frac12", r"\sqrt3", "2^-1", r"\sqrt[3]{-8}", r"\sqrt{-4}", "1/0", "0.5!", "5 cm", r"\text{5}", r"30^\circ"),
    *("5%", "x=y", "2x=10", r"\left(2)", r"(2\right)", r"\{1,2\}", "x=5=6", "+", "()", "½", "5|", "5;", "a=", "_=3"),
)


@pytest.mark.parametrize("text", VALUES)
def test_values(text: str) -> None:
    value = latex_number(text)
    assert value == pytest.approx(VALUES[text], rel=1e-12)
    assert type(value) is type(VALUES[text])


@pytest.mark.parametrize("text", NONE)
def test_what_has_no_value(text: str) -> None:
    assert latex_number(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "9^{9^{9}}", "2^{100000}", "9^9^9^9^9", "999999!", r"\binom{100000}{50000}", "(" * 300 + "1" + ")" * 300,
        "2^{4000}" * 3, "1" * (LONGEST + 1), "{" * 400, "-" * 399 + "1", r"\frac{" * 80, "10^{400}*1.0", "1e" * 200,
    ],
)  # fmt: skip
def test_nothing_large_is_computed(text: str) -> None:
    value = latex_number(text)
    assert value is None or abs(value) < 10**4000
    assert equal_values(f"({text},1)", "(2,1)") is False


def test_large_whole_numbers_can_be_written() -> None:
    assert equal_values("(2^{4000},1)", "(2^{4000},1.0)") is True
    assert equal_values(r"(2^{4000}\times 2^{4000},1)", "(16^{2000},1.0)") is True
