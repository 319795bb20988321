"""MathVerse: the same problems with less and less in the text and more and more in the picture."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, field_validator

from mmcredit.answers.extract import last_boxed, last_number
from mmcredit.answers.option import option_letter
from mmcredit.components import nearest, register
from mmcredit.data.benchmarks.item import Item
from mmcredit.data.benchmarks.layout import Column, Format, Split
from mmcredit.evaluate.benchmarks.base import Benchmark, in_meta, without_thinking
from mmcredit.evaluate.benchmarks.rules.boxed import graded
from mmcredit.evaluate.benchmarks.scoring import Score, Scored
from mmcredit.evaluate.benchmarks.steps import Ask, Asking, Steps

if TYPE_CHECKING:
    from mmcredit.data.benchmarks.table import Row
    from mmcredit.data.sample import Sample

VERSIONS = ("Text Dominant", "Text Lite", "Vision Intensive", "Vision Dominant", "Vision Only", "Text Only")
VISION_HEAVY = ("Vision Intensive", "Vision Dominant", "Vision Only")
_EXTRACT = "You read a model's response to a problem and state its final answer, and nothing else."
_JUDGE = "You compare a model's answer with the reference answer of a problem. You reply with 1 or 0 and nothing else."


@register("benchmark", "mathverse")
class MathVerse(Benchmark):
    """MathVerse (arXiv 2403.14624; AI4Math/MathVerse): testmini 3,940 (788 problems in 5 versions), text only 788.

    Prompt: the column `query_wo` ("answer directly") or `query_cot`. Official scoring ("w/o" score): a language model
    extracts the answer, and unless that equals the reference as text a language model judges it. Without a judge: the
    last box, else the chosen letter or the last number; letters are compared, all else by MathRuler's rule.

    Papers on reinforcement learning keep the multiple-choice items (`question_types: multi-choice`: 436 x 5 = 2,180),
    and call the three vision-heavy versions MathVerse_V (436 x 3 = 1,308): the group `vision-heavy` of the summary.
    """

    split: str = Field(default="testmini", description="testmini or testmini_text_only")
    query: Literal["wo", "cot"] = Field(default="wo", description="official prompt: without or with reasoning")
    question_types: Literal["all", "multi-choice", "free-form"] = Field(default="all", description="which are kept")
    versions: tuple[str, ...] | None = Field(default=None, description="which versions are kept; None: all")

    format: ClassVar[Format] = Format(
        repositories=("AI4Math/MathVerse", "CaraJ/MathVerse-lmmseval"),
        splits={
            "testmini": Split(3940),
            "testmini_text_only": Split(788, stems=("testmini_text_only", "testmini_text-only")),
        },
        columns=(
            Column("sample_index", required=False),
            Column("problem_index"),
            Column("problem_version"),
            Column("question"),
            Column("image", media=True, required=False),
            Column("answer"),
            Column("question_type"),
            Column("metadata", required=False),
            Column("query_wo", required=False),
            Column("query_cot", required=False),
            Column("question_for_eval", required=False),
        ),
    )

    @field_validator("versions")
    @classmethod
    def _versions_are_known(cls, versions: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for version in versions or ():
            if version not in VERSIONS:
                raise ValueError(f"no version {version!r}; {nearest(version, VERSIONS)}")
        return versions

    def item(self, row: Row) -> Item:
        version = row.text("problem_version").replace("_", " ")
        if version not in VERSIONS:
            raise row.bad("problem_version", f"{version!r} is none of {', '.join(VERSIONS)}")
        kind = row.one_of("question_type", ("multi-choice", "free-form"))
        answer = row.scalar("answer").strip()
        if kind == "multi-choice" and not re.fullmatch("[A-Z]", answer):
            raise row.bad("answer", f"a letter is wanted for a multiple-choice question, got {answer!r}")
        question = row.words("question") or ""
        if not question and version != "Vision Only":
            raise row.bad("question", f"empty, which only the version Vision Only may be, not {version}")
        query = row.words(f"query_{self.query}")
        if not question and query is None:
            raise row.bad(f"query_{self.query}", "empty beside an empty question")
        return Item(
            id=row.identity("sample_index"),
            # A question that stands in the picture alone still needs words around it.
            question=question or (query or ""),
            answer=answer,
            answer_type="letter" if kind == "multi-choice" else "text",
            images=() if version == "Text Only" else ("image",),
            letter=answer if kind == "multi-choice" else None,
            meta={
                "problem_index": row.scalar("problem_index"),
                "problem_version": version,
                "question_type": kind,
                "metadata": row.mapping("metadata"),
                "query": query,
                "question_for_eval": row.words("question_for_eval"),
            },
        )

    def keeps(self, item: Item) -> bool:
        kind, version = item.meta["question_type"], item.meta["problem_version"]
        return self.question_types in ("all", kind) and (self.versions is None or version in self.versions)

    def official_prompt(self, item: Item) -> str:
        if item.meta["query"]:
            return str(item.meta["query"])
        letter = item.letter is not None
        if self.query == "wo":
            asked = (
                "provide the correct option letter, e.g., A, B, C, D."
                if letter
                else "provide the final value, e.g., 1, 2.5, 300."
            )
            return f"Please directly answer the question and {asked}\nQuestion: {item.question}"
        asked = (
            "provide the correct option letter, e.g., A, B, C, D, at the end."
            if letter
            else "provide the final value, e.g., 1, 2.5, 300, at the end."
        )
        return f"Please first conduct reasoning, and then answer the question and {asked}\nQuestion: {item.question}"

    def judge(self, sample: Sample, response: str) -> Steps:
        answer = sample.answer or ""
        response = without_thinking(response)
        if not response:
            return Score(False, None, "empty response")
        reply = yield Ask(f"Response:\n{response}\n\nState its final answer.", _EXTRACT, sample.id)
        if reply is None:
            return (yield from self._by_rule(sample, response, answer, ()))
        extracted = reply.replace("Extracted Answer: ", "").strip()  # which models repeat
        if extracted == answer:
            return Score(True, extracted, "equal text", "judge")
        problem = sample.meta["question_for_eval"] or sample.meta["question"]
        verdict = yield Ask(
            f"Problem:\n{problem}\n\nReference answer: {answer}\nModel's answer: {extracted}\n\n"
            "Do they mean the same? Reply 1 if they do, else 0.",
            _JUDGE,
            sample.id,
        )
        digits = re.findall(r"\b[01]\b", verdict or "")
        if len(set(digits)) == 1:
            return Score(digits[0] == "1", extracted or None, "judgement", "judge")
        return (yield from self._by_rule(sample, extracted, answer, ("judge gave no verdict",)))

    def _by_rule(self, sample: Sample, response: str, answer: str, flags: tuple[str, ...]) -> Asking[Score]:
        box = last_boxed(response)
        text = response if box is None else box
        if sample.meta["question_type"] == "multi-choice":
            letter = option_letter(text)
            return Score(letter == answer, letter, "option letter", "rule", flags)
        number = last_number(text, "keep") if box is None else None
        # Without a box the last number of a longer response, else the response itself: "x + 1".
        found = box if box is not None else str(number) if number is not None and len(text.split()) > 3 else text
        correct, how = yield from graded(found.strip(), answer)
        return Score(correct, found.strip() or None, f"MathRuler, {how}", "rule", flags)

    def axes(self) -> Mapping[str, Callable[[Scored], Iterable[str]]]:
        def heavy(item: Scored) -> Iterable[str]:
            return ("vision-heavy",) if item.meta["problem_version"] in VISION_HEAVY else ()

        return {
            "version": in_meta("problem_version"),
            "set": heavy,
            "question_type": in_meta("question_type"),
            "subject": in_meta("metadata.subject"),
            "subfield": in_meta("metadata.subfield"),
        }
