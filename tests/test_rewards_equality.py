"""Whether two answers say the same: the corpus of pairs, what must hold for any pair, and answers meant to hang."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmcredit.answers.item import RewardItem
from mmcredit.components import build
from mmcredit.rewards.equality.compare import equal

HERE = Path(__file__).parent
CORPORA = {
    name: [json.loads(line) for line in (HERE / name).read_text(encoding="utf-8").splitlines()]
    for name in ("answer_pairs.jsonl", "answer_pairs_apart.jsonl")
}
PAIRS = [pair for pairs in CORPORA.values() for pair in pairs if "answer" in pair]


@pytest.mark.parametrize(("corpus", "least"), [("answer_pairs.jsonl", 500), ("answer_pairs_apart.jsonl", 5000)])
def test_no_wrong_answer_of_the_corpora_is_paid_and_nearly_every_right_one_is(corpus, least):
    pairs = CORPORA[corpus]
    items = [
        RewardItem(pair["response"] if "response" in pair else rf"So \boxed{{{pair['answer']}}}.", pair["reference"])
        for pair in pairs
    ]
    paid = [value == 1.0 for value in build("reward", "math")(items)]
    right = [pair["verdict"] for pair in pairs]
    assert len(pairs) >= least
    assert 0.35 < sum(right) / len(right) < 0.75
    assert [pair for pair, got in zip(pairs, paid, strict=True) if got and not pair["verdict"]] == []
    assert sum(want == got for want, got in zip(right, paid, strict=True)) / len(pairs) >= 0.99


@pytest.mark.parametrize(
    ("reference", "answer", "expected"),
    [
        ("(4, 5)", "(3, 5)", 0.0),
        ("2 or 3", "3", 0.0),
        ("y = 2x + 3", "y = 5x + 3", 0.0),
        ("5/6, 3/4", "1/2, 3/4", 0.0),
        ("(1, 2)", "(1,2)", 1.0),
        ("2x + 3", "2x+3", 1.0),
        ("1000", "1 000", 1.0),
    ],
)
def test_the_reward_pays_for_what_is_right(reference, answer, expected):
    assert build("reward", "math")([RewardItem(rf"So \boxed{{{answer}}}.", reference)]) == [expected]
    assert build("reward", {"math": {"extract": "tag"}})([RewardItem(f"<answer>{answer}</answer>", reference)]) == [
        expected
    ]


@pytest.mark.parametrize(
    ("reference", "answer", "right"),
    [
        ("dog", "god", False), ("rat", "tar", False), ("cab", "bac", False), ("a dog", "a god", False),
        ("red car", "car red", False), ("CAT", "TAC", False), ("arc", "car", False), ("Tom", "Tim", False),
        ("cat", r"\text{act}", False), ("2 dogs", "2 gods", False), ("red", "Red", True), ("Red", r"\text{red}", True),
        ("six", "6", True), ("Bob", "bob", True), ("Mr. Lee", "mr lee", True), ("xyz", "zyx", True),
        ("first", "1st", True), ("3^{rd}", "third", True), ("22nd", "22nd", True), ("third", "1/3", False),
        ("1st", "1", False), ("2nd", "3rd", False), ("half", "1/2", True),
        ("second", "2", False), ("5th", "5", False), ("10th", "tenth", True), ("2ab", "2ba", True),
        ("bcd", "dcb", True), ("x y z", "z y x", True),
    ],
)  # fmt: skip
def test_words_that_could_be_products_or_numbers(reference, answer, right):
    assert equal(answer, reference) is right


@pytest.mark.parametrize("pair", PAIRS[::9], ids=lambda pair: f"{pair['reference']} | {pair['answer']}")
def test_order_and_dress_do_not_matter(pair):
    reference, answer = pair["reference"], pair["answer"]
    verdict = equal(answer, reference)
    assert (
        equal(reference, answer) == verdict or "0.6666666667" in reference
    )  # a long decimal stands for what it rounds
    assert equal(reference, reference)
    assert equal(f"  {answer} ", f"{reference} ") == verdict
    if "$" not in answer + reference:
        assert equal(f"${answer}$", reference) == verdict


# Public reports of wrong verdicts: Math-Verify issues 10, 14, 29, 41, 44, 56, 60, 64, 76 and 82, MathRuler issue 2,
# prm800k pull request 19, lm-evaluation-harness pull request 3785 and issue 2212, ms-swift pull request 10147.
REPORTED = [
    (r"\frac{1}{2004!}", r"\frac{1}{2006!}", False),
    (r"\frac{1}{2^{99}}", r"\frac{1}{2^{98}}", False),
    (r"D = (0, 1)", r"D = (0, 1.5)", False),
    (r"F_n = \sum_{k=0}^{n-1} F_k F_{n-k-1}", r"F_n = \sum_{k=0}^{n-2} F_k F_{n-k-2}", False),
    (r"\frac{2^{2005}+1}{3 \cdot 2^{2006}}", r"\frac{1}{3 \cdot 2^{2006}}", False),
    (r"1 - \frac{1}{\mathrm{e}}", r"1 + \frac{1}{\mathrm{e}}", False),
    (r"\pm 2021", "2021", False),
    ("12:00", "1:00", False),
    (r"1, 2, \ldots, n", r"1, 3, 5, \ldots, 2n-1", False),
    (r"1:2:3:\ldots", r"1:4:9:\ldots", False),
    ("4", r"4\sqrt(2)", False),
    ("3*x-1*y+13=0", "3x + 4y + 14=0", False),
    ("(0, 12.5)", "0 < x < 12.5", True),
    (r"\sqrt{17}", r"\sqrt{17}", True),
    (r"\left( 3, \frac{\pi}{2} \right)", r"(3, \frac{2\pi}{3})", False),
    (r"\sqrt{1/n}", r"\frac{1}{\sqrt{n}}", True),
    ("73", "**73**", True),
    (r"0.5 + \frac{\pi}{8}", r"\pi \div 8 + 1 \div 2", True),
    (r"\frac{0.5a}{b}/0.5", r"2\frac{a}{2b}", True),
    ("52_8", "528", False),
    (r"11,\! 111,\! 111,\! 100", "11111111100", True),
    (r"\frac{1}{23}", r"\frac{12}{3}", False),
    ("1, 3, 2", "1, 2, 3", True),
    (r"\sqrt 13", r"\sqrt{13}", True),
    ("6.02 x 10^23", r"6.02 \times 10^{23}", True),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", "(1,2)", True),
    (r"\frac{1}2", r"\frac12", True),
    (r"0.\overline{3}", "1/3", True),
    (r"x \in [1,2]", "[1,2]", True),
    (r"\{1,2\}", r"\{2, 1\}", True),
    ("10^{10}", "10000000000", True),
    ("72 degrees", "72", True),
    ("64", "64 square feet", True),
    ("x^2+2x+1", "y^2+2y+1", False),
]


@pytest.mark.parametrize(("reference", "answer", "verdict"), REPORTED)
def test_what_others_were_told_of(reference, answer, verdict):
    assert equal(answer, reference) is verdict


@pytest.mark.parametrize(
    ("response", "reference", "expected"),
    [
        (r"\boxed{1}, \boxed{2}", "1, 2", 1.0),
        (r"$x = \boxed{1}$ or $x = \boxed{2}$", "2", 0.0),
        (r"$x = \boxed{1}$ and $y = \boxed{2}$", "(1, 2)", 1.0),
        (r"$x = \boxed{1}$ and $y = \boxed{2}$", "(2, 1)", 0.0),
        (r"\boxed{840}.\n\n**Final Answer**\n\boxed{840}", "840", 1.0),
        (r"First \boxed{1}. No: \boxed{2}", "2", 1.0),
        (r"\boxed{1} or \boxed{2}", r"\boxed{1}, \boxed{2}", 1.0),
        (r"\boxed{2}", r"\boxed{1}, \boxed{2}", 0.0),
    ],
)
def test_boxes_that_are_parts_of_one_answer(response, reference, expected):
    assert build("reward", "math")([RewardItem(response, reference)]) == [expected]


_PIECES = st.sampled_from(
    [
        *"12xy+-*/^()[]{},=<!%|_\\$°.:&0ei½²'; ",
        *(r"\frac", r"\sqrt", r"\pi", r"\cup", r"\{", r"\}", r"\\", r"\text{", r"\pm", r"\infty", r"\in", "sin", "cm"),
        *(r"\begin{pmatrix}", r"\end{pmatrix}", " and ", " or "),
    ]
)


@settings(max_examples=400, deadline=None)
@given(st.lists(_PIECES, max_size=14).map("".join), st.lists(_PIECES, max_size=14).map("".join))
def test_no_text_breaks_it(first, second):
    assert equal(first, second) in (True, False)
    assert equal(first, second) == equal(second, first)


@settings(max_examples=200, deadline=None)
@given(st.integers(-(10**6), 10**6), st.integers(-(10**6), 10**6), st.integers(1, 999), st.integers(1, 999))
def test_numbers_are_exact(a, b, c, d):
    assert equal(str(a), str(b)) == (a == b)
    assert equal(f"{a:,}", str(a))
    assert equal(rf"\frac{{{a}}}{{{c}}}", f"{b}/{d}") == (a * d == b * c)
    assert equal(f"({a}, {b})", f"({b}, {a})") == (a == b)
    assert equal(rf"\{{{a}, {b}\}}", rf"\{{{b}, {a}\}}")
    assert equal(f"{c}x + {d}", f"{d} + {c}x")
    assert equal(f"{c}x + {d}", f"{c}x + {d + 1}") is False


HOSTILE = [
    "9^{9^{9^9}}", "10^{10^{10}}", "1000000!", "((((9!)!)!)!)", "2^{2^{2^{2^{2^{2}}}}}", "(" * 2000, "{" * 3000,
    "1" * 100_000, r"\sqrt{" * 500, "x^" * 300 + "2", "((x+1)^{1000})^{1000}", r"\binom{10^9}{5}", "1e999999999",
    "0." + "3" * 5000, "!" * 200, "|" * 301, r"\frac{1}{" * 100, "-" * 2900 + "1", ",".join("1" * 900),
    r"\begin{pmatrix}" + "1&" * 900 + r"1\end{pmatrix}", "a and " * 400 + "a", r"\pm " * 60 + "1", "(1," * 200,
    "=".join("xy" * 200), "<".join("12" * 300), r"e^{e^{e^{e^{e^{9}}}}}", "(" * 5000 + "1" + ")" * 5000, "10000!",
    "x*2000!/1999!*2000!/1999!", r"\binom{2000}{1000}^{9}", "12:" * 900, "3 hours " * 300, "the " * 700 + "is 5",
    ", ".join(f"x + {k}" for k in range(1, 300)), r"\mathbb{R} \setminus \{" + "1," * 1000 + r"\}", "a^2 " * 140,
    "0." + "12" * 1400 + r"\ldots", r"\boxed{" * 400, "july " * 500, "5 m^9 s^9 kg^9", "x!" * 290, "1.5 " * 700,
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_every_answer_comes_to_an_end(text):
    assert equal(text, "1") is False
    assert equal("x+1", text) is False
    assert equal(text, text + " ")


def test_what_a_whole_response_states():
    reward = build("reward", {"math": {"extract": "whole"}})
    for response, reference, expected in [
        (r"So the result is $\frac{3}{4}$.", "0.75", 1.0),
        ("First 3, then 4. The answer is 12.", "12", 1.0),
        ("The answer is 12. That is 3 times 4.", "12", 1.0),
        ("12", "12", 1.0),
        ("x = 3", "3", 1.0),
        (r"We get \boxed{7}, not 8.", "7", 1.0),
        ("2 + 2\nis 4\nso we have 5 in all", "5", 1.0),
        ("2 + 2\nis 4\nso we have 5 in all", "4", 0.0),
        ("The zeros are $1$ and $2$.", "2", 0.0),
        ("The zeros are $1$ and $2$.", "1, 2", 1.0),
        ("", "4", 0.0),
        ("I do not know", "4", 0.0),
    ]:
        assert reward([RewardItem(response, reference)]) == [expected], response
