"""Generated cases for `diff_scorers.py`: responses as models write them, and worse."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

Case = dict[str, Any]
Draw = random.Random

WORDS = (
    *("The", "the", "answer", "Answer:", "is", "option", "Option", "choice", "correct", "because", "so", "So", "thus"),
    *("therefore", "Therefore,", "I choose", "I pick", "final", "result", "it", "a", "A", "an", "not", "and", "or"),
    *("Both", "Cat", "DNA", "USA.", "CC", "CAD", "Banana", "B-52", "It's", "yes", "No", "e.g.", "=", "in the picture"),
    *("correct answer is", "The answer is", "answer is", "the best option is", "My answer is", "could be", "equals"),
    *("I'm sorry, but without the image provided", "Cannot determine the answer", "I can't process this file."),
    *(
        "Failed to obtain answer via API.",
        "Z",
        "答案是",
        "选",
        "정답은",
        "\n",
        "\n\n",
        ".",
        ",",
        ":",
        "!",
        "?",
        ";",
        "'",
    ),
)
TEXTS = (
    *("cat", "dog", "a red car", "Tree", "12", "3.5", "the cat", "1/2", "", "blue", "B", "both of them", "none", "20%"),
    *("$\\frac{1}{2}$", "North America", "A cat", "x = 5", "left"),
)
LETTER_FORMS = (
    *("{}", "{}.", "({})", "{}:", "{})", "**{}**", "[{}]", "{},", "'{}'", '"{}"', "\\boxed{{{}}}", "{}\n", "({}) {}"),
    *("{} ", " {}", "answer: {}", "Answer: {}", "The answer is {}.", "the correct answer is **{}**", "({}).", "{}!"),
    *("<{}>", "Answer>: <<{}>>", "$\\text{{{}}}$", "option {}", "{};", "{}'", "-{}-", "{}/{}"),
)


def options(draw: Draw, least: int = 2, most: int = 10) -> dict[str, str]:
    number = draw.randint(least, most)
    return {"ABCDEFGHIJ"[i]: draw.choice(TEXTS) for i in range(number)}


def written(draw: Draw, letters: str) -> str:
    form = draw.choice(LETTER_FORMS)
    letter = draw.choice(letters)
    letter = letter.lower() if draw.random() < 0.15 else letter
    return form.format(*[letter] * form.count("{}"))


def response(draw: Draw, letters: str, texts: tuple[str, ...] = TEXTS) -> str:
    """Words, letters in many forms and option texts, in any order."""
    if draw.random() < 0.15:
        return written(draw, letters)
    pieces = []
    for _ in range(draw.randint(1, 9)):
        kind = draw.random()
        pieces.append(
            draw.choice(WORDS) if kind < 0.6 else written(draw, letters) if kind < 0.85 else draw.choice(texts)
        )
    return draw.choice([" ", " ", " ", ""]).join(pieces)


def choosing(draw: Draw) -> Case:
    chosen = options(draw)
    return {"options": chosen, "response": response(draw, "".join(chosen), tuple(chosen.values()))}


def choosing_of_four(draw: Draw) -> Case:
    """The options of MMStar's questions have texts, each its own."""
    chosen = dict(zip("ABCD", draw.sample([t for t in TEXTS if t and "\\" not in t and "," not in t], 4), strict=True))
    return {"options": chosen, "response": response(draw, "ABCD", tuple(chosen.values()))}


def lettered(draw: Draw) -> Case:
    return {"letters": list("ABCD"), "response": response(draw, "ABCDE")}


# --- numbers and formulas ---------------------------------------------------------------------------------------------


def number(draw: Draw) -> str:
    return draw.choice(
        [
            str(draw.randint(0, 12)), str(draw.randint(13, 5000)), f"{draw.randint(0, 20)}.{draw.randint(0, 99):02d}",
            f"{draw.randint(1, 99)},{draw.randint(0, 999):03d}", f"{draw.randint(1, 100)}\\%", ".5", "-3", "0", "1",
            f"{draw.randint(0, 9)}.{draw.randint(0, 9)}", f"{draw.randint(1, 9)}.0", f"{draw.randint(1, 9)}/2",
        ]
    )  # fmt: skip


