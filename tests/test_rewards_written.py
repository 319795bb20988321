"""Right answers in clothes that nobody ordered, and wrong ones that look right: kinds of spelling, reward by reward."""

from __future__ import annotations

import pytest

from mmcredit.answers.item import RewardItem
from mmcredit.components import build
from mmcredit.rewards.equality.compare import equal

CHOICES = {"choices": ["red", "green", "blue", "yellow"]}


def paid(reward, response, reference, **meta):
    return build("reward", reward)([RewardItem(response, reference, meta=meta)])[0]


# A reference, answers that say it, answers that do not. Separated by two blanks.
MATH = r"""
-3  ‑3  ‐3  ‒3  –3  ﹣3  minus 3  negative three  !  3  (3)
5  ٥  ５  ५  5️⃣  &#53;  <b>5</b>  five apples  ```5```  5 (five)  five (5)  '5'  No. 5  \boxed{5}  !  5 or 6  5th  5%
1234567  1'234'567  1_234_567  12,34,567  1.234.567  \num{1234567}  !  1,234,568  1.234567  1,234, 567
1234.5  1.234,5  1 234,5  1,234.50  !  1234,5  12345
10, 20, 300  10,20,300  !  1020300
1000  1.0E+03  10³  1·10^3  !  10^4  1e400
3/4  ³⁄₄  \nicefrac{3}{4}  3 out of 4  3 quarters  <sup>3</sup>&frasl;<sub>4</sub>  !  4/3  3 out of 5
5/2  two and a half  2½  2\frac 1 2  !  2-1/2  25
50\%  ٥٠٪  50％  50 pct  fifty percent  500‰  0.5  !  50  5‰
30  30^{o}  30 deg  30°  !  30^0
20^\circ C  20 ℃  20°C  !  20 ℉
0.\overline{3}  0.3̅  0.333...  1/3  !  0.333
\sqrt[4]{2}  ∜2  2^{1/4}  !  \sqrt{2}
\sqrt[3]{2}  cbrt(2)  ∛2  !  cbrt(3)
\lfloor x \rfloor  ⌊x⌋  !  ⌈x⌉
x < 3  x&lt;3  x is less than 3  (-inf, 3)  (-oo, 3)  !  x is at most 3  x is less than 4
x \ge 3  x ⩾ 3  x is at least 3  x is greater than or equal to 3  !  x is more than 3
[0,1)  {x | 0 <= x < 1}  \{x : 0 \le x < 1\}  !  {x | 0 < x < 1}
\emptyset  {}  \{\}  none  no solution  !  0  {0}
\infty  inf  Infinity  ∞  !  -inf  nan
2:3  2∶3  2：3  4:6  !  3:2
\begin{pmatrix}1&2\\3&4\end{pmatrix}  [[1,2],[3,4]]  \pmatrix{1&2\cr 3&4}  !  [[1,3],[2,4]]  [1,2,3,4]
x=2, y=3  \begin{cases}x=2\\y=3\end{cases}  (2,3)  !  \begin{cases}x=3\\y=2\end{cases}
(2,3)  the point (2, 3)  <2,3>  !  <3,2>
x=2 or x=3  x∈{2,3}  x == 2, x == 3  2 & 3  !  x∈{2,4}
5 \text{ cm}  \SI{5}{cm}  \qty{5}{cm}  5&nbsp;cm  5 (cm)  5 cm。  !  \SI{5}{m}  5 (m^2)
90 minutes  1h 30m  1 hour 30 minutes  !  1h 20m
₹500  Rs. 500  500 rupees  500  INR 500  !  $500  ₹501
₹1,00,000  100000 rupees  1 lakh  !  ₹1,000
500  ₹500  ¥500  ￥500  CHF 500  R$ 500  500元  !  ₹50
3:00 PM  3 PM  3pm  3 p.m.  15:00  !  3 AM  4 PM
3:00  3 o'clock  !  3  4 o'clock
December 25, 2020  12/25/2020  25.12.2020  2020/12/25  Friday, December 25, 2020  !  12/24/2020
x \equiv 3 \pmod 5  x ≡ 3 (mod 5)  3 \mod 5  x \equiv 8 \pmod{5}  !  3  x ≡ 3 (mod 7)  y \equiv 3 \pmod 5
1011_2  0b1011  1011₂  !  1011  0b1010
{}_5C_2  10  \binom{5}{2}  !  25
infinitely many  infinite  infinitely many solutions  !  none
7  7 \checkmark  ∴ 7  答案：7  答案是7  7个  【7】  7 (since 3+4=7)  __7__  !  1, 7  7 \times 7  7 (approximately)
7  → 7  \large 7  = 7  !  7!  7 (eight)
"""


