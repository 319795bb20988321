"""MMStar: 1,500 questions that need their picture."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import Field

from mmcredit.components import register
from mmcredit.data.benchmarks.item import LETTERS, Item
from mmcredit.data.benchmarks.layout import Column, Format, Split
from mmcredit.evaluate.benchmarks.base import Benchmark, in_meta, without_thinking
from mmcredit.evaluate.benchmarks.rules.options import REFUSED, lmms, unwrapped, vlmeval
from mmcredit.evaluate.benchmarks.scoring import Score, Scored, ScoredBy
from mmcredit.evaluate.benchmarks.steps import Ask, Steps
from mmcredit.evaluate.benchmarks.summary import ACCURACY, Metric

if TYPE_CHECKING:
    from mmcredit.data.benchmarks.table import Row
    from mmcredit.data.sample import Sample

DETAILED = (
    *("image scene and topic", "image style & quality", "image emotion", "object counting", "recognition"),
    *("localization", "single-instance reasoning", "cross-instance attribute reasoning"),
    *("cross-instance relation reasoning", "code & sequence reasoning", "diagram reasoning", "common reasoning"),
    *("biology & chemistry & physics", "electronics & energy & mechanical eng."),
    *("geography & earth science & agriculture", "geometry", "numeric commonsense and calculation"),
    "statistical reasoning",
)
_SYSTEM = (
    "You match a model's answer to one of the options of a question. You reply with one capital letter, Z for none."
)


@register("benchmark", "mmstar")
class MMStar(Benchmark):
    """MMStar (arXiv 2403.20330; Lin-Chen/MMStar): val 1,500, 6 categories of 250, 18 detailed ones.

    Options stand in the question; the prompt adds "Answer with the option's letter from the given choices directly.".
    `extraction`: `lmms` (lmms-eval: ranked patterns, always a rule) or `vlmeval` (VLMEvalKit: a rule, then a language
    model; without a judge a response that the rule cannot read is wrong and labelled `rule`). A box or bold text is
    unwrapped first (`unwrap`). `accuracy` is the plain mean (VLMEvalKit), `detailed_mean` the mean over the detailed
    categories (lmms-eval); they are equal only if these are equally large.
    """

    split: str = Field(default="val", description="val")
    extraction: Literal["lmms", "vlmeval"] = Field(default="lmms", description="whose extraction")
    unwrap: bool = Field(default=True, description="read the last box, or the text without ** and `, first")

    format: ClassVar[Format] = Format(
        repositories=("Lin-Chen/MMStar",),
        splits={"val": Split(1500, stems=("val", "mmstar", "MMStar"))},
        columns=(
            Column("index"),
            Column("question"),
            Column("image", media=True),
            Column("answer"),
            Column("category"),
            Column("l2_category"),
            Column("meta_info", required=False),
        ),
    )

    def item(self, row: Row) -> Item:
        answer = row.one_of("answer", ("A", "B", "C", "D"))
        return Item(
            id=row.scalar("index"),
            question=row.text("question").strip(),
            answer=answer,
            answer_type="letter",
            images=("image",),
            letter=answer,
            meta={
                "category": row.text("category"),
                "l2_category": row.text("l2_category"),
                "meta_info": row.mapping("meta_info"),
            },
        )

    def official_prompt(self, item: Item) -> str:
        return f"{item.question}\nAnswer with the option's letter from the given choices directly."

    def judge(self, sample: Sample, response: str) -> Steps:
        response = without_thinking(response)
        text = unwrapped(response) if self.unwrap else response
        flags = ("unwrapped",) if text != response else ()
        if self.extraction == "lmms":
            letter = lmms(text, "ABCD")
            return Score(letter == sample.answer, letter, "ranked patterns", flags=flags)
        options = inline_options(sample.meta["question"])
        letter = vlmeval(text, options)
        if letter is not None or not response:
            return _verdict(letter, sample, "can_infer", "official", flags)
        reply = yield Ask(
            f"Question:\n{sample.meta['question']}\n\nModel's answer:\n{response}\n\nWhich option is meant?",
            _SYSTEM,
            sample.id,
        )
        if reply is not None:
            letter = vlmeval(reply, options)
            if letter is not None:
                return _verdict(letter, sample, "option by judge", "judge", flags)
            flags = (*flags, "judge named no option")
        return Score(False, None, "can_infer", "rule", flags)

    def metrics(self) -> Sequence[Metric]:
        return ACCURACY, Metric("detailed_mean", _by_detail, formula=_mean_of_groups)

    def axes(self) -> Mapping[str, Callable[[Scored], Iterable[str]]]:
        return {"category": in_meta("category"), "l2_category": in_meta("l2_category")}


def _verdict(letter: str | None, sample: Sample, rule: str, by: ScoredBy, flags: tuple[str, ...]) -> Score:
    """A refusal is wrong, and no answer."""
    chosen = None if letter == REFUSED else letter
    return Score(chosen is not None and chosen == sample.answer, chosen, rule, by, flags)


def inline_options(question: str) -> dict[str, str]:
    """By letter the options that stand in a question as "A: dog, B: cat" or "A. dog"."""
    tail = re.split(r"Options?\s*:|Choices\s*:", question)[-1]
    marks = list(re.finditer(r"(?:^|[\s,(])([A-D])[:.)]\s*", tail))
    ends = [mark.start() for mark in marks[1:]] + [len(tail)]
    found = {mark.group(1): tail[mark.end() : end].strip(" ,\n.") for mark, end in zip(marks, ends, strict=True)}
    # A letter without a text matches nothing by its text.
    return {letter: found.get(letter) or "\0" for letter in LETTERS[:4]}


def _by_detail(items: Sequence[Scored]) -> list[float]:
    """[hits and number per detailed category] of one item; categories of other names share the last place."""
    counts = [0.0] * (2 * (len(DETAILED) + 1))
    for item in items:
        name = item.meta["l2_category"]
        at = DETAILED.index(name) if name in DETAILED else len(DETAILED)
        counts[2 * at] += item.score.correct
        counts[2 * at + 1] += 1
    return counts


def _mean_of_groups(totals: np.ndarray) -> np.ndarray:
    hits, numbers = totals[..., 0::2], totals[..., 1::2]
    shares = np.where(numbers > 0, hits / np.maximum(numbers, 1), 0.0)
    return shares.sum(-1) / np.maximum((numbers > 0).sum(-1), 1)
