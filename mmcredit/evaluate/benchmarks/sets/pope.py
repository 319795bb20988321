"""POPE: is this object in the picture?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from mmcredit.components import register
from mmcredit.data.benchmarks.item import Item
from mmcredit.data.benchmarks.layout import Column, Format, Split
from mmcredit.evaluate.benchmarks.base import Benchmark, in_meta, without_thinking
from mmcredit.evaluate.benchmarks.rules.short_answers import pope, yes_no
from mmcredit.evaluate.benchmarks.scoring import Score, Scored
from mmcredit.evaluate.benchmarks.steps import Steps, decided
from mmcredit.evaluate.benchmarks.summary import ACCURACY, Metric, ratio

if TYPE_CHECKING:
    from mmcredit.data.benchmarks.table import Row
    from mmcredit.data.sample import Sample


@register("benchmark", "pope")
class POPE(Benchmark):
    """POPE (arXiv 2305.10355; lmms-lab/POPE): 9,000 questions, or 3,000 each of adversarial, popular and random.

    Prompt: the question and "Answer the question using a single word or phrase.". `extraction`: `pope` (the authors':
    a token No, no or not before the first full stop is a no, everything else a yes, also an empty response), `exact`
    (lmms-eval: the response is the reference, whatever the case) or `yes_no` (VLMEvalKit). Metrics with yes as the
    positive class: accuracy, precision, recall, F1, and the yes ratio, which is the share of predicted yes. A
    response that `exact` or `yes_no` cannot read is wrong; in the other metrics it counts as no with `yes_no`, and not
    at all with `exact`, as in these two programs.
    """

    split: str = Field(default="test", description="test, adversarial, popular or random")
    extraction: Literal["pope", "exact", "yes_no"] = Field(default="pope", description="whose reading of a response")

    format: ClassVar[Format] = Format(
        repositories=("lmms-lab/POPE", "lmms-lab-encoder/POPE"),
        splits={
            "test": Split(9000),
            **{name: Split(3000, folders=("Full",)) for name in ("adversarial", "popular", "random")},
        },
        columns=(
            Column("id", required=False),
            Column("question_id", required=False),
            Column("question"),
            Column("answer"),
            Column("image_source", required=False),
            Column("image", media=True),
            Column("category", required=False),
        ),
    )

    def item(self, row: Row) -> Item:
        answer = row.text("answer").strip().lower()
        if answer not in ("yes", "no"):
            raise row.bad("answer", f"yes or no is wanted, got {row.text('answer')!r}")
        category = row.words("category") or (self.split if self.split != "test" else None)
        own = row.identity("id") if row.get("id") is not None else row.identity("question_id")
        return Item(
            id=own,
            question=row.text("question").strip(),
            answer=answer,
            answer_type="yesno",
            images=("image",),
            meta={"category": category, "image_source": row.words("image_source"), "gold": answer},
        )

    def official_prompt(self, item: Item) -> str:
        return f"{item.question}\nAnswer the question using a single word or phrase."

    def judge(self, sample: Sample, response: str) -> Steps:
        response = without_thinking(response)
        if self.extraction == "pope":
            said: str | None = pope(response)
            flags = () if response else ("empty response counts as yes",)
            return decided(Score(said == sample.answer, said, "No, no or not", flags=flags))
        if self.extraction == "exact":
            whole = response.strip().lower()
            said = whole if whole in ("yes", "no") else None
        else:
            said = yes_no(response)
        return decided(Score(said is not None and said == sample.answer, said, self.extraction))

    def metrics(self) -> Sequence[Metric]:
        return (
            ACCURACY,
            *(
                Metric(name, confusion, formula=formula)
                for name, formula in (
                    ("precision", lambda t: ratio(t[..., 0], t[..., 0] + t[..., 1])),
                    ("recall", lambda t: ratio(t[..., 0], t[..., 0] + t[..., 2])),
                    ("f1", lambda t: ratio(2 * t[..., 0], 2 * t[..., 0] + t[..., 1] + t[..., 2])),
                    ("yes_ratio", lambda t: ratio(t[..., 0] + t[..., 1], t.sum(-1))),
                )
            ),
        )

    def axes(self) -> Mapping[str, Callable[[Scored], Iterable[str]]]:
        return {"category": in_meta("category")}


def confusion(items: Sequence[Scored]) -> list[float]:
    """[true positives, false positives, false negatives, true negatives], yes positive.

    What was not read is a no, but nothing where the rule is `exact`: lmms-eval counts what says yes and what says no.
    """
    counts = [0.0] * 4
    for item in items:
        if item.score.extracted is None and item.score.rule == "exact":
            continue
        yes, said = item.meta["gold"] == "yes", item.score.extracted == "yes"
        counts[(0 if said else 2) if yes else (1 if said else 3)] += 1
    return counts