def _rows(text):
    for line in text.strip().splitlines():
        reference, *answers = line.split("  ")
        cut = answers.index("!")
        yield from ((reference, answer, place < cut) for place, answer in enumerate(answers) if answer != "!")


@pytest.mark.parametrize(("reference", "answer", "right"), _rows(MATH))
def test_math(reference, answer, right):
    assert equal(answer, reference) is right
    assert equal(reference, answer) is right


@pytest.mark.parametrize(
    ("reference", "answer", "right"),
    [
        *(("red", answer, 1.0) for answer in (
            r"\text{red}", r"\boxed{\text{red}}", "<b>red</b>", "#### red", "```text\nred\n```", "(red)", "[red]",
            "- red", "> red", "red&nbsp;", "&quot;red&quot;",
            "red\x00", "\u202ered\u202c", "re\u200dd", "red\ufe0f", "**red**.",
        )),
        *(("red", answer, 0.0) for answer in ("", "\u200b", "not red", "red, blue", "the red", "|red|", "r e d")),
        ("İstanbul", "istanbul", 1.0), ("...", "...", 1.0), ("*", "*", 1.0), ("5'", "5'", 1.0), ("5'", "5", 0.0),
       
        ("3-4", "3‑4", 1.0), ("-5", "–5", 1.0), ("-5", "- 5", 0.0),
        ("5", "> 5", 0.0), ("5", "+ 5", 0.0), ("(1, 2)", "1, 2", 0.0), ("5", "٥", 1.0),
    ],
)  # fmt: skip
def test_exact_answer(reference, answer, right):
    assert paid("exact_answer", f"<answer>{answer}</answer>", reference) == right


@pytest.mark.parametrize(
    ("response", "right"),
    [
        ("<ANSWER>red</ANSWER>", 1.0), ("< answer >red</ answer >", 1.0),
        ("<answer><answer>red</answer></answer>", 1.0),
        ("<answer>red</answer></answer>", 1.0), ("<answer>blue or <answer>red</answer>", 1.0),
        ("<think>maybe <answer>blue</answer></think> <answer>red</answer>", 1.0),
        ("thought </think> <answer>red</answer>", 1.0), ("<think>a</think><answer>red</answer></think>", 1.0),
        ("<think><answer>red</answer></think>", 0.0), ("<think><answer>red</answer></think> It is blue.", 0.0),
        ("<answer>red", 0.0), ("red", 0.0), ("<answer>red</answer> <answer>blue</answer>", 0.0),
    ],
)  # fmt: skip
def test_where_the_answer_stands(response, right):
    assert paid("exact_answer", response, "red") == right


@pytest.mark.parametrize(
    ("spec", "response", "reference", "right"),
    [
        ("math", r"<think>\boxed{5}</think> It is 6.", "5", 0.0),
        ("math", r"<think>\boxed{6}</think> \boxed{5}", "5", 1.0),
        ("math", r"<think>\boxed{1}, \boxed{2}</think> \boxed{3}", "3", 1.0),
        ({"math": {"extract": "whole"}}, "<think>The answer is 6.</think>\nThe answer is 5.", "5", 1.0),
        ({"option": {"extract": "whole"}}, "<think>The answer is A.</think>B", "B", 1.0),
        ({"number": {"extract": "whole"}}, "<think>5</think>", "5", 0.0),
        ({"exact_answer": {"extract": "whole"}}, "<think>hm</think>\nred", "red", 1.0),
        ("exact_answer", "<answer>red</answer>", "<think>a colour</think> red", 1.0),
        ({"exact_answer": {"tag": "think"}}, "<think>red</think>", "red", 1.0),
    ],
)
def test_what_is_thought_is_not_answered(spec, response, reference, right):
    assert paid(spec, response, reference) == right


