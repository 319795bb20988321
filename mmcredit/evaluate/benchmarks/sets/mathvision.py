"""MATH-Vision: competition problems with pictures."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from mmcredit.answers.latex_text import brace_fractions, brace_roots, slashed
from mmcredit.components import register
from mmcredit.data.benchmarks.item import LETTERS, Item
from mmcredit.data.benchmarks.layout import Column, Format, Split
from mmcredit.evaluate.benchmarks.base import Benchmark, in_meta, without_thinking
from mmcredit.evaluate.benchmarks.scoring import Score, Scored
from mmcredit.evaluate.benchmarks.steps import Steps, decided
from mmcredit.rewards.latex_value import equal_values

if TYPE_CHECKING:
    from mmcredit.data.benchmarks.table import Row
    from mmcredit.data.sample import Sample

_FLAGS = ("the final answer is", "the answer is", "the correct answer is", "the answer should be")
_IMAGE = re.compile(r"<image\d+>")
_LONGEST = 20_000  # characters of a response that are looked at, from its end


@register("benchmark", "mathvision")
class MathVision(Benchmark):
    r"""MATH-Vision (arXiv 2402.14804; MathLLMs/MathVision): test 3,040, testmini 304; 16 subjects, levels 1 to 5.

    Prompt: solve step by step, answer in one ``\boxed{}``, a letter for a multiple-choice question. Official scoring,
    without a language model: the answer is cut out of the response by a chain of rules and cleaned, and is right if it
    equals the reference letter or the text of that option: as lower-case text, element by element of a tuple with
    values rounded to two decimals and compared as text, or as value rounded to two decimals. Values are computed by a
    parser of our own in a worker process (upstream evaluates code).

    Quirks kept: `=` always keeps the right side, ``\text{Even}`` ends as ``{even}`` and is wrong against Even,
    ``\frac34`` gets its braces only beside a root, (2/2,2) is not (1,2). VLMEvalKit scores by extraction with a
    language model and a tolerance of 1e-6 instead.
    """

    split: str = Field(default="test", description="test or testmini")

    format: ClassVar[Format] = Format(
        repositories=("MathLLMs/MathVision", "MathLLMs/MATH-V"),
        folders=("MATH-V", "math_vision"),
        splits={"test": Split(3040), "testmini": Split(304)},
        columns=(
            Column("id"),
            Column("question"),
            Column("options"),
            Column("decoded_image", aliases=("image",), media=True),
            Column("answer"),
            Column("solution", required=False),
            Column("level", required=False),
            Column("subject", required=False),
        ),
    )

    def item(self, row: Row) -> Item:
        options = tuple(row.strings("options")) or None
        answer = row.scalar("answer").strip()
        letter: str | None = None
        flags: tuple[str, ...] = ()
        if options is not None:
            if len(answer) == 1 and answer in LETTERS[: len(options)]:
                letter = answer
            else:
                flags = ("reference is none of the letters",)
        question = row.text("question")
        first = _IMAGE.search(question)
        if first:  # one picture holds all parts; further placeholders have none of their own
            question = question[: first.end()].replace(first.group(), "<image>") + _IMAGE.sub(
                "", question[first.end() :]
            )
        return Item(
            id=row.scalar("id"),
            question=question,
            answer=answer,
            answer_type="letter" if options is not None else "text",
            images=("decoded_image",),
            choices=options,
            letter=letter,
            flags=flags,
            meta={"level": row.get("level"), "subject": row.words("subject")},
        )

    def official_prompt(self, item: Item) -> str:
        listed = ""
        if item.choices and item.choices != tuple(LETTERS[: len(item.choices)]):  # else the letters are in the picture
            listed = item.options("({letter}) {text}") + "\n"
        return (
            'Please solve the problem step by step and put your answer in one "\\boxed{}". If it is a multiple choice '
            f'question, only one letter is allowed in the "\\boxed{{}}".\n{item.question}\n{listed}'
        )

    def judge(self, sample: Sample, response: str) -> Steps:
        found = extracted(without_thinking(response)[-_LONGEST:])
        references = [sample.answer or ""]
        choices, letter = sample.meta.get("choices"), sample.meta["letter"]
        if choices and letter:
            references.append(choices[LETTERS.index(letter)])
        for reference in references:
            if equal_values(found, reference):
                same = found.lower().strip() == reference.lower().strip()
                return decided(Score(True, found, "equal text" if same else "equal value"))
        return decided(Score(False, found or None, "no equality"))

    def axes(self) -> Mapping[str, Callable[[Scored], Iterable[str]]]:
        return {"level": in_meta("level"), "subject": in_meta("subject")}


def extracted(response: str) -> str:
    """MATH-Vision's answer of a response."""
    text = response.strip()
    for c in "ABCDE":
        if text.endswith((f" {c}.", f" ({c}).")) or text.startswith((f"{c}\n", f"({c})\n", f"({c}) {c}\n")):
            text = c
    tail = text.split("is ")[-1].rstrip(".")
    if _is_number(tail):
        text = tail
    if "oxed{" not in text:
        for lower in _FLAGS:
            for flag in (lower, lower.replace("the", "The")):
                if flag in text:
                    text = text.split(flag)[-1].strip().split("\n")[0].split(". ")[0]
                else:
                    text = text.strip()
    elif text.count("oxed{") > 1:
        text = "\\boxed{" + text.split("oxed{")[-1]
    text = cleaned(text)
    for c in "abcde":
        text = text.replace(f"({c})", c)
    for c in "abcde":
        text = text.replace(f"{{{c}}}", c)
    return text.rstrip(".").lstrip(":").strip()


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


