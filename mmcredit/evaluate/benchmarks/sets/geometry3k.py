"""Geometry3K: geometry problems with one figure and short answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from mmcredit.components import register
from mmcredit.data.benchmarks.item import LETTERS, Item
from mmcredit.data.benchmarks.layout import Column, Format, Split
from mmcredit.evaluate.benchmarks.boxed_only import BoxedOnly

if TYPE_CHECKING:
    from mmcredit.data.benchmarks.table import Row


@register("benchmark", "geometry3k")
class Geometry3K(BoxedOnly):
    r"""Geometry3K (arXiv 2105.04165) as papers on reinforcement learning use it: hiyouga/geometry3k, train 2,101,
    validation 300, test 601.

    The problem begins with the picture's placeholder; references are short, in LaTeX ("2 \sqrt { 221 }"). Scoring: the
    last box by MathRuler's rule. The multiple-choice copy Yang130/geometry3k_4choices_mixed has letters as references.
    """

    split: str = Field(default="test", description="train, validation or test")

    format: ClassVar[Format] = Format(
        repositories=("hiyouga/geometry3k", "xyliu6/geometry3k", "Yang130/geometry3k_4choices_mixed"),
        folders=("hiyouga_geometry3k",),
        splits={"train": Split(2101), "validation": Split(300, stems=("validation", "val")), "test": Split(601)},
        columns=(
            Column("images", aliases=("image",), media=True),
            Column("problem", aliases=("question",)),
            Column("answer", aliases=("ground_truth",)),
            Column("id", required=False),
            Column("choices", required=False),
        ),
    )

    def item(self, row: Row) -> Item:
        answer = row.scalar("answer").strip()
        is_letter = len(answer) == 1 and answer in LETTERS
        return Item(
            id=row.identity("id"),
            question=row.text("problem"),
            answer=answer,
            answer_type="letter" if is_letter else "number",
            images=("images",),
            letter=answer if is_letter else None,
            # Newer revisions list choices beside a free-form problem: kept for reading, not asked.
            meta={"listed_choices": row.strings("choices", written=True)},
        )