NUMBERS = """
5  five cats  There are five.  ５  5 cm³  x=5  [5]  **5**  !  5:00  5½  five hundred  five or six  nan  inf  1e400
1  one cat  There is one  !  one of them  the green one  no one
1234567  1'234'567  1’234’567  12,34,567  1.234.567  1_234_567  1.234567·10^6  !  1.234567  1,234,568
1234.5  1.234,5  !  1.234,6
0.5  50 percent  50 per cent  5０%  \\frac12  1⁄2  ½  half  !  50  0,5
-3  minus 3  negative three  –3  -$3  !  3  5-3
1500  1.5 thousand  $1.5 thousand  !  1.5  1.5 million
2.5  2\\frac12  two and a half  2 1/2  !  21/2
10, 20, 300  300  !  1020300
"""


@pytest.mark.parametrize(("reference", "answer", "right"), _rows(NUMBERS))
def test_number(reference, answer, right):
    assert paid("number", f"<answer>{answer}</answer>", reference) == float(right)


@pytest.mark.parametrize(
    ("answer", "overlap"),
    [
        *((answer, 1.0) for answer in (
            "[[0,0],[10,10]]", "<box>0,0,10,10</box>", "<|box_start|>(0,0),(10,10)<|box_end|>", "0,0,10,10",
            "0 0 10 10",
            '{"x1":0,"y1":0,"x2":10,"y2":10}', "xmin: 0, ymin: 0, xmax: 10, ymax: 10", "[0 0 10 10]", "[0.,0.,10.,10.]",
            "[+0,0,1e1,10]", "[0,0,10,10,0.9]", "[−0,0,10,10]", "[0px, 0px, 10px, 10px]", "[0;0;10;10]", "{0,0,10,10}",
            "top-left (0,0), bottom-right (10,10)", '["0","0","10","10"]', "[０,０,１０,１０]",
        )),
        ("[0,0,10,10], [0,0,10,10]", 0.5), ("[nan,0,10,10]", 0.0), ("[0,0,10,1e400]", 0.0), ("[0,0,10]", 0.0),
        ("[0,0,10,10,20]", 0.0), ("I see 0, 0, 10 and 10 cats", 0.0),
    ],
)  # fmt: skip
def test_iou(answer, overlap):
    assert paid("iou", f"<answer>{answer}</answer>", "[0,0,10,10]") == overlap
    assert paid({"iou": {"extract": "whole"}}, answer, "[0,0,10,10]") == overlap


def test_iou_of_named_corner_and_size():
    spec = {"iou": {"coordinates": "xywh"}}
    assert paid(spec, '<answer>{"x": 5, "y": 5, "width": 10, "height": 10}</answer>', "[5,5,10,10]") == 1.0


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        *((answer, 1.0) for answer in (
            "option b", "It's green, not red", "green rather than blue", r"\(B\)", r"\[B\]", "> B", "<b>B</b>", "🅱️",
            "B it is", "A ✗ B ✓ C ✗ D ✗", "A: ❌, B: ✅, C: ❌", "A. Incorrect B. Correct C. Incorrect", "~~A~~ B",
        )),
        *((answer, 0.0) for answer in (
            "Is it B?", "B or not B", "The answer is (B) green or (C) blue", "A ✓ B ✓", "not green", "green or red", "",
            "A, B, C, D", "B" * 1000, "Which one? A. red B. green C. blue D. yellow",
        )),
    ],
)  # fmt: skip
def test_option(answer, right):
    assert paid("option", f"<answer>{answer}</answer>", "B", **CHOICES) == right


