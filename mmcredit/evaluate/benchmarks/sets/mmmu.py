"""MMMU: college questions of 30 subjects, with several pictures in questions and options."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from mmcredit.components import register
from mmcredit.data.benchmarks.item import LETTERS, Item
from mmcredit.data.benchmarks.layout import Column, Format, Split
from mmcredit.evaluate.benchmarks.base import Benchmark, in_meta, without_thinking
from mmcredit.evaluate.benchmarks.rules.options import mmmu, unwrapped
from mmcredit.evaluate.benchmarks.rules.short_answers import mmmu_open, mmmu_open_right
from mmcredit.evaluate.benchmarks.scoring import Score, Scored
from mmcredit.evaluate.benchmarks.steps import Steps, decided
from mmcredit.seeds import derive

if TYPE_CHECKING:
    from mmcredit.data.benchmarks.table import Row
    from mmcredit.data.sample import Sample

DOMAINS = {
    "Art and Design": ("Art", "Art_Theory", "Design", "Music"),
    "Business": ("Accounting", "Economics", "Finance", "Manage", "Marketing"),
    "Science": ("Biology", "Chemistry", "Geography", "Math", "Physics"),
    "Health and Medicine": (
        *("Basic_Medical_Science", "Clinical_Medicine", "Diagnostics_and_Laboratory_Medicine", "Pharmacy"),
        "Public_Health",
    ),
    "Humanities and Social Science": ("History", "Literature", "Sociology", "Psychology"),
    "Tech and Engineering": (
        *("Agriculture", "Architecture_and_Engineering", "Computer_Science", "Electronics", "Energy_and_Power"),
        *("Materials", "Mechanical_Engineering"),
    ),
}
SUBJECTS = tuple(subject for subjects in DOMAINS.values() for subject in subjects)
_IMAGE = re.compile(r"<image (\d)>")
IMAGES = tuple(Column(f"image_{n}", media=True, required=n == 1) for n in range(1, 8))


class ChoosesOptions(Benchmark):
    """What MMMU and MMMU-Pro share: numbered pictures, options written as text, rules that draw at random."""

    unwrap: bool = Field(
        default=True,
        description="read the last box, or the text without ** and `, first; False: MMMU's rule to the letter",
    )
    mmmu_random: bool = Field(
        default=False,
        description="where the rule finds nothing, draw an option at random as MMMU does, seeded per item",
    )

    def choose(self, sample: Sample, response: str, rule: Callable[[str, Mapping[str, str]], str | None]) -> Score:
        """The verdict on a multiple-choice response by `rule`."""
        options = dict(zip(LETTERS, sample.meta["choices"], strict=False))
        text = unwrapped(response) if self.unwrap else response
        letter = rule(text, options)
        flags: tuple[str, ...] = ("unwrapped",) if letter is not None and text != response else ()
        if letter is None and self.mmmu_random:
            drawn = list(options)[derive(42, "mmmu_random", sample.id) % len(options)]
            return Score(drawn == sample.answer, None, "random option", flags=("random option",))
        return Score(letter is not None and letter == sample.answer, letter, "option letter", flags=flags)


def placed_images(texts: Iterable[str]) -> tuple[list[str], tuple[str, ...]]:
    """Texts with "<image 2>" as "<image>", and the columns of the pictures in the order of the placeholders."""
    order: list[str] = []

    def place(match: re.Match[str]) -> str:
        order.append(f"image_{match.group(1)}")
        return "<image>"

    return [_IMAGE.sub(place, text) for text in texts], tuple(order)


def numbered(row: Row, text: str, options: Iterable[str]) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """(question, options, columns of the pictures) with the placeholders of both in order."""
    done, order = placed_images([text, *options])
    for column in order:
        if column not in {f"image_{n}" for n in range(1, 8)}:
            raise row.bad("question", f"mentions {column}; there are image_1 to image_7")
    return done[0], tuple(done[1:]), order


@register("benchmark", "mmmu")
class MMMU(ChoosesOptions):
    """MMMU (arXiv 2311.16502; MMMU/MMMU, or merged lmms-lab/MMMU): dev 150, validation 900, test 10,500 (hidden).

    Prompt: question with its pictures in place, options "A. text" a line, "Answer with the option's letter from the
    given choices directly." or "Answer the question using a single word or phrase.". Official scoring is a rule: the
    option letter in brackets or between blanks, or the text of an option; for open questions key phrases and numbers.
    Where the rule finds nothing MMMU draws an option at random; here such a response is wrong (`mmmu_random` draws,
    seeded per item). MMMU's rule misses ``**B**`` and boxes: `unwrap` reads these first, and says so in a flag.
    Overall accuracy weighs every question the same; tables by subject and by six domains.
    """

    split: str = Field(default="validation", description="dev, validation or test (hidden answers)")

    format: ClassVar[Format] = Format(
        repositories=("MMMU/MMMU", "lmms-lab/MMMU", "lmms-lab-encoder/MMMU"),
        splits={
            "dev": Split(150, folders=("*",)),
            "validation": Split(900, folders=("*",), stems=("validation", "val")),
            "test": Split(10500, folders=("*",), answers=False),
        },
        columns=(
            Column("id"),
            Column("question"),
            Column("options"),
            *IMAGES,
            Column("answer", required=False),
            Column("question_type"),
            Column("topic_difficulty", required=False),
            Column("subfield", required=False),
        ),
    )

    def item(self, row: Row) -> Item:
        kind = row.one_of("question_type", ("multiple-choice", "open"))
        question, options, order = numbered(row, row.text("question"), row.strings("options", written=True))
        answers: list[str] = []
        if self.format.splits[self.split].answers:
            written = row.scalar("answer").strip()
            answers = row.strings("answer", written=True) if written.startswith("[") else [written]
            if not answers:
                raise row.bad("answer", "a value is wanted, this one is empty", "column missing")
        flags: tuple[str, ...] = ()
        if kind == "multiple-choice":
            if not options:
                raise row.bad("options", "a multiple-choice question without options")
            if answers and answers[0] not in LETTERS[: len(options)]:
                flags = ("reference is none of the letters",)
        id = row.scalar("id")
        subject = re.sub(r"^[a-z]+_|_\d+$", "", id)
        return Item(
            id=id,
            question=question,
            answer=answers[0] if answers else None,
            answer_type="letter" if kind == "multiple-choice" else "text",
            images=order,
            spare_images=tuple(f"image_{n}" for n in range(1, 8) if f"image_{n}" not in order),
            choices=options if kind == "multiple-choice" else None,
            letter=answers[0] if answers and kind == "multiple-choice" and not flags else None,
            flags=flags,
            meta={
                "subject": subject,
                "domain": next((name for name, subjects in DOMAINS.items() if subject in subjects), None),
                "topic_difficulty": row.words("topic_difficulty"),
                "subfield": row.words("subfield"),
                "answers": answers,
            },
        )

    def official_prompt(self, item: Item) -> str:
        if item.choices is None:
            return f"{item.question}\n\nAnswer the question using a single word or phrase."
        return f"{item.question}\n{item.options()}\n\nAnswer with the option's letter from the given choices directly."

    def judge(self, sample: Sample, response: str) -> Steps:
        response = without_thinking(response)
        if sample.meta.get("choices"):
            return decided(self.choose(sample, response, mmmu))
        text = unwrapped(response) if self.unwrap else response
        found = mmmu_open(text)
        correct = mmmu_open_right(found, sample.meta["answers"])
        shown = " | ".join(sorted(str(value).strip() for value in found)) or None
        return decided(Score(correct, shown if response else None, "key phrases and numbers"))

    def axes(self) -> Mapping[str, Callable[[Scored], Iterable[str]]]:
        return {
            "subject": in_meta("subject"),
            "domain": in_meta("domain"),
            "difficulty": in_meta("topic_difficulty"),
            "question_type": lambda item: ("multiple-choice" if item.meta.get("choices") else "open",),
        }
