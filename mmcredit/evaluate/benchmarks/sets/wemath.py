"""We-Math: composite problems beside the steps that they consist of."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from mmcredit.components import register
from mmcredit.data.benchmarks.item import Item
from mmcredit.data.benchmarks.layout import Column, Format, Split
from mmcredit.evaluate.benchmarks.base import Benchmark, in_meta, without_thinking
from mmcredit.evaluate.benchmarks.scoring import Score, Scored
from mmcredit.evaluate.benchmarks.steps import Steps, decided
from mmcredit.evaluate.benchmarks.summary import ACCURACY, Metric, ratio

if TYPE_CHECKING:
    from mmcredit.data.benchmarks.table import Row
    from mmcredit.data.sample import Sample

KEYS = {
    **{f"2steps_{part}": 2 for part in ("1", "2", "multi")},
    **{f"3steps_{part}": 3 for part in ("1", "2", "3", "multi")},
}


@register("benchmark", "wemath")
class WeMath(Benchmark):
    """We-Math (arXiv 2407.01284; We-Math/We-Math): testmini 1,740 questions.

    Each of 525 problems (360 of two steps, 165 of three) is asked as a whole (key `..._multi`) and step by step,
    joined by `ID`. Official extraction: the text after the last "Answer" (the whole response where the word is not
    there), without the signs ``> < : .``, begins with the letter; "(B)", "**B**" and "The answer is B" have none, and
    "ANSWER: B" is A. Accuracy is over all items. Over problems, with the composite wrong: IG (insufficient
    generalisation) if all steps are right, else IK (insufficient knowledge); with it right: CM (complete mastery) if
    all steps are right, else RM (rote memorisation); in the loose reading CM if any step is right. `score` =
    (n - IG/2 - RM - IK) / n; `rm_rate` = RM / (CM + RM). S1 is the accuracy on steps, S2 and S3 that on composites of
    two and three. Papers on reinforcement learning report plain accuracy.
    """

    split: str = Field(default="testmini", description="testmini")

    format: ClassVar[Format] = Format(
        repositories=("We-Math/We-Math",),
        folders=("We_Math", "we_math", "WeMath"),
        splits={"testmini": Split(1740)},
        columns=(
            Column("ID"),
            Column("key"),
            Column("question"),
            Column("option"),
            Column("answer"),
            Column("image_path", aliases=("image",), media=True),
            Column("knowledge concept", required=False),
            Column("question number", required=False),
            Column("knowledge concept description", required=False),
        ),
    )

    def item(self, row: Row) -> Item:
        key = row.one_of("key", list(KEYS))
        answer = row.text("answer").strip()
        if not re.fullmatch("[A-H]", answer):
            raise row.bad("answer", f"a letter A to H is wanted, got {answer!r}")
        options = split_options(row.text("option"))
        letters = [letter for letter, _ in options]
        return Item(
            id=f"{row.scalar('ID')}/{key}",
            question=f"{row.text('question')}\nOption: {row.text('option')}",
            answer=answer,
            answer_type="letter",
            images=("image_path",),
            letter=answer,
            flags=() if not letters or answer in letters else ("reference is none of the letters",),
            meta={"ID": row.scalar("ID"), "key": key, "steps": KEYS[key], "concept": row.get("knowledge concept")},
        )

    def official_prompt(self, item: Item) -> str:
        return (
            "Now, we require you to solve a multiple-choice math question. Please briefly describe your thought "
            f"process and provide the final answer(option).\nQuestion: {item.question}\nRegarding the format, please "
            "answer following the template below, and be sure to include two <> symbols:\n"
            "<Thought process>: <<your thought process>> <Answer>: <<your option>>"
        )

    def judge(self, sample: Sample, response: str) -> Steps:
        letter = answer_letter(without_thinking(response))
        return decided(Score(letter == sample.answer, letter, "letter after Answer"))

    def metrics(self) -> Sequence[Metric]:
        formulas = {
            "score_strict": lambda t: ratio(t[..., 0] - 0.5 * t[..., 1] - t[..., 2] - t[..., 4], t[..., 0]),
            "score_loose": lambda t: ratio(t[..., 0] - 0.5 * t[..., 1] - t[..., 2] - t[..., 6], t[..., 0]),
            "rm_rate_strict": lambda t: ratio(t[..., 4], t[..., 3] + t[..., 4]),
            "rm_rate_loose": lambda t: ratio(t[..., 6], t[..., 5] + t[..., 6]),
            "IG": lambda t: ratio(t[..., 1], t[..., 0]),
            "IK": lambda t: ratio(t[..., 2], t[..., 0]),
            "CM_strict": lambda t: ratio(t[..., 3], t[..., 0]),
            "RM_strict": lambda t: ratio(t[..., 4], t[..., 0]),
            "CM_loose": lambda t: ratio(t[..., 5], t[..., 0]),
            "RM_loose": lambda t: ratio(t[..., 6], t[..., 0]),
        }
        return (
            ACCURACY,
            *(Metric(name, four_dimensions, _problem, formula) for name, formula in formulas.items()),
            Metric("S1", ACCURACY.vector, lambda item: None if _is_multi(item) else item.id),
            Metric("S2", ACCURACY.vector, lambda item: item.id if _is_multi(item, 2) else None),
            Metric("S3", ACCURACY.vector, lambda item: item.id if _is_multi(item, 3) else None),
        )

    def axes(self) -> Mapping[str, Callable[[Scored], Iterable[str]]]:
        return {"key": in_meta("key"), "steps": in_meta("steps")}


def _is_multi(item: Scored, steps: int | None = None) -> bool:
    return item.meta["key"].endswith("multi") and steps in (None, item.meta["steps"])


def _problem(item: Scored) -> Hashable:
    return item.meta["steps"], item.meta["ID"]


def four_dimensions(items: Sequence[Scored]) -> list[float]:
    """[problems, IG, IK, CM strict, RM strict, CM loose, RM loose] of one problem; zeros if a part of it is missing."""
    right = {item.meta["key"].rpartition("_")[2]: item.score.correct for item in items}
    multi = right.pop("multi", None)
    if multi is None or len(right) != items[0].meta["steps"]:
        return [0.0] * 7  # a filtered run: this problem cannot be classified
    every, some = all(right.values()), any(right.values())
    if not multi:
        return [1.0, float(every), float(not every), 0.0, 0.0, 0.0, 0.0]
    return [1.0, 0.0, 0.0, float(every), float(not every), float(some), float(not some)]


def answer_letter(response: str) -> str | None:
    """The first character after the last "Answer", without the signs ``> < : .``, if it is one of A to H."""
    first = re.sub("[><:.]", "", response.rpartition("Answer")[2].strip()).strip()[:1]
    return first if first and first in "ABCDEFGH" else None


_OPTION = re.compile(r"(?:^|;\s*)([A-H])[.．]\s*")


def split_options(text: str) -> list[tuple[str, str]]:
    """[(letter, text)] of "A. ..; B. ..; .. E. No correct answer"; a semicolon inside an option stays."""
    marks = list(_OPTION.finditer(text))
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    return [(mark.group(1), text[mark.end() : end].strip()) for mark, end in zip(marks, ends, strict=True)]