def formula(draw: Draw, depth: int = 2) -> str:
    """LaTeX as it stands in answers, mostly well-formed."""
    if depth <= 0 or draw.random() < 0.3:
        return draw.choice([number(draw)] * 4 + ["\\pi", "x", "a", "\\infty", "e"])

    def part() -> str:
        return formula(draw, depth - 1)

    return draw.choice(
        [
            f"{part()}+{part()}", f"{part()} - {number(draw)}", f"{part()}\\times {part()}", f"{part()}\\cdot{part()}",
            f"{part()}/{number(draw)}", f"\\frac{{{part()}}}{{{number(draw)}}}", f"\\dfrac{{{part()}}}{{{part()}}}",
            f"({part()})", f"\\sqrt{{{part()}}}", f"\\sqrt[3]{{{number(draw)}}}", f"{number(draw)}\\sqrt{{2}}",
            f"{number(draw)}^{{{draw.randint(-2, 3)}}}", f"{number(draw)}^2", f"-{part()}", f"{number(draw)}\\pi",
            f"\\log_{{2}}{{{draw.choice(['8', '16', '5'])}}}", f"\\sin(\\frac{{\\pi}}{{{draw.randint(1, 6)}}})",
            f"{draw.randint(0, 6)}!", f"\\left({part()}\\right)", f"{draw.randint(1, 4)}\\frac{{1}}{{2}}",
            f"{number(draw)}:{number(draw)}", f"\\binom{{{draw.randint(2, 9)}}}{{2}}", f"{part()} {part()}",
        ]
    )  # fmt: skip


def answer(draw: Draw) -> str:
    """A formula, or several of them in brackets, in the clothes that answers wear."""
    several = draw.random() < 0.2
    inner = formula(draw)
    if several:
        inner = draw.choice(["({})", "[{}]", "({}]", "\\{{{}\\}}"]).format(
            draw.choice([",", ", "]).join(formula(draw, 1) for _ in range(draw.randint(2, 3)))
        )
    form = draw.choice(
        ["{}"] * 6
        + ["${}$", "x={}", "x = {}", "{}.", "{} cm", "{}^\\circ", "\\text{{{}}}", "{} \\text{{ cm}}", "{}\\%"]
    )
    return form.format(inner)


def retold(draw: Draw, text: str) -> str:
    """The same answer in another spelling, often."""
    for _ in range(draw.randint(0, 3)):
        old, new = draw.choice(
            [
                ("\\frac", "\\dfrac"), ("\\times ", "*"), (" ", ""), (",", ", "), ("\\cdot", "\\times "), (".0", ""),
                ("0.5", "\\frac{1}{2}"), ("\\left", ""), ("\\right", ""), ("$", ""), ("/2", "*0.5"), ("1/2", "0.5"),
                ("x=", ""), ("\\pi", "3.14"), ("\\%", "/100"), ("(", "["), (")", "]"), ("\\sqrt{2}", "1.41"),
            ]
        )  # fmt: skip
        text = text.replace(old, new)
    return text


def equality(draw: Draw) -> Case:
    reference = answer(draw)
    given = retold(draw, reference) if draw.random() < 0.75 else answer(draw)
    return {"given": given, "reference": reference}


def boxed(draw: Draw, given: str) -> str:
    return draw.choice(
        [
            "{}", "\\boxed{{{}}}", "so $\\boxed{{{}}}$.", "<think>no \\boxed{{1}}</think> \\boxed{{{}}}", "x is {}.",
            "The final answer is {}.", "the answer is {}. Done", "The answer should be {}\nwhich follows",
            "\\boxed{{{}",
            "\\boxed{{1}} or \\boxed{{{}}}", "we get y = {}", "it is \\approx {}", "\\boxed{{x = {}}}",
            "{} is right", "\\boxed{{\\text{{{}}}}}", "\\boxed{{ {} }}", "Answer: {}", "\\fbox{{{}}}",
            "$\\displaystyle \\boxed{{{}}}$",
        ]
    ).format(given)  # fmt: skip


