"""MathVista: mathematics in pictures of many kinds, with choices or short answers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from mmcredit.answers.extract import last_boxed, last_number
from mmcredit.answers.option import option_letter
from mmcredit.components import register
from mmcredit.data.benchmarks.item import LETTERS, Item
from mmcredit.data.benchmarks.layout import Column, Format, Split
from mmcredit.evaluate.benchmarks.base import Benchmark, in_meta, without_thinking
from mmcredit.evaluate.benchmarks.rules.edit_distance import nearest_choice
from mmcredit.evaluate.benchmarks.scoring import Score, Scored, ScoredBy
from mmcredit.evaluate.benchmarks.steps import Ask, Asking, Steps

if TYPE_CHECKING:
    from mmcredit.data.benchmarks.table import Row
    from mmcredit.data.sample import Sample

_HINTS = {
    "text": "Please answer the question and provide the correct option letter, e.g., A, B, C, D, at the end.",
    "integer": "Please answer the question requiring an integer answer and provide the final value, e.g., 1, 2, 3, "
    "at the end.",
    "float1": "Please answer the question requiring a floating-point number with one decimal place and provide the "
    "final value, e.g., 1.2, 1.3, 1.4, at the end.",
    "float2": "Please answer the question requiring a floating-point number with two decimal places and provide the "
    "final value, e.g., 1.23, 1.34, 1.45, at the end.",
    "list": "Please answer the question requiring a Python list as an answer and provide the final list, e.g., "
    "[1, 2, 3], [1.2, 1.3, 1.4], at the end.",
}
_QUICK = re.compile(r'The answer is "(.*)"\.')
_SYSTEM = "You read a question and a model's response to it, and state the response's final answer and nothing else."


@register("benchmark", "mathvista")
class MathVista(Benchmark):
    """MathVista (arXiv 2310.02255; AI4Math/MathVista): testmini 1,000, test 5,141 with hidden answers.

    Prompt: the column `query` (hint, question, choices); built in the same form where it is missing. Official scoring:
    an answer is extracted, by a language model unless the response is already one; then brought into the form of the
    reference (a letter becomes the text of its choice, anything else the choice at the least edit distance, so that
    a multiple-choice question always has an answer; integers and decimals are rounded) and compared as text. Without
    a judge the extraction is a rule: the last box, else `The answer is "..."`, else the chosen letter or the last
    number. The reference of a multiple-choice question is the text of a choice; `rl` compares its letter.

    Only a bare capital or a letter in brackets is read as a letter: "c" and "C." go to the nearest choice.
    """

    split: str = Field(default="testmini", description="testmini, or test (hidden answers)")
    ignore_empty: bool = Field(default=False, description="an empty extraction is wrong instead of the nearest choice")

    format: ClassVar[Format] = Format(
        repositories=("AI4Math/MathVista", "PAPOGalaxy/MathVista"),
        splits={"testmini": Split(1000), "test": Split(5141, answers=False)},
        columns=(
            Column("pid", required=False),
            Column("question"),
            Column("decoded_image", aliases=("image",), media=True),
            Column("choices"),
            Column("unit", required=False),
            Column("precision", required=False),
            Column("answer", required=False),
            Column("question_type"),
            Column("answer_type"),
            Column("metadata", required=False),
            Column("query", required=False),
        ),
    )

    def item(self, row: Row) -> Item:
        kind = row.one_of("question_type", ("multi_choice", "free_form"))
        answer_type = row.one_of("answer_type", ("text", "integer", "float", "list"))
        choices = tuple(row.strings("choices")) or None
        if kind == "multi_choice" and choices is None:
            raise row.bad("choices", "a multiple-choice question without choices")
        if choices is not None and len(choices) > len(LETTERS):
            raise row.bad("choices", f"{len(choices)} choices; at most {len(LETTERS)} have letters")
        precision = row.get("precision")
        if precision is not None and (isinstance(precision, bool) or not isinstance(precision, int | float)):
            raise row.bad("precision", f"a number is wanted, got {precision!r}")
        answer = row.scalar("answer") if self.format.splits[self.split].answers else None
        flags: tuple[str, ...] = ()
        letter: str | None = None
        if kind == "multi_choice" and choices is not None and answer is not None:
            if answer in choices:
                letter = LETTERS[choices.index(answer)]
            else:
                flags = ("reference is not among the choices",)
        unit = row.words("unit")
        return Item(
            id=row.identity("pid"),
            question=row.text("question") + (f" (Unit: {unit})" if unit else ""),
            answer=answer,
            answer_type="letter" if kind == "multi_choice" else "list" if answer_type == "list" else "number",
            images=("decoded_image",),
            choices=choices if kind == "multi_choice" else None,
            letter=letter,
            flags=flags,
            meta={
                "question_type": kind,
                "kind": answer_type,
                "precision": None if precision is None else int(precision),
                "query": row.words("query"),
                "metadata": row.mapping("metadata"),
            },
        )

    def official_prompt(self, item: Item) -> str:
        if item.meta["query"]:
            return str(item.meta["query"])
        kind = item.meta["kind"]
        hint = _HINTS[f"float{item.meta['precision'] or 2}" if kind == "float" else kind]
        listed = f"\nChoices:\n{item.options('({letter}) {text}')}" if item.choices else ""
        return f"Hint: {hint}\nQuestion: {item.question}{listed}"

    def judge(self, sample: Sample, response: str) -> Steps:
        response = without_thinking(response)
        extracted, rule, scored_by, flags = yield from self._extraction(sample, response)
        if not extracted.strip() and self.ignore_empty:
            return Score(False, None, rule, scored_by, flags)
        prediction = normalised(extracted, sample.meta)
        correct = prediction is not None and prediction == sample.answer
        return Score(correct, extracted.strip() or None, rule, scored_by, flags)

    def _extraction(self, sample: Sample, response: str) -> Asking[tuple[str, str, ScoredBy, tuple[str, ...]]]:
        """(extracted, rule, scored_by, flags) of a response."""
        kind, choices = sample.meta["kind"], sample.meta.get("choices") or []
        official: ScoredBy = "official"
        if not response or response in choices:
            return response, "response is the answer" if response else "empty response", official, ()
        for wanted, read in (("integer", int), ("float", float)):
            if kind == wanted:
                try:
                    return str(read(response)), "response is the answer", official, ()
                except (ValueError, OverflowError):
                    pass
        asked = f"Question:\n{sample.meta['question']}\n{_choices(choices)}\nResponse:\n{response}\n\n" + (
            "State the final answer of the response: the letter of the chosen option."
            if choices
            else "State the final answer of the response, as a bare value without unit."
        )
        reply = yield Ask(asked, _SYSTEM, sample.id)
        if reply is not None:
            return reply.strip(), "extraction by judge", "judge", ()
        return (*by_rule(response, kind, len(choices)), "rule", ())

    def axes(self) -> Mapping[str, Callable[[Scored], Iterable[str]]]:
        return {
            "question_type": in_meta("question_type"),
            **{key: in_meta(f"metadata.{key}") for key in ("task", "skills", "source", "category", "grade", "context")},
        }


def _choices(choices: list[str]) -> str:
    return "".join(f"({letter}) {text}\n" for letter, text in zip(LETTERS, choices, strict=False))


def by_rule(response: str, kind: str, choices: int) -> tuple[str, str]:
    """(extraction, rule) without a judge: box, else the quoted sentence, else the chosen letter or the last number."""
    box = last_boxed(response)
    if box is not None:
        letter = option_letter(box, LETTERS[:choices]) if choices else None
        return letter or box, "last box"
    quick = _QUICK.search(response)
    if quick:
        return quick.group(1), "quoted answer"
    if choices:
        return option_letter(response, LETTERS[:choices]) or "", "option letter"
    if kind == "list":
        lists = re.findall(r"\[[^\[\]]*\]", response)
        return (lists[-1] if lists else ""), "last list"
    number = last_number(response)
    return ("" if number is None else str(float(number)), "last number")


def normalised(extracted: str, meta: Mapping[str, object]) -> str | None:
    """The extraction in the form of the reference (MathVista's `normalize_extracted_answer`); None if it has none."""
    choices = meta.get("choices")
    if isinstance(choices, list):
        text = extracted.strip()
        bracketed = re.search(r"\(([a-zA-Z])\)", text)
        if bracketed:
            text = bracketed.group(1).upper()
        letters = LETTERS[: len(choices)]
        return (
            str(choices[letters.index(text)]) if len(text) == 1 and text in letters else nearest_choice(text, choices)
        )
    try:
        if meta["kind"] == "integer":
            return str(int(float(extracted)))
        if meta["kind"] == "float":
            precision = meta["precision"]  # without one MathVista has no decimal answer
            return str(round(float(extracted), precision)) if isinstance(precision, int) else None
    except (ValueError, OverflowError):
        return None
    return extracted
