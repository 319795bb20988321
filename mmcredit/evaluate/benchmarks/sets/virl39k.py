"""ViRL39K: training questions of many kinds, some with several pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from mmcredit.answers.prm_grade import NOTHING, boxed_content
from mmcredit.components import register
from mmcredit.data.benchmarks.item import LETTERS, Item
from mmcredit.data.benchmarks.layout import Column, Format, Split
from mmcredit.evaluate.benchmarks.base import in_meta
from mmcredit.evaluate.benchmarks.boxed_only import BoxedOnly
from mmcredit.evaluate.benchmarks.scoring import Scored

if TYPE_CHECKING:
    from mmcredit.data.benchmarks.table import Row


@register("benchmark", "virl39k")
class ViRL39K(BoxedOnly):
    r"""ViRL39K (arXiv 2504.08837; TIGER-Lab/ViRL39K): 38,870 questions for training.

    The reference is written as ``\boxed{...}`` and unwrapped here; pictures are paths below the data root (the
    repository's images.zip, unpacked). `PassRate_*` columns go to the meta. The copies
    PAPOGalaxy/PAPO_ViRL39K_train and chamber111/VPPO_ViRL39K_train (problem, answer, images) are read too. Scoring: the
    last box by MathRuler's rule.
    """

    split: str = Field(default="train", description="train")

    format: ClassVar[Format] = Format(
        repositories=(*("TIGER-Lab/ViRL39K", "PAPOGalaxy/PAPO_ViRL39K_train", "chamber111/VPPO_ViRL39K_train"),),
        folders=("ViRL39k",),
        splits={"train": Split(38870, stems=("train", "39Krelease", "ViRL39K", "virl39k"))},
        columns=(
            Column("question", aliases=("problem",)),
            Column("answer"),
            Column("image", aliases=("images",), media=True),
            Column("category", required=False),
            Column("source", required=False),
            Column("qid", aliases=("id",), required=False),
        ),
    )

    def item(self, row: Row) -> Item:
        written = row.scalar("answer").strip()
        inside = boxed_content(written)
        answer = written if inside == NOTHING else inside
        if not answer:
            raise row.bad("answer", f"an empty box: {written!r}")
        is_letter = len(answer) == 1 and answer in LETTERS
        rates = {name: value for name, value in row.values.items() if name.startswith("PassRate")}
        return Item(
            id=row.identity("qid"),
            question=row.text("question"),
            answer=answer,
            answer_type="letter" if is_letter else "text",
            images=("image",),
            letter=answer if is_letter else None,
            meta={"category": row.words("category"), "source": row.words("source"), **rates},
        )

    def axes(self) -> Mapping[str, Callable[[Scored], Iterable[str]]]:
        return {"category": in_meta("category"), "source": in_meta("source")}