def mathvision(draw: Draw) -> Case:
    if draw.random() < 0.5:
        texts = [draw.choice([answer(draw), f"${answer(draw)}$", draw.choice(TEXTS)]) for _ in range(5)]
        right = draw.randrange(5)
        said = draw.random()
        if said < 0.4:
            given = written(draw, "ABCDE")
        elif said < 0.75:
            given = boxed(draw, retold(draw, texts[right].strip("$")))
        else:
            given = boxed(draw, draw.choice("ABCDE"))
        return {"answer": "ABCDE"[right], "options": texts, "response": given}
    reference = answer(draw)
    given = retold(draw, reference) if draw.random() < 0.75 else answer(draw)
    return {"answer": reference, "options": [], "response": boxed(draw, given)}


def mathruler(draw: Draw) -> Case:
    pools: list[Callable[[], str]] = [
        lambda: answer(draw), lambda: draw.choice("ABCD"), lambda: f"{draw.randint(1, 9)} {draw.randint(1, 3)}/4",
        lambda: f"{number(draw)} {draw.choice(['cm', 'degrees', 'meters', 'cm^2', 'million', 'feet', 'units'])}",
        lambda: number(draw) + draw.choice(["%", " and 3", " or 4", "°", "^\\circ", " \\text{ cm}"]),
        lambda: draw.choice(["\\text{yes}", "Even", "\\$5", "x^2+1", "2x + 3", "y = 2x", "(1, 2)", "[1,2)", "x > 3"]),
    ]  # fmt: skip
    reference = draw.choice(pools)()
    given = retold(draw, reference) if draw.random() < 0.7 else draw.choice(pools)()
    return {"answer": reference, "response": boxed(draw, given)}


def mathvista(draw: Draw) -> Case:
    kind = draw.choice(["multi_choice", "integer", "float", "list"])
    texts = draw.sample([t for t in TEXTS if t], 4)
    problem: Case = {"choices": texts if kind == "multi_choice" else [], "question_type": "free_form"}
    if kind == "multi_choice":
        problem |= {"question_type": kind, "answer_type": "text", "precision": None, "answer": draw.choice(texts)}
        reply = draw.choice([written(draw, "ABCDEF"), draw.choice(texts), draw.choice(texts)[:3] + "x", "", "c", "Z"])
        given = draw.choice([draw.choice(texts), response(draw, "ABCD", tuple(texts)), ""])
    else:
        digits = draw.choice([1, 2]) if kind == "float" else None
        value = {"integer": str(draw.randint(0, 30)), "float": str(round(draw.random() * 9, digits or 0))}
        problem |= {"answer_type": kind, "precision": digits, "answer": value.get(kind, "[1, 2]")}
        near = [
            problem["answer"],
            number(draw),
            f"{number(draw)} cm",
            "1e3",
            "nan",
            "inf",
            "-2.51",
            "[1, 2]",
            "1_0",
            "",
        ]
        reply, given = draw.choice(near), draw.choice([*near, "It makes 12 in all.", " 7 ", "7.0", "3.14159"])
    return {"problem": problem, "response": given, "reply": reply}


# --- short answers ----------------------------------------------------------------------------------------------------

SAID = (
    *("yes", "no", "Yes", "No", "YES", "NO", "not", "None", "yes.", "no,", "No.", "**Yes**", "yes:", "(yes)", "yes/no"),
    *("There is", "there is no", "a dog", "in the image", ".", ",", "1,000", "3.5", "know", "'no'", '"yes"', "yes-no"),
    *("Yes, there is.", "No, there is not.", "unclear", "", "5.no", "yes.5", ";", "no;", "!", "yes!"),
)


