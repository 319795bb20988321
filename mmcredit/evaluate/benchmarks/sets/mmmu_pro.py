"""MMMU-Pro: MMMU with ten options, and with the question inside the picture."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from mmcredit.components import register
from mmcredit.data.benchmarks.item import LETTERS, Item
from mmcredit.data.benchmarks.layout import Column, Format, Split
from mmcredit.evaluate.benchmarks.base import in_meta, without_thinking
from mmcredit.evaluate.benchmarks.rules.options import mmmu_pro
from mmcredit.evaluate.benchmarks.scoring import Scored
from mmcredit.evaluate.benchmarks.sets.mmmu import DOMAINS, ChoosesOptions, numbered
from mmcredit.evaluate.benchmarks.steps import Steps, decided

if TYPE_CHECKING:
    from mmcredit.data.benchmarks.table import Row
    from mmcredit.data.sample import Sample
    from mmcredit.evaluate.benchmarks.summary import Summary

_LAST_LINE = (
    "The last line of your response should be of the following format: 'Answer: $LETTER' (without quotes) where LETTER "
    "is one of options."
)
PROMPTS = {
    ("direct", True): f"Answer with the option letter from the given choices directly. {_LAST_LINE}",
    ("direct", False): "Answer with the option letter from the given choices directly.",
    ("cot", True): "Write out the multiple-choice question in the image and then solve it. "
    f"{_LAST_LINE} Think step by step before answering.",
    ("cot", False): f"Answer the preceding multiple choice question. {_LAST_LINE} Think step by step before answering.",
}


@register("benchmark", "mmmu_pro")
class MMMUPro(ChoosesOptions):
    """MMMU-Pro (arXiv 2409.02813; MMMU/MMMU_Pro): 1,730 questions, three times.

    Splits are the configurations: `standard10`, `standard4` (numbered pictures, ten or four options), `vision` (one
    screenshot that holds question and options). Prompts `direct` or `cot`. Official scoring is a rule: the only option
    letter after the last "Answer:", as a plain substring ("Both" is B), else MMMU's rule with more patterns; random
    where that finds nothing (here: wrong, see `mmmu_random`). The headline of the authors is the mean of standard10
    and vision (`overall`); papers on reinforcement learning use vision alone.

    The rule runs on the response as it stands; only where it finds nothing is a box or bold text unwrapped (`unwrap`).
    """

    split: str = Field(default="vision", description="standard10, standard4 or vision")
    style: Literal["direct", "cot"] = Field(default="cot", description="official prompt")

    format: ClassVar[Format] = Format(
        repositories=("MMMU/MMMU_Pro",),
        folders=("MMMU-Pro",),
        splits={
            "standard10": Split(1730, stems=("test", "standard10"), folders=("standard (10 options)", "standard10")),
            "standard4": Split(1730, stems=("test", "standard4"), folders=("standard (4 options)", "standard4")),
            "vision": Split(1730, stems=("test", "vision"), folders=("vision",)),
        },
        columns=(
            Column("id"),
            Column("question", required=False),
            Column("options"),
            Column("image", media=True, required=False),
            *(Column(f"image_{n}", media=True, required=False) for n in range(1, 8)),
            Column("answer"),
            Column("subject", required=False),
            Column("topic_difficulty", required=False),
        ),
    )

    def item(self, row: Row) -> Item:
        vision = self.split == "vision"
        options = row.strings("options", written=True)
        if not options:
            raise row.bad("options", "a list of options is wanted, this one is empty")
        if len(options) > len(LETTERS):
            raise row.bad("options", f"{len(options)} options; at most {len(LETTERS)} have letters")
        question, choices = "", tuple(options)
        order: tuple[str, ...] = ("image",)
        if not vision:
            question, choices, order = numbered(row, row.text("question"), options)
        answer = row.text("answer").strip()
        known = answer in LETTERS[: len(choices)] and len(answer) == 1
        subject = row.words("subject")
        return Item(
            id=row.scalar("id"),
            question=question,
            answer=answer,
            answer_type="letter",
            images=order,
            spare_images=() if vision else tuple(f"image_{n}" for n in range(1, 8) if f"image_{n}" not in order),
            choices=choices,
            letter=answer if known else None,
            flags=() if known else ("reference is none of the letters",),
            meta={
                "subject": subject,
                "domain": next((name for name, subjects in DOMAINS.items() if subject in subjects), None),
                "topic_difficulty": row.words("topic_difficulty"),
            },
        )

    def official_prompt(self, item: Item) -> str:
        if self.split == "vision":
            return PROMPTS[self.style, True]
        return f"{item.question}\n{item.options()}\n{PROMPTS[self.style, False]}"

    def prompt(self, item: Item) -> str:
        if self.split == "vision" and (self.prompt_style or self.scoring) in ("boxed", "rl", "plain"):
            # The options stand in the picture; listing them again would make another benchmark of it.
            item = replace(item, choices=None, question="Answer the question in the image.")
        return super().prompt(item)

    def judge(self, sample: Sample, response: str) -> Steps:
        response = without_thinking(response)
        options = dict(zip(LETTERS, sample.meta["choices"], strict=False))
        found = mmmu_pro(response, options)
        return decided(self.choose(sample, response, lambda text, o: found or mmmu_pro(text, o)))

    def axes(self) -> Mapping[str, Callable[[Scored], Iterable[str]]]:
        return {"subject": in_meta("subject"), "domain": in_meta("domain"), "difficulty": in_meta("topic_difficulty")}


def overall(standard10: Summary, vision: Summary) -> float:
    """The authors' headline: the mean accuracy of the ten-option and the vision setting."""
    if (standard10.split, vision.split) != ("standard10", "vision"):
        raise ValueError(f"summaries of standard10 and vision are wanted, got {standard10.split} and {vision.split}")
    return (standard10.value.value + vision.value.value) / 2
