"""ChartQA: questions about charts, written by people or made from summaries."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from mmcredit.answers.extract import last_boxed
from mmcredit.components import register
from mmcredit.data.benchmarks.item import Item
from mmcredit.data.benchmarks.layout import Column, Format, Split
from mmcredit.evaluate.benchmarks.base import Benchmark, without_thinking
from mmcredit.evaluate.benchmarks.rules.short_answers import relaxed
from mmcredit.evaluate.benchmarks.scoring import Score, Scored
from mmcredit.evaluate.benchmarks.steps import Steps, decided

if TYPE_CHECKING:
    from mmcredit.data.benchmarks.table import Row
    from mmcredit.data.sample import Sample

_STATED = re.compile(r"answer\s*(?:is|:)\s*(.+)", re.IGNORECASE | re.DOTALL)


@register("benchmark", "chartqa")
class ChartQA(Benchmark):
    """ChartQA (arXiv 2203.10244; lmms-lab/ChartQA): test 2,500, half human, half augmented.

    Prompt: the question and "Answer the question with a single word.". Relaxed accuracy: within 5 % of a number that is
    not 0 (50% is 0.5), else equal texts whatever the case. The prediction is compared as it stands; `unwrap` first
    takes the content of a box or what follows "answer is" / "answer:" (for models that reason), `tidy` strips blanks, a
    final full stop and thousands commas. Metrics overall and for human and augmented questions.
    """

    split: str = Field(default="test", description="test, validation or train")
    unwrap: bool = Field(default=True, description="read the last box, or what follows 'answer is', first")
    tidy: bool = Field(default=False, description="strip blanks, a final stop and thousands commas of the prediction")

    format: ClassVar[Format] = Format(
        repositories=("lmms-lab/ChartQA", "lmms-lab-encoder/ChartQA"),
        splits={"test": Split(2500), "validation": Split(stems=("validation", "val")), "train": Split()},
        columns=(
            Column("type"),
            Column("question"),
            Column("answer"),
            Column("image", media=True),
            Column("id", required=False),
        ),
    )

    def item(self, row: Row) -> Item:
        answer = row.scalar("answer")
        return Item(
            id=row.identity("id"),
            question=row.text("question"),
            answer=answer,
            answer_type="text",
            images=("image",),
            meta={"type": row.text("type")},
        )

    def official_prompt(self, item: Item) -> str:
        return f"{item.question}\nAnswer the question with a single word."

    def judge(self, sample: Sample, response: str) -> Steps:
        prediction = without_thinking(response)
        flags: tuple[str, ...] = ()
        if self.unwrap:
            box = last_boxed(prediction)
            stated = _STATED.search(prediction) if box is None else None
            found = box if box is not None else stated.group(1).strip().rstrip(".") if stated else prediction
            prediction, flags = found, ("unwrapped",) if found != prediction else ()
        if self.tidy:
            prediction = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", prediction.strip().rstrip("."))
        correct = relaxed(prediction, sample.answer or "")
        return decided(Score(correct, prediction or None, "relaxed accuracy", flags=flags))

    def axes(self) -> Mapping[str, Callable[[Scored], Iterable[str]]]:
        return {"type": lambda item: (item.meta["type"].removesuffix("_test"),)}