def said(draw: Draw) -> str:
    return draw.choice([" ", " ", ""]).join(draw.choice(SAID) for _ in range(draw.randint(1, 5)))


def yes_no(draw: Draw) -> Case:
    return {"response": said(draw)}


def pope(draw: Draw) -> Case:
    many = draw.randint(4, 20)
    return {
        "gold": [draw.choice(["yes", "no"]) for _ in range(many)],
        "responses": [
            said(draw) if draw.random() < 0.6 else draw.choice(["yes", "no", "Yes", "NO "]) for _ in range(many)
        ],
    }


def chartqa(draw: Draw) -> Case:
    pool = [
        "0",
        "0.0",
        "50%",
        "0.5",
        ".5",
        "Yes",
        "yes",
        "1,000",
        "1000",
        "nan",
        "inf",
        "-3",
        "3 million",
        "2019",
        " 7",
        "",
    ]
    value = draw.random() * 10 ** draw.randint(-2, 4)
    near = f"{value * draw.choice([0.94, 0.951, 0.999, 1, 1.049, 1.05, 1.051]):.{draw.randint(0, 4)}f}"
    pair = [f"{value:.3f}", near + draw.choice(["", "", "%", " ", "."])]
    if draw.random() < 0.4:
        pair = [draw.choice(pool), draw.choice(pool)]
    return {"answer": pair[0], "response": pair[1]}


def mmmu_open(draw: Draw) -> Case:
    values = [
        "3.14",
        "12",
        "thirteen",
        "1234.5",
        "1,234",
        "cat",
        "B",
        "x",
        "-5",
        "2e3",
        "0.5",
        "$5",
        "a cat",
        "50%",
        "=",
    ]
    gold = draw.sample(values, draw.randint(1, 3))
    pieces = [
        draw.choice([*WORDS, *values, *values, *gold, number(draw), "so the total is", "equals =", "x = 3.14159"])
        for _ in range(draw.randint(1, 8))
    ]
    return {"answers": gold, "response": draw.choice([" ", " ", "\n"]).join(pieces)}


def dynamath(draw: Draw) -> Case:
    kind = draw.choice(["float", "multiple choice", "text"])
    gold = {"float": f"{draw.randint(0, 20) / draw.choice([1, 2, 8]):.3f}", "multiple choice": draw.choice("ABCD")}
    right = gold.get(kind, draw.choice(["even", "x = 2", "Yes", "(0, 1)", "B"]))
    near = [
        right,
        right.lower(),
        f"{right} cm",
        f"option {right}",
        f"{right}π",
        "3.142",
        "4.001",
        "C or D",
        "Even",
        "",
        "x",
    ]
    value: Any = draw.choice([*near, *near, 5, 2.5, None, ["A"], True])
    text = json.dumps({"solution": draw.choice(["\\frac{1}{2}", "so it is", ""]), "short answer": value})
    if draw.random() < 0.25:
        text = text.replace("short answer", "answer")
    shape = draw.choice(
        ["{}"] * 4
        + ["```json\n{}\n```", "Sure: {} Done.", "{}}}", "{{{}", "{}.", "a\n{}", "} x {", "{", "42", "[1]", "\\a b."]
    )
    whole = shape.format(text) if "{}" in shape else shape
    if draw.random() < 0.3:
        whole = draw.choice(["The answer is ", "Final\n", ""]) + str(value) + draw.choice(["", ".", "\n"])
    return {"kind": kind, "answer": right, "response": whole, "reply": "??"}


def logicvista(draw: Draw) -> Case:
    gold = draw.choice(["A", "B", "C", "D", "E", "F", "A, C", "B, D"])
    return {
        "answer": gold,
        "reply": draw.choice([gold.replace(", ", ""), "Z", "AC", "CA", "BD", "D", "AA", "ABCDE"]),
    }


