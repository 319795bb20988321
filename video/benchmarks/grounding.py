"""Charades-STA and ActivityNet-MR: when does it happen?"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from mmcredit.components import register
from mmcredit.data.benchmarks.item import Item
from mmcredit.data.benchmarks.layout import Format, Split
from mmcredit.evaluate.benchmarks.scoring import Score, Scored
from mmcredit.evaluate.benchmarks.steps import Steps, decided
from mmcredit.evaluate.benchmarks.summary import Metric
from video.benchmarks.base import Question, VideoBenchmark, find, read_json
from video.metrics import THRESHOLDS, Span, first_range, hull_iou, last_joined_range, span_in_answer

if TYPE_CHECKING:
    from pathlib import Path

    from mmcredit.data.sample import Sample

_LINE = re.compile(r"(\S+) ([\d.]+) ([\d.]+)##(.*)")


class MomentRetrieval(VideoBenchmark):
    """A sentence, a video, one gold window; R1 at three thresholds and mean IoU."""

    headline: ClassVar[str] = "mIoU"
    boxable = False

    extraction: Literal["answer", "last_joined", "first_range"] = Field(
        "answer",
        description="first range in <answer>; last 'a to b' of the text (Time-R1); first range of it (lmms-eval)",
    )
    reversed: Literal["swap", "zero"] = Field(
        "swap", description="start > end: the other way round (lmms-eval), or IoU 0 (Time-R1)"
    )

    def official_prompt(self, item: Item) -> str:
        return (
            f'Query: "{item.question}"\nWhen does this happen in the video? Give its start and end in seconds as '
            "<answer>start - end</answer>."
        )

    def judge(self, sample: Sample, response: str) -> Steps:
        read = {"answer": span_in_answer, "last_joined": last_joined_range, "first_range": first_range}
        span = read[self.extraction](response)
        flags: tuple[str, ...] = ()
        if span is not None and span[0] > span[1]:
            flags = ("start behind end",)
            span = (span[1], span[0]) if self.reversed == "swap" else span
        iou = hull_iou(span, tuple(sample.meta["span"]))
        said = None if span is None else f"{span[0]!r} - {span[1]!r}"
        return decided(Score(iou >= 0.5, said, f"IoU >= 0.5 ({self.extraction})", flags=flags))

    def metrics(self) -> Sequence[Metric]:
        return (*(Metric(f"R1@{t}", _at_least(t)) for t in THRESHOLDS), Metric("mIoU", _iou))


def _span(item: Scored) -> Span | None:
    if item.score.extracted is None:
        return None
    start, end = item.score.extracted.split(" - ")
    return float(start), float(end)


def _ious(items: Sequence[Scored]) -> list[float]:
    return [hull_iou(_span(item), tuple(item.meta["span"])) for item in items]


def _iou(items: Sequence[Scored]) -> tuple[float, float]:
    return sum(_ious(items)), float(len(items))


def _at_least(threshold: float) -> Any:
    def vector(items: Sequence[Scored]) -> tuple[float, float]:
        return float(sum(iou >= threshold for iou in _ious(items))), float(len(items))

    return vector


def moment(id: str, sentence: str, span: Span, video: str, place: str, more: Mapping[str, Any]) -> Question:
    """One row. Raises ValueError for a window without start and end in order; the gold is never clipped."""
    if not (math.isfinite(span[0]) and math.isfinite(span[1]) and 0 <= span[0] <= span[1]):
        raise ValueError(f"{place}: a window 0 <= start <= end is wanted, got {span[0]} - {span[1]}")
    item = Item(
        id=id,
        question=sentence.strip(),
        answer=f"{span[0]:.2f} - {span[1]:.2f}",
        answer_type="text",
        meta={"span": list(span), **more},
    )
    return Question(item, video, place)


def keyed(path: Path) -> Iterator[Question]:
    """Rows of `{video: {duration, timestamps: [[s, e]], sentences: [..]}}`. Raises ValueError naming the entry."""
    data = read_json(path)
    if not isinstance(data, dict):
        raise ValueError(f"{path} holds a JSON {type(data).__name__}; an object by video is wanted")
    for video, entry in data.items():
        place = f"{path.name}[{video!r}]"
        try:
            pairs = list(zip(entry["timestamps"], entry["sentences"], strict=True))
            more = {"duration": float(entry["duration"])} if entry.get("duration") is not None else {}
            for number, ((start, end), sentence) in enumerate(pairs):
                span = (float(start), float(end))
                yield moment(f"{video}_{number}", sentence, span, video, f"{place}[{number}]", more)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            if place in str(error):
                raise
            raise ValueError(f"{place}: duration, timestamps and sentences are wanted: {error!r}") from None


@register("benchmark", "charades_sta")
class CharadesSTA(MomentRetrieval):
    """Charades-STA (arXiv 1705.02101): test 3,720 sentences, train 12,408; R1@.3/.5/.7 and mIoU.

    Files: `charades_sta_test.txt` (`VIDEO start end##sentence`), or the common JSON by video; videos as VIDEO.mp4. IoU
    is intersection over hull, thresholds are inclusive, a response without a window counts as 0. Gold windows that end
    after the video (562 of the test's) stay as they are. Prompts differ between papers and the wording here is our own;
    the window is read from `<answer>` (see `extraction`), and one whose start lies behind its end is turned round (see
    `reversed`).
    """

    split: str = Field(default="test", description="test or train")
    format: ClassVar[Format] = Format(
        repositories=("jiyanggao/Charades-STA",),
        splits={"test": Split(3720), "train": Split(12408)},
        columns=(),
        folders=("Charades-STA", "charades-sta", "charades"),
    )

    def questions(self, base: Path) -> Iterator[Question]:
        names = [f"charades_sta_{self.split}.txt", f"charades_sta_{self.split}.json", f"{self.split}.json"]
        path = find(self, base, names, ("charades_sta", "Charades_anno"))
        if path.suffix == ".json":
            yield from keyed(path)
            return
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if not line.strip():
                continue
            place = f"{path.name}:{number}"
            found = _LINE.fullmatch(line.strip())
            if found is None:
                raise ValueError(f"{place}: VIDEO start end##sentence is wanted, got {line[:60]!r}")
            try:
                span = (float(found.group(2)), float(found.group(3)))
            except ValueError:
                raise ValueError(f"{place}: two numbers are wanted, got {line[:60]!r}") from None
            yield moment(f"{number}", found.group(4), span, found.group(1), place, {})


@register("benchmark", "activitynet_mr")
class ActivityNetMR(MomentRetrieval):
    """ActivityNet Captions for moment retrieval: val_2 17,031 sentences (the common test), val_1, train.

    Files: `val_2.json` (`{video: {duration, timestamps, sentences}}`); videos as v_ID.mp4 (or .mkv, .webm). Scored as
    `charades_sta`. Papers differ in the split; val_2 is what Time-R1 uses.
    """

    split: str = Field(default="val_2", description="val_2, val_1 or train")
    format: ClassVar[Format] = Format(
        repositories=("activitynet/ActivityNet-Captions",),
        splits={"val_2": Split(17031), "val_1": Split(17505), "train": Split(37421)},
        columns=(),
        folders=("ActivityNet", "activitynet", "ActivityNet-MR", "captions"),
    )

    def questions(self, base: Path) -> Iterator[Question]:
        yield from keyed(find(self, base, [f"{self.split}.json"], ("captions",)))
