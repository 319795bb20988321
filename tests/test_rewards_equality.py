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


@pytest.mark.parametrize(("corpus", "least"), [("answer_pairs.jsonl", 500), ("answer_pairs_apart.jsonl", 4000)])
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
    "=".join("xy" * 200), "<".join("12" * 300), r"e^{e^{e^{e^{e^{9}}}}}",
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
        ("", "4", 0.0),
        ("I do not know", "4", 0.0),
    ]:
        assert reward([RewardItem(response, reference)]) == [expected], response