def mathverse(draw: Draw) -> Case:
    gold = draw.choice(["A", "B", "C", "12", "3.5", "x+1"])
    said_so = draw.choice([gold, f" {gold} ", f"Extracted Answer: {gold}", "D", "7", f"{gold}."])
    judgement = draw.choice(["0", "1", "Judgement: 1", "1\n", " 0 "])
    # Ours and VLMEvalKit ask nothing where the texts are equal; the authors' judge is taken to see that.
    same = said_so.replace("Extracted Answer: ", "").strip() == gold
    return {"answer": gold, "extraction": said_so, "judgement": "1" if same else judgement}


# --- metrics ----------------------------------------------------------------------------------------------------------


def wemath(draw: Draw) -> Case:
    rows = []
    for number in range(draw.randint(2, 12)):
        steps = draw.choice([2, 3])
        for part in (*range(1, steps + 1), "multi"):
            gold = draw.choice("ABCDE")
            given = written(draw, gold) if draw.random() < 0.6 else response(draw, "ABCDE")
            rows.append(
                {
                    "ID": f"{steps}-{number}", "key": f"{steps}steps_{part}", "answer": gold,
                    "response": draw.choice(["Answer: ", "<Answer>: <<", "ANSWER ", ""]) + given,
                }
            )  # fmt: skip
    for steps in (2, 3):  # the official table needs both kinds
        for part in (*range(1, steps + 1), "multi"):
            rows.append({"ID": f"{steps}-x", "key": f"{steps}steps_{part}", "answer": "A", "response": "Answer: A"})
    return {"rows": rows}


def hallusionbench(draw: Draw) -> Case:
    rows = []
    for category in ("VD", "VS"):
        for group in range(draw.randint(1, 4)):
            for question in range(draw.randint(1, 3)):
                for figure in range(draw.randint(1, 4)):
                    rows.append(
                        {
                            "category": category, "subcategory": "chart",
                            "set_id": str(group), "figure_id": str(figure), "question_id": str(question),
                            "visual_input": "0" if category == "VS" and figure == 0 else "1",
                            "correct": int(draw.random() < 0.7),
                        }
                    )  # fmt: skip
    rows.append({**rows[-1], "set_id": "x", "figure_id": "1", "question_id": "0"})
    rows.append({**rows[-1], "figure_id": "0"})
    return {"rows": rows}


def mmstar_mean(draw: Draw) -> Case:
    kinds = draw.sample(["geometry", "diagram reasoning", "recognition", "localization"], draw.randint(1, 4))
    return {"rows": [{"score": float(draw.random() < 0.5), "l2_category": draw.choice(kinds)} for _ in range(40)]}


GENERATORS: dict[str, tuple[Callable[[Draw], Case], float]] = {  # task: generator, share of --cases
    "mathvision": (mathvision, 1),
    "mathvision_equal": (equality, 1),
    "mathvista": (mathvista, 1),
    "mathverse": (mathverse, 0.2),
    "mathruler": (mathruler, 1),
    "mmmu": (choosing, 1),
    "mmmu_open": (mmmu_open, 1),
    "mmmu_pro": (choosing, 1),
    "vlmeval": (choosing_of_four, 1),
    "lmms": (lettered, 1),
    "mmstar_mean": (mmstar_mean, 0.1),
    "yes_no": (yes_no, 1),
    "pope": (pope, 0.3),
    "pope_exact": (pope, 0.3),
    "chartqa": (chartqa, 1),
    "dynamath": (dynamath, 1),
    "dynamath_authors": (dynamath, 1),
    "wemath": (wemath, 0.1),
    "logicvista": (logicvista, 0.2),
    "hallusionbench": (hallusionbench, 0.1),
}


def cases(seed: int, number: int) -> dict[str, list[Case]]:
    """The cases of every task."""
    found = {}
    for task, (generate, share) in GENERATORS.items():
        draw = random.Random(f"{seed}/{task}")
        found[task] = [generate(draw) for _ in range(max(1, round(number * share)))]
    return found
