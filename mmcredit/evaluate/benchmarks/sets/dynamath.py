"""DynaMath: the same problem with other numbers and pictures, ten times."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from mmcredit.components import register
from mmcredit.data.benchmarks.item import Item
from mmcredit.data.benchmarks.layout import Column, Format, Split
from mmcredit.evaluate.benchmarks.base import Benchmark, in_meta, without_thinking
from mmcredit.evaluate.benchmarks.scoring import Score, Scored, ScoredBy
from mmcredit.evaluate.benchmarks.steps import Ask, Steps
from mmcredit.evaluate.benchmarks.summary import ACCURACY, Metric, all_right

if TYPE_CHECKING:
    from mmcredit.data.benchmarks.table import Row
    from mmcredit.data.sample import Sample

VARIANTS = tuple(f"sample_variant{n}" for n in range(1, 11))
TYPES = ("float", "multiple choice", "text")
_INSTRUCTIONS = {
    "multiple choice": "Provide the corresponing choice option in the 'short answer' key, such as 'A', 'B', 'C', or "
    "'D'.",
    "float": "Format the answer as a three-digit floating-point number and provide it in the 'short answer' key.",
    "text": "Float numbers in the answer should be formatted as three-digit floating-point numbers.",
}
_ASKED = {
    "multiple choice": "the letter of the chosen option",
    "float": "its final value as a decimal number with three digits after the point",
    "text": "its final answer, decimal numbers with three digits after the point",
}
_SYSTEM = "You bring free-form answers into a short form. You reply with the short answer on one line and nothing else."


@register("benchmark", "dynamath")
class DynaMath(Benchmark):
    """DynaMath (arXiv 2411.00836; DynaMath/DynaMath_Sample): 501 seed problems in 10 variants.

    `split: all` takes the ten variants together (5,010), `sample_variant1` .. `sample_variant10` one of them. Prompt: a
    JSON object with "solution" and "short answer". Official scoring in two variants (`variant`):

    `vlmeval` (VLMEvalKit's port): the JSON from the first to the last brace, without backslashes; a number within
    0.001 (in binary floating point: 4.001 is not within 0.001 of 4); a letter; a text that is contained in the
    reference, so an empty one is right. Where this fails a language model shortens the response; without a judge the
    response itself is read.

    `authors`: the authors' loop, without a language model: numbers in JSON are accepted, without JSON the last line
    minus its last character is the answer, a letter may stand in the first three characters, and for text the reference
    must be contained in the answer.

    `average` is the accuracy over all variants, `worst_case` the share of seeds that are right in every variant that
    was run. Papers on reinforcement learning use sample_variant1, boxed.
    """

    split: str = Field(default="all", description="all, or sample_variant1 to sample_variant10")
    variant: Literal["vlmeval", "authors"] = Field(default="vlmeval", description="which official scoring")

    headline: ClassVar[str] = "average"
    format: ClassVar[Format] = Format(
        repositories=("DynaMath/DynaMath_Sample", "kcz358/DynaMath"),
        splits={"all": Split(5010, stems=(*VARIANTS, "all")), **{name: Split(501) for name in VARIANTS}},
        columns=(
            Column("id"),
            Column("question"),
            Column("decoded_image", aliases=("image",), media=True),
            Column("ground_truth", aliases=("answer",)),
            Column("answer_type"),
            Column("variant", aliases=("varid",), required=False),
            Column("subject", required=False),
            Column("knowledge_level", required=False),
        ),
    )

    def item(self, row: Row) -> Item:
        kind = row.one_of("answer_type", TYPES)
        answer = row.scalar("ground_truth").strip()
        if kind == "float":
            try:
                float(answer)
            except ValueError:
                raise row.bad("ground_truth", f"a number is wanted for answer_type float, got {answer!r}") from None
        in_name = re.search(r"variant(\d+)", row.name)
        given = row.get("variant")
        variant = str(given) if given is not None else in_name.group(1) if in_name else None
        if variant is None and self.split != "all":
            variant = self.split.removeprefix("sample_variant")
        if variant is None:
            raise row.bad(
                "variant", "the variant stands neither in this column nor in the file's name", "column missing"
            )
        seed = row.scalar("id")
        return Item(
            id=f"{seed}/{variant}",
            question=row.text("question"),
            answer=answer,
            answer_type={"float": "number", "multiple choice": "letter"}.get(kind, "text"),  # type: ignore[arg-type]
            images=("decoded_image",),
            letter=answer if kind == "multiple choice" else None,
            meta={
                "seed": seed,
                "variant": variant,
                "kind": kind,
                "subject": row.words("subject"),
                "knowledge_level": row.words("knowledge_level"),
            },
        )

    def official_prompt(self, item: Item) -> str:
        example = json.dumps(
            {"solution": "[Detailed step-by-step explanation]", "short answer": "[Concise Answer]"}, indent=4
        )
        return (
            f"## Question\n {item.question}\n## Answer Instruction Please provide an answer to the question outlined "
            "above. Your response should adhere to the following JSON format, which includes two keys: 'solution' and "
            "'short answer'. The 'solution' key can contain detailed steps needed to solve the question, and the "
            f"'short answer' key should provide a concise response. {_INSTRUCTIONS[item.meta['kind']]}\n\n"
            f"Example of expected JSON response format:\n\n{example}"
        )

    def judge(self, sample: Sample, response: str) -> Steps:
        response = without_thinking(response)
        kind, answer = sample.meta["kind"], sample.answer or ""
        if self.variant == "authors":
            found = authors_answer(response)
            return Score(authors_right(found, answer, kind), found or None, "authors' rule")
        text = between_braces(response)
        scored_by: ScoredBy = "official"
        rule = "short answer of the JSON"
        value = parsed(short_answer(text), kind)
        if value is None:
            rule, value = "whole response", parsed(text, kind)
        if value is None:
            reply = yield Ask(f"Response:\n{response}\n\nState {_ASKED[kind]}.", _SYSTEM, sample.id)
            if reply is not None:
                value, rule, scored_by = parsed(reply.strip(), kind), "short answer by judge", "judge"
            else:
                scored_by = "rule"
        return _verdict(value, text, answer, kind, rule, scored_by)

    def metrics(self) -> Sequence[Metric]:
        return (
            Metric("average", ACCURACY.vector, lambda item: item.meta["seed"]),
            Metric("worst_case", all_right, lambda item: item.meta["seed"]),
        )

    def axes(self) -> Mapping[str, Callable[[Scored], Iterable[str]]]:
        return {
            "subject": in_meta("subject"),
            "knowledge_level": in_meta("knowledge_level"),
            "variant": in_meta("variant"),
            "answer_type": in_meta("kind"),
        }


def between_braces(response: str) -> str:
    """From the first "{" to the last "}" if they are there, without backslashes."""
    start, end = response.find("{"), response.rfind("}")
    return (response[start : end + 1] if 0 <= start < end else response).replace("\\", "")


def short_answer(text: str) -> object:
    """The "short answer" of a JSON object; None if there is none."""
    try:
        found = json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return None
    return found.get("short answer") if isinstance(found, dict) else None


def parsed(answer: object, kind: str) -> str | float | None:
    """A short answer as its type wants it; None if it cannot be read, also for a JSON number in place of text."""
    if not isinstance(answer, str):
        return None
    if kind == "float":
        first = answer if answer.isdigit() else answer.split(" ")[0]
        number, pi, _ = first.partition("π")
        try:
            return float(number) * math.pi if pi else float(number)
        except ValueError:
            return None
    if kind == "multiple choice":
        if len(answer) == 1:
            return answer.upper()
        seen = [letter for letter in "ABCDE" if letter in answer.upper()]
        return seen[0] if len(seen) == 1 else None
    return answer


def _verdict(value: str | float | None, text: str, answer: str, kind: str, rule: str, scored_by: ScoredBy) -> Score:
    if kind == "float":
        correct = isinstance(value, float) and abs(value - float(answer)) <= 0.001
    elif kind == "multiple choice":
        correct = value == answer if value is not None else answer in text[:3].upper()
    else:
        correct = isinstance(value, str) and value.lower() in answer.lower()
    return Score(correct, None if value is None or value == "" else str(value), rule, scored_by)


def authors_answer(response: str) -> str | None:
    """The authors' extraction: the "short answer" of the JSON ("None" without that key), else the last line minus its
    last character; None, which is wrong, for JSON that is no object ("42").
    """
    cut = 0 <= response.find("{") < response.rfind("}")
    text = between_braces(response) if cut else response  # what is not cut out keeps its backslashes
    try:
        found = json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return text.split("\n")[-1][:-1]
    return str(found.get("short answer")) if isinstance(found, dict) else None


def authors_right(found: str | None, answer: str, kind: str) -> bool:
    """The authors' comparison."""
    if found is None:
        return False
    if kind == "float":
        value = parsed(found, kind)
        return isinstance(value, float) and abs(value - float(answer)) <= 0.001
    if kind == "multiple choice":
        return found == answer if len(found) == 1 else answer in found[:3]
    return answer in found
