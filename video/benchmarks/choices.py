"""Video-MME, MLVU and LVBench: multiple choice over long videos."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from mmcredit.components import register
from mmcredit.data.benchmarks.item import LETTERS, Item
from mmcredit.data.benchmarks.layout import Column, Format, Split, locate
from mmcredit.data.benchmarks.table import Table
from mmcredit.evaluate.benchmarks.base import in_meta, without_thinking
from mmcredit.evaluate.benchmarks.scoring import Score, Scored
from mmcredit.evaluate.benchmarks.steps import Steps, decided
from mmcredit.evaluate.benchmarks.summary import ACCURACY, Metric
from video.benchmarks.base import Question, VideoBenchmark, find, letter_of, read_json
from video.metrics import lvbench_letter, mlvu_letter, seconds, video_mme_letter
from video.rewards import answer_of

if TYPE_CHECKING:
    from pathlib import Path

    from mmcredit.data.sample import Sample


def said(response: str) -> str:
    """What official rules are given: the content of `<answer>`, else what follows the thinking."""
    found = answer_of(response)
    return without_thinking(response).strip() if found is None else found


@register("benchmark", "video_mme")
class VideoMME(VideoBenchmark):
    """Video-MME (arXiv 2405.21075): 2,700 questions of 900 videos, 300 each short, medium and long; accuracy.

    Files: the parquet of lmms-lab/Video-MME (video_id, duration, domain, sub_category, videoID, question_id, task_type,
    question, options, answer); videos as VIDEOID.mp4. `extraction: official` removes lead-ins and takes the first
    capital A to D; a response of more than ten words without one is empty. `empty`: what the official script does with
    an empty one (`skip`: it leaves the denominator), or lmms-eval (`wrong`). The content of `<answer>` is judged, not
    the thinking. Prompt without subtitles.
    """

    split: str = Field(default="test", description="test")
    empty: Literal["skip", "wrong"] = Field("skip", description="a response without a letter: left out, or wrong")
    extraction: Literal["official", "letter"] = Field(
        "official", description="the official rule, or a stricter reading"
    )
    format: ClassVar[Format] = Format(
        repositories=("lmms-lab/Video-MME",),
        splits={"test": Split(2700)},
        columns=tuple(
            Column(name) for name in ("video_id", "duration", "videoID", "question_id", "question", "options", "answer")
        )
        + tuple(Column(name, required=False) for name in ("domain", "sub_category", "task_type", "url")),
        folders=("Video-MME", "VideoMME", "videomme"),
    )

    def questions(self, base: Path) -> Iterator[Question]:
        for row in Table(self.name, self.format, locate(self.name, self.format, self.split, base)).light():
            options = tuple(re.sub(r"^[A-D]\.\s*", "", text) for text in row.strings("options", written=True))
            if len(options) != 4:
                raise row.bad("options", f"four are wanted, got {len(options)}")
            letter = row.one_of("answer", LETTERS[:4])
            item = Item(
                id=row.scalar("question_id"),
                question=row.text("question").strip(),
                answer=letter,
                answer_type="letter",
                choices=options,
                letter=letter,
                meta={
                    "duration": row.one_of("duration", ("short", "medium", "long")),
                    **{name: row.words(name) for name in ("domain", "sub_category", "task_type")},
                },
            )
            yield Question(item, row.text("videoID"), row.place)

    def official_prompt(self, item: Item) -> str:
        return (
            "Select the best answer to the following multiple-choice question based on the video. Respond with only "
            f"the letter (A, B, C, or D) of the correct option.\n{item.question}\n{item.options()}\nThe best answer is:"
        )

    def judge(self, sample: Sample, response: str) -> Steps:
        text = said(response)
        if self.extraction == "letter":
            letter = letter_of(response, LETTERS[:4])
        else:
            unread = len(text.split()) > 10 and not re.search("[ABCD]", text)
            letter = None if unread else video_mme_letter(text) or None
        flags = ("empty",) if letter is None else ()
        return decided(Score(letter == sample.answer, letter, self.extraction, flags=flags))

    def metrics(self) -> Sequence[Metric]:
        if self.empty == "wrong":
            return (ACCURACY,)
        return (Metric("accuracy", ACCURACY.vector, lambda item: item.id if item.score.parse_ok else None),)

    def axes(self) -> Mapping[str, Callable[[Scored], Iterable[str]]]:
        return {name: in_meta(name) for name in ("duration", "domain", "sub_category", "task_type")}


MLVU_TASKS = {
    "1_plotQA": "plotQA",
    "2_needle": "needle",
    "3_ego": "ego",
    "4_count": "count",
    "5_order": "order",
    "6_anomaly_reco": "anomaly_reco",
    "7_topic_reasoning": "topic_reasoning",
}


@register("benchmark", "mlvu")
class MLVU(VideoBenchmark):
    """MLVU (arXiv 2406.04264), dev, multiple choice: 2,175 questions of seven tasks; M-Avg.

    Files: `1_plotQA.json` to `7_topic_reasoning.json`, in `json/` (rows of video, duration, question, candidates,
    answer as text, question_type); videos in a folder per task, `video/1_plotQA/...`. M-Avg, the headline, is the
    unweighted mean of the tasks' accuracies; `accuracy` is that over all questions. `extraction: official` takes the
    character before the first ")" of the response (the whole response where there is none), `letter` any plain naming
    of an option. A row whose answer is none of its candidates (two of the needle task) is never right.
    """

    headline: ClassVar[str] = "M-Avg"
    split: str = Field(default="dev", description="dev")
    extraction: Literal["official", "letter"] = Field("official", description="the official rule, or a looser reading")
    format: ClassVar[Format] = Format(
        repositories=("MLVU/MVLU",), splits={"dev": Split(2175)}, columns=(), folders=("MLVU", "MLVU_dev")
    )

    def questions(self, base: Path) -> Iterator[Question]:
        for stem, task in MLVU_TASKS.items():
            path = find(self, base, [f"{stem}.json"], ("json", "MLVU/json"))
            rows = read_json(path)
            if not isinstance(rows, list):
                raise ValueError(f"{path} holds a JSON {type(rows).__name__}; a list of rows is wanted")
            for number, row in enumerate(rows):
                yield self._question(row, stem, task, number, f"{path.name}[{number}]")

    def _question(self, row: Any, stem: str, task: str, number: int, place: str) -> Question:
        try:
            choices = tuple(str(each) for each in row["candidates"])
            answer, text, video = str(row["answer"]), str(row["question"]), str(row["video"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"{place}: video, question, candidates and answer are wanted: {error!r}") from None
        known = answer in choices
        letter = LETTERS[choices.index(answer)] if known else None
        item = Item(
            id=f"{task}_{number}",
            question=text.strip(),
            answer=letter or answer,
            answer_type="letter",
            choices=choices,
            letter=letter,
            flags=() if known else ("the answer is none of the candidates",),
            meta={"task": task, "duration": row.get("duration")},
        )
        return Question(item, f"{stem}/{video}", place)

    def official_prompt(self, item: Item) -> str:
        return f"Question: {item.question}\nOptions:\n{item.options('({letter}) {text}')}\nOnly give the best option."

    def judge(self, sample: Sample, response: str) -> Steps:
        if self.extraction == "letter":
            letter = letter_of(response, LETTERS[: len(sample.meta["choices"])])
        else:
            letter = mlvu_letter(said(response)) or None
        right = letter is not None and sample.meta["letter"] is not None and letter == sample.meta["letter"]
        return decided(Score(right, letter, self.extraction))

    def metrics(self) -> Sequence[Metric]:
        return Metric("M-Avg", _by_task, formula=_macro), ACCURACY

    def axes(self) -> Mapping[str, Callable[[Scored], Iterable[str]]]:
        return {"task": in_meta("task")}


def _by_task(items: Sequence[Scored]) -> list[float]:
    """[right and number of each task]."""
    counts = [0.0] * (2 * len(MLVU_TASKS))
    tasks = list(MLVU_TASKS.values())
    for item in items:
        at = 2 * tasks.index(item.meta["task"])
        counts[at] += item.score.correct
        counts[at + 1] += 1
    return counts


def _macro(totals: np.ndarray) -> np.ndarray:
    right, number = totals[..., 0::2], totals[..., 1::2]
    shares = np.where(number > 0, right / np.maximum(number, 1), 0.0)
    return shares.sum(-1) / np.maximum((number > 0).sum(-1), 1)


_LV_OPTION = re.compile(r"\n\(([A-D])\)\s*")


@register("benchmark", "lvbench")
class LVBench(VideoBenchmark):
    """LVBench (arXiv 2406.08035): 103 videos of about an hour, 1,549 questions; accuracy, and by six capabilities.

    File: `video_info.meta.jsonl`, a video a line with its questions (options stand in the question); videos as KEY.mp4.
    A question counts once in the accuracy and once for each of its capabilities. `time_reference` is kept as `span`, in
    seconds, with which a retrieval window can be compared; that is not part of the official score. `extraction: letter`
    takes any plain naming of an option, `official` the repository's reading: the first character of what stands before
    the first ")", which of "The answer is C" is "T". The prompt is the one in use for it; the repository has none.
    """

    split: str = Field(default="test", description="test")
    extraction: Literal["official", "letter"] = Field("letter", description="any naming of an option, or the official")
    format: ClassVar[Format] = Format(
        repositories=("THUDM/LVBench", "zai-org/LVBench"),
        splits={"test": Split(1549)},
        columns=(),
        folders=("LVBench", "lvbench"),
    )

    def questions(self, base: Path) -> Iterator[Question]:
        path = find(self, base, ["video_info.meta.jsonl"])
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if not line.strip():
                continue
            place = f"{path.name}:{number}"
            try:
                video = json.loads(line)
                for row in video["qa"]:
                    yield self._question(video, row, f"{place} uid {row['uid']}")
            except (ValueError, KeyError, TypeError) as error:
                if place in str(error):
                    raise
                raise ValueError(f"{place}: key and qa (uid, question, answer, ...) are wanted: {error!r}") from None

    def _question(self, video: Mapping[str, Any], row: Mapping[str, Any], place: str) -> Question:
        text, *rest = _LV_OPTION.split(str(row["question"]))
        letter = str(row["answer"]).strip()
        if letter not in rest[0::2]:
            raise ValueError(f"{place}: the answer {letter!r} is none of the options {rest[0::2]}")
        kinds = row["question_type"]
        item = Item(
            id=str(row["uid"]),
            question=text.strip(),
            answer=letter,
            answer_type="letter",
            choices=tuple(option.strip() for option in rest[1::2]),
            letter=letter,
            meta={
                "question_type": list(kinds) if isinstance(kinds, list) else [str(kinds)],
                "video_type": video.get("type"),
                "span": reference_span(row.get("time_reference")),
            },
        )
        return Question(item, str(video["key"]), place)

    def official_prompt(self, item: Item) -> str:
        return (
            f"{item.question}\n{item.options('({letter}) {text}')}\nPlease select the best answer from the options "
            "above and directly provide the letter representing your choice without giving any explanation."
        )

    def judge(self, sample: Sample, response: str) -> Steps:
        if self.extraction == "letter":
            letter = letter_of(response, LETTERS[: len(sample.meta["choices"])])
        else:
            letter = lvbench_letter(said(response)) or None
        return decided(Score(letter is not None and letter == sample.answer, letter, self.extraction))

    def axes(self) -> Mapping[str, Callable[[Scored], Iterable[str]]]:
        return {"question_type": in_meta("question_type")}


def reference_span(text: Any) -> list[float] | None:
    """[start, end] in seconds of "mm:ss-mm:ss" or "h:mm:ss-h:mm:ss"; None for no reference or another text."""
    if not isinstance(text, str) or text.count("-") != 1:
        return None
    try:
        start, end = (seconds(part) for part in text.split("-"))
    except ValueError:
        return None
    return [start, end] if start < end else None
