"""MMK12: school questions in mathematics, physics, chemistry and biology."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from mmcredit.components import register
from mmcredit.data.benchmarks.item import LETTERS, Item
from mmcredit.data.benchmarks.layout import Column, Format, Split
from mmcredit.evaluate.benchmarks.base import in_meta
from mmcredit.evaluate.benchmarks.boxed_only import BoxedOnly
from mmcredit.evaluate.benchmarks.scoring import Scored

if TYPE_CHECKING:
    from mmcredit.data.benchmarks.table import Row


@register("benchmark", "mmk12")
class MMK12(BoxedOnly):
    """MMK12 (arXiv 2503.07365; FanqingM/MMK12): train 15,616 short answers, test 2,000 choices (500 per subject).

    The options of a test question stand in its text, the reference is their letter. Scoring: the last box by
    MathRuler's rule, so "A. 12" in the box is not A. The copies PAPOGalaxy/PAPO_MMK12_test and
    chamber111/VPPO_MMK12_validation (problem, answer, images) are read too. lmms-lab-encoder/k12 is another set.
    """

    split: str = Field(default="test", description="train, validation or test")

    format: ClassVar[Format] = Format(
        repositories=(
            *("FanqingM/MMK12", "PAPOGalaxy/PAPO_MMK12_test", "chamber111/VPPO_MMK12_validation"),
            "xyliu6/k12-freeform",
        ),
        folders=("PAPO_MMK12",),
        splits={"train": Split(15616), "validation": Split(), "test": Split(2000)},
        columns=(
            Column("id", required=False),
            Column("question", aliases=("problem",)),
            Column("answer"),
            Column("subject", required=False),
            Column("image", aliases=("images",), media=True),
        ),
    )

    def item(self, row: Row) -> Item:
        answer = row.scalar("answer").strip()
        is_letter = len(answer) == 1 and answer in LETTERS
        return Item(
            id=row.identity("id"),
            question=row.text("question"),
            answer=answer,
            answer_type="letter" if is_letter else "text",
            images=("image",),
            letter=answer if is_letter else None,
            meta={"subject": row.words("subject")},
        )

    def axes(self) -> Mapping[str, Callable[[Scored], Iterable[str]]]:
        return {"subject": in_meta("subject")}