_DELETED = (" ", "\\,")
_REPLACED = (
    *(("∞", "\\infty"), ("+\\infty", "\\infty"), ("\\\\", "\\"), ("\n", ""), ("\\text", ""), ("\\mbox", "")),
    *(("bmatrix", "pmatrix"), ("\\left", ""), ("\\right", ""), ("^{\\circ}", ""), ("^\\circ", "")),
    *(("{m}^3", ""), ("m^3", ""), ("{units}", ""), ("units", ""), ("{km}", ""), ("km", "")),
)


def cleaned(text: str) -> str:
    """The content of the box (else the text), in lower case, without units and LaTeX layout."""
    text = text.lower().replace("{}", "")
    start, end = text.find("oxed{"), text.rfind("}")
    if start >= 0 and start + 5 <= end:
        text = text[start + 5 : end]
    close, opening = text.find("}"), text.find("{")
    if close >= 0 and (opening < 0 or close < opening):
        text = text[:close]
    text = text.split("=")[-1].split("\\approx")[-1]
    for piece in _DELETED:
        text = text.replace(piece, "")
    for old, new in _REPLACED:
        text = text.replace(old, new)
    return _stripped(text)


def _stripped(text: str) -> str:
    """The normal form of MATH with the differences that MATH-Vision has."""
    for old, new in (
        *(("\n", ""), ("\\!", ""), ("\\\\", "\\"), ("tfrac", "frac"), ("dfrac", "frac"), ("\\left", "")),
        *(("\\right", ""), ("^{\\circ}", ""), ("^\\circ", ""), ("\\$", ""), ("$", "")),
    ):
        text = text.replace(old, new)
    text = text.split("\\text{ ")[0].replace("\\%", "").replace(" .", " 0.").replace("{.", "{0.")
    if not text:
        return text
    if text[0] == ".":
        text = "0" + text
    for sign in ("=", "\\approx"):
        if text.count(sign) == 1:
            text = text.split(sign)[-1]
    if "sqrt" in text:
        text = brace_fractions(brace_roots(text, strict=False).replace(" ", ""), strict=False)
    text = text.replace(" ", "")
    return slashed("\\frac{1}{2}" if text == "0.5" else text)
