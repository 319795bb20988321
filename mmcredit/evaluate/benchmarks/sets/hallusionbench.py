"""HallusionBench: yes-no questions about figures, edited figures and no figure."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from mmcredit.components import register
from mmcredit.data.benchmarks.item import Item
from mmcredit.data.benchmarks.layout import Column, Format, Split
from mmcredit.evaluate.benchmarks.base import Benchmark, in_meta, without_thinking
from mmcredit.evaluate.benchmarks.rules.short_answers import yes_no
from mmcredit.evaluate.benchmarks.scoring import Score, Scored
from mmcredit.evaluate.benchmarks.steps import Ask, Steps
from mmcredit.evaluate.benchmarks.summary import Metric, all_right, share

if TYPE_CHECKING:
    import numpy as np

    from mmcredit.data.benchmarks.table import Row
    from mmcredit.data.sample import Sample

_SYSTEM = (
    "You compare a model's answer with a reference answer. You reply with one word: correct, incorrect or unclear."
)


@register("benchmark", "hallusionbench")
class HallusionBench(Benchmark):
    """HallusionBench (arXiv 2310.14566; lmms-lab/HallusionBench): image 951 questions, non_image 178, or all 1,129.

    Prompt: the question as it stands. Official scoring asks a language model whether the response agrees with
    `gt_answer_details` (correct, incorrect, unclear; for VS questions without a figure unclear counts too). Without a
    judge, `rule`: `contains_yes` (the authors' rule: "yes" anywhere in the response is a yes) or `yes_no` (VLMEvalKit:
    exactly one of the words yes and no; neither is wrong).

    `aAcc`: questions right. `qAcc`: groups of one question over all its figures, all right. `fAcc`: groups of all
    questions about one figure, all right, VS figure 0 (no figure) left out. `mean` is their mean, the single number
    that is often quoted. VLMEvalKit uses the image split alone.
    """

    split: str = Field(default="image", description="image, non_image or all")
    rule: Literal["contains_yes", "yes_no"] = Field(default="contains_yes", description="the rule without a judge")

    headline: ClassVar[str] = "aAcc"
    format: ClassVar[Format] = Format(
        repositories=("lmms-lab/HallusionBench", "lmms-lab-encoder/HallusionBench"),
        folders=("hallusion_bench",),
        splits={
            "image": Split(951),
            "non_image": Split(178),
            "all": Split(1129, stems=("HallusionBench", "image", "non_image")),
        },
        columns=(
            Column("category"),
            Column("subcategory"),
            Column("visual_input"),
            Column("set_id"),
            Column("figure_id"),
            Column("question_id"),
            Column("question"),
            Column("gt_answer"),
            Column("gt_answer_details", required=False),
            Column("image", aliases=("filename",), media=True, required=False),
        ),
    )

    def item(self, row: Row) -> Item:
        answer = row.one_of("gt_answer", ("0", "1"))
        keys = ("category", "subcategory", "set_id", "figure_id", "question_id")
        names = {"category": row.one_of("category", ("VD", "VS")), **{key: row.scalar(key) for key in keys[1:]}}
        shown = row.one_of("visual_input", ("0", "1", "2"))
        return Item(
            id="/".join(names.values()),
            question=row.text("question"),
            answer="yes" if answer == "1" else "no",
            answer_type="yesno",
            images=() if shown == "0" else ("image",),
            meta={**names, "visual_input": shown, "details": row.words("gt_answer_details")},
        )

    def official_prompt(self, item: Item) -> str:
        return item.question

    def judge(self, sample: Sample, response: str) -> Steps:
        response = without_thinking(response)
        meta = sample.meta
        flags: tuple[str, ...] = ()
        if response:
            reply = yield Ask(
                f"Question:\n{meta['question']}\n\nReference answer: {meta['details'] or sample.answer}\n\n"
                f"Model's answer:\n{response}\n\nIs the model's answer correct, incorrect or unclear?",
                _SYSTEM,
                sample.id,
            )
            # "correct" stands in "incorrect", which therefore comes first, as with the authors.
            said_so = [word for word in ("incorrect", "correct", "unclear") if word in (reply or "").lower()]
            if said_so:
                verdict = said_so[0]
                no_figure = meta["category"] == "VS" and meta["figure_id"] == "0"
                correct = verdict == "correct" or (no_figure and verdict == "unclear")
                return Score(correct, verdict, "judgement", "judge")
            if reply is not None:
                flags = ("judge gave no verdict",)
        if self.rule == "yes_no":
            said = yes_no(response)
        else:
            said = "yes" if "yes" in response.lower() else "no"
        return Score(said is not None and said == sample.answer, said if response else None, self.rule, "rule", flags)

    def metrics(self) -> Sequence[Metric]:
        return (
            Metric("aAcc", lambda items: (float(sum(i.score.correct for i in items)), float(len(items)))),
            Metric("qAcc", all_right, _question),
            Metric("fAcc", all_right, _figure),
            Metric("mean", _set_counts, _set, _mean_of_three),
        )

    def axes(self) -> Mapping[str, Callable[[Scored], Iterable[str]]]:
        return {
            "category": in_meta("category"),
            "subcategory": lambda item: (f"{item.meta['category']} {item.meta['subcategory']}",),
            "visual_input": in_meta("visual_input"),
        }


def _set(item: Scored) -> Hashable:
    return item.meta["category"], item.meta["subcategory"], item.meta["set_id"]


def _question(item: Scored) -> Hashable:
    return _set(item), item.meta["question_id"]


def _figure(item: Scored) -> Hashable | None:
    """The figure of a question; None for VS questions without one."""
    if item.meta["category"] == "VS" and item.meta["figure_id"] == "0":
        return None
    return _set(item), item.meta["figure_id"]


def _set_counts(items: Sequence[Scored]) -> list[float]:
    """[right, questions, right question groups, question groups, right figures, figures] of one set."""
    counts = [float(sum(item.score.correct for item in items)), float(len(items))]
    for key in (_question, _figure):
        groups: dict[Hashable, bool] = {}
        for item in items:
            name = key(item)
            if name is not None:
                groups[name] = groups.get(name, True) and item.score.correct
        counts += [float(sum(groups.values())), float(len(groups))]
    return counts


def _mean_of_three(totals: np.ndarray) -> np.ndarray:
    return sum(share(totals[..., i : i + 2]) for i in (0, 2, 4)) / 3  # type: ignore[return-value]
