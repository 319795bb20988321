"""LogicVista: logical reasoning in pictures, five skills."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from mmcredit.answers.extract import last_boxed
from mmcredit.answers.option import option_letter
from mmcredit.components import register
from mmcredit.data.benchmarks.item import Item
from mmcredit.data.benchmarks.layout import Column, Format, Split
from mmcredit.evaluate.benchmarks.base import Benchmark, in_meta, without_thinking
from mmcredit.evaluate.benchmarks.rules.options import mmmu
from mmcredit.evaluate.benchmarks.scoring import Score, Scored
from mmcredit.evaluate.benchmarks.steps import Ask, Steps

if TYPE_CHECKING:
    from mmcredit.data.benchmarks.table import Row
    from mmcredit.data.sample import Sample

SKILLS = ("inductive", "deductive", "numerical", "spatial", "mechanical")
_SYSTEM = "You read a multiple-choice question and a model's response, and list the letters of the chosen options."


@register("benchmark", "logicvista")
class LogicVista(Benchmark):
    """LogicVista (arXiv 2407.04973; lscpku/LogicVista): test 448; options stand in the question.

    Official scoring (VLMEvalKit's): a language model names the chosen letters (Z for none), and the sorted letters must
    equal those of the reference, of which three have two ("A, C"). Without a judge: the letters in the last box, else
    the one letter that the response decides for. Two references are damaged (one is empty, one is "3"): they are
    flagged and always wrong. The authors' own script differs (it never accepts a bare F or G): not followed.
    """

    split: str = Field(default="test", description="test")

    format: ClassVar[Format] = Format(
        repositories=("lscpku/LogicVista",),
        splits={"test": Split(448, stems=("test", "dataset", "data", "LogicVista", "train"))},
        columns=(
            Column("id", aliases=("imagename",), required=False),
            Column("question"),
            Column("answer"),
            Column("image", aliases=("imagename", "image_path"), media=True),
            Column("skill", required=False),
            Column("broad_capability", required=False),
            Column("specific_capability", required=False),
        ),
    )

    def item(self, row: Row) -> Item:
        answer = "" if row.get("answer") is None else row.scalar("answer").strip()
        letters = sorted_letters(answer)
        skill = str(row.values.get("skill") or "").lower()
        return Item(
            id=row.identity("id"),
            question=row.text("question"),
            answer=answer,
            answer_type="letter" if letters is not None and len(letters) == 1 else "letters",
            images=("image",),
            letter=answer if letters is not None and len(letters) == 1 else None,
            flags=() if letters else ("damaged reference",),
            meta={"skill": skill, "skills": [name for name in SKILLS if name in skill]},
        )

    def official_prompt(self, item: Item) -> str:
        return item.question

    def judge(self, sample: Sample, response: str) -> Steps:
        response = without_thinking(response)
        wanted = sorted_letters(sample.answer or "")
        reply = yield Ask(
            f"Question:\n{sample.meta['question']}\n\nResponse:\n{response}\n\n"
            "Reply with the capital letters of the options that the response chooses, separated by commas, or with Z "
            "if it chooses none.",
            _SYSTEM,
            sample.id,
        )
        flags: tuple[str, ...] = ()
        if reply is not None:
            # "AC", as VLMEvalKit's prompt asks for it, to the letter; or "A, C", as ours does.
            plain = reply.isalpha() and reply.isupper()
            found = "".join(sorted(reply.lower())) if plain else sorted_letters(reply)
            if found is not None:
                none = found == "z"
                return Score(bool(wanted) and found == wanted, None if none else found.upper(), "letters", "judge")
            flags = ("judge gave no letters",)
        text, rule = by_rule(response)
        found = None if text is None else sorted_letters(text)
        correct = bool(wanted) and found == wanted
        return Score(correct, found.upper() if found else None, rule, "rule", flags)

    def axes(self) -> Mapping[str, Callable[[Scored], Iterable[str]]]:
        return {"skill": in_meta("skills")}


def sorted_letters(text: str) -> str | None:
    """Sorted lower-case letters of "A, C" or "C"; None if the text holds anything but single letters."""
    parts = [part.strip(" .()[]*") for part in re.split(r"[,\s]+|\band\b", text.strip()) if part.strip(" .()[]*")]
    if not parts or not all(len(part) == 1 and part.isalpha() and part.isascii() for part in parts):
        return None
    return "".join(sorted({part.lower() for part in parts}))


def by_rule(response: str) -> tuple[str | None, str]:
    """(letters, rule) without a judge."""
    box = last_boxed(response)
    if box is not None:
        inside = re.sub(r"\\text(?:bf)?\s*\{([^{}]*)\}", r"\1", box)
        if sorted_letters(inside) is not None:
            return inside, "letters in the box"
        return option_letter(inside), "option letter in the box"
    if sorted_letters(response) is not None and len(response) < 40:
        return response, "letters"
    return option_letter(response) or mmmu(response, dict.fromkeys("ABCDEFG", "\x00")), "option letter"
