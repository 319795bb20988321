"""NExT-GQA: a right answer, and the right place to look."""

from __future__ import annotations

import csv
import json
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from mmcredit.components import register
from mmcredit.data.benchmarks.item import LETTERS, Item
from mmcredit.data.benchmarks.layout import Format, Split
from mmcredit.evaluate.benchmarks.base import in_meta
from mmcredit.evaluate.benchmarks.scoring import Score, Scored
from mmcredit.evaluate.benchmarks.steps import Steps, decided
from mmcredit.evaluate.benchmarks.summary import Metric
from video.benchmarks.base import Question, VideoBenchmark, find, gold_spans, letter_of, read_json
from video.metrics import Span, best_iou_iop, span_in_answer
from video.retrieval import parse_call

if TYPE_CHECKING:
    from pathlib import Path

    from mmcredit.data.sample import Sample


@register("benchmark", "nextgqa")
class NExTGQA(VideoBenchmark):
    """NExT-GQA (arXiv 2309.01327): test 5,553 questions of 990 videos, val 3,358 of 567; Acc@GQA, mIoP, mIoU, IoP@.5.

    Files: `test.csv`, `gsub_test.json`, and `map_vid_vidorID.json` for the paths of the videos (without it VIDEO.mp4).
    Each question predicts one window: that of the retrieval call (`window: call`), or a range in the answer; without
    one it is the whole video. Per question the largest IoP and IoU over the gold segments count, at least 0.
    Acc@GQA: IoP >= .5 and the right option; every question stays in the denominator. Questions without a segment (nine
    of the test's) are left out and counted. Types TP are counted with TN.
    """

    headline: ClassVar[str] = "Acc@GQA"
    boxable = False
    split: str = Field(default="test", description="test or val")
    window: Literal["call", "answer"] = Field("call", description="where the predicted window stands")
    format: ClassVar[Format] = Format(
        repositories=("doc-doc/NExT-GQA",),
        splits={"test": Split(5553), "val": Split(3358)},
        columns=(),
        folders=("NExT-GQA", "NExTGQA", "next-gqa"),
    )

    def questions(self, base: Path) -> Iterator[Question]:
        folders = ("datasets/nextgqa", "nextgqa")
        table = find(self, base, [f"{self.split}.csv"], folders)
        segments = read_json(find(self, base, [f"gsub_{self.split}.json"], folders))
        try:
            paths = read_json(find(self, base, ["map_vid_vidorID.json"], folders))
        except ValueError:
            paths = {}
        missing = 0
        with table.open(encoding="utf-8", newline="") as file:
            for number, row in enumerate(csv.DictReader(file), 2):
                found = list(self._question(row, segments, paths, f"{table.name}:{number}"))
                missing += not found
                yield from found
        if missing:
            warnings.warn(
                f"{self.name}: {missing} questions of {table.name} have no segment and are left out", stacklevel=2
            )

    def _question(
        self, row: Mapping[str, Any], segments: Mapping[str, Any], paths: Mapping[str, str], place: str
    ) -> Iterator[Question]:
        try:
            video, qid, kind = row["video_id"], row["qid"], row["type"]
            choices = tuple(str(row[f"a{i}"]) for i in range(5))
            known = segments.get(video, {})
            spans = known.get("location", {}).get(str(qid))
            duration = float(known["duration"]) if "duration" in known else None
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{place}: column {error} is missing or no value") from None
        if not spans or duration is None:
            return  # not grounded: it cannot be scored
        if row["answer"] not in choices:
            raise ValueError(f"{place}: the answer {row['answer']!r} is none of the options {choices}")
        letter = LETTERS[choices.index(row["answer"])]
        item = Item(
            id=f"{video}_{qid}",
            question=str(row["question"]).strip(),
            answer=letter,
            answer_type="letter",
            choices=choices,
            letter=letter,
            meta={
                "spans": [[float(s), float(e)] for s, e in spans],
                "duration": duration,
                "type": "TN" if kind == "TP" else kind,
            },
        )
        yield Question(item, paths.get(video, video), place)

    def official_prompt(self, item: Item) -> str:
        listed = item.options("{letter}. {text}")
        return f"{item.question}\n{listed}\nGive the letter of the right option as <answer>letter</answer>."

    def judge(self, sample: Sample, response: str) -> Steps:
        letter = letter_of(response, LETTERS[:5])
        span, flags = self._window(response, sample.meta["duration"])
        # The window is predicted without an option, too, so what was extracted is never nothing.
        flags = flags if letter is not None else (*flags, "no option")
        return decided(Score(letter == sample.answer, json.dumps([letter, *span]), "option letter", flags=flags))

    def _window(self, response: str, duration: float) -> tuple[Span, tuple[str, ...]]:
        if self.window == "call":
            call = parse_call(response)
            if call.ok:
                return (call.start, call.end), ()
        else:
            found = span_in_answer(response)
            if found is not None:
                return (min(found), max(found)), ()
        return (0.0, duration), ("no window: whole video",)

    def metrics(self) -> Sequence[Metric]:
        return (
            Metric("Acc@GQA", _count(lambda iou, iop, right: iop >= 0.5 and right)),
            Metric("Acc@QA", _count(lambda iou, iop, right: right)),
            Metric("mIoP", _count(lambda iou, iop, right: iop)),
            Metric("mIoU", _count(lambda iou, iop, right: iou)),
            *(Metric(f"IoP@{t}", _count(lambda iou, iop, right, t=t: iop >= t)) for t in (0.3, 0.5)),
            *(Metric(f"IoU@{t}", _count(lambda iou, iop, right, t=t: iou >= t)) for t in (0.3, 0.5)),
        )

    def axes(self) -> Mapping[str, Callable[[Scored], Iterable[str]]]:
        return {"type": in_meta("type")}


def _span_of(item: Scored) -> Span:
    _, start, end = json.loads(item.score.extracted or "")
    return float(start), float(end)


def _count(value: Callable[..., float]) -> Callable[[Sequence[Scored]], tuple[float, float]]:
    def vector(items: Sequence[Scored]) -> tuple[float, float]:
        total = 0.0
        for item in items:
            iou, iop = best_iou_iop(_span_of(item), gold_spans(item.meta))
            total += float(value(iou, iop, item.score.correct))
        return total, float(len(items))

    return vector