@pytest.mark.parametrize(
    ("response", "right"),
    [
        ("The answer is 5 (not 6).", 1.0), ("The answer is 5, because 2+3=5.", 1.0), ("Answer: $5$ since 2+3=5", 1.0),
        ("Die Antwort ist 5.", 1.0), ("La respuesta es 5.", 1.0), ("La réponse est **5**", 1.0), ("#### 5", 1.0),
        ("```\n5\n```", 1.0), ("答案是 5。", 1.0), ("The answer is not 5", 0.0), ("The answer is 5 or 6.", 0.0),
        ("The answer is 6, not 5.", 0.0), ("What is 5?", 0.0), ("5\n6\n7", 0.0),
        ("<answer>5</answer><answer>6</answer>", 0.0),
    ],
)  # fmt: skip
def test_what_a_response_without_a_box_states(response, right):
    assert paid({"math": {"extract": "whole"}}, response, "5") == right


# Public reports: TRL pull request 4563 and issue 5298 (thoughts), EasyR1 pull request 382 (a formula in code marks),
# open-r1 issue 503 (an answer without a box), OPD-V issue 2 and VLMEvalKit pull request 1552 (letters of prose),
# ms-swift issue 3981 and open-r1 issue 215 (a reference that nothing reads must not be paid).
@pytest.mark.parametrize(
    ("spec", "response", "reference", "right"),
    [
        (
            "math",
            r"<think> \boxed{\frac{1}{3}} </think> The final answer is \boxed{\frac{1}{2}}",
            r"\frac{1}{3}",
            0.0,
        ),
        ({"math": {"extract": "whole"}}, "Answer: `$13$`", "13", 1.0),
        ({"math": {"extract": "whole"}}, "<think>So.</think>\n\n**Answer:** 10 - 2√5", r"10 - 2\sqrt{5}", 1.0),
        ({"option": {"extract": "whole"}}, "Answer: **D**", "D", 1.0),
        ({"option": {"extract": "whole"}}, "I considered (A), but it is incorrect. Final answer: D.", "D", 1.0),
        ({"option": {"extract": "whole"}}, "The correct answer is d.", "D", 1.0),
        ({"option": {"extract": "whole"}}, "The correct answer is **B**. Here's why... option B is correct.", "B", 1.0),
        ("math", r"\boxed{\frac{64}{400}}", r"\frac{63}{400}", 0.0),
        ("math", r"\boxed{5}", "see the figure", 0.0),
    ],
)
def test_what_others_were_told_of(spec, response, reference, right):
    assert paid(spec, response, reference) == right


@pytest.mark.parametrize(
    ("answer", "right"),
    [("B. Incorrect", 1.0), ("B", 1.0), ("Incorrect", 1.0), ("A. Correct B. Incorrect", 0.0), ("B?", 1.0), ("A", 0.0)],
)
def test_options_that_read_like_verdicts(answer, right):
    assert paid("option", f"<answer>{answer}</answer>", "B", choices=["Correct", "Incorrect"]) == right


@pytest.mark.parametrize("blank", ["\u200b", "\ufeff", "\x00", " \u2060 "])
def test_what_nobody_sees_is_no_thought_and_no_answer(blank):
    assert paid("format", f"<think>{blank}</think><answer>b</answer>", None) == 0.0
    assert paid("format", f"<think>a</think><answer>{blank}</answer>", None) == 0.0
    assert paid({"format": {"preset": "think_boxed"}}, rf"<think>a</think>\boxed{{{blank}}}", None) == 0.0


# Runs on which a careless pattern takes its square: 10,000 of them are minutes then, and milliseconds else.
@pytest.mark.parametrize(
    "piece",
    ["³", "# ", "&#1", "<sup>", "~~a", "1.234.", "12,34,", "_1", "</answer>", "[1,2,", "1 ", "and ", "- a ", "\n"],
)
def test_no_pattern_takes_its_square(piece):
    answer = piece * 10_000
    for spec, reference in (
        ("exact_answer", "red"),
        ("number", "5"),
        ("iou", "[0,0,1,1]"),
        ("math", "5"),
        ("option", "B"),
    ):
        assert paid({spec: {"extract": "whole"}}, answer, reference) in (0.0, 1.0)
