"""What video benchmarks share: finding their files, samples with a video, reading an option out of a response."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, overload

from pydantic import Field, model_validator

from mmcredit.answers.extract import option_letter
from mmcredit.components import nearest
from mmcredit.data.columns import plain
from mmcredit.data.dropped import UnusableSample
from mmcredit.data.media import MediaLimits
from mmcredit.data.sample import Media, Sample
from mmcredit.data.templates import render
from mmcredit.data.values import to_media
from mmcredit.evaluate.benchmarks.base import Benchmark, without_thinking
from video.rewards import answer_of

if TYPE_CHECKING:
    from jinja2 import Template

    from mmcredit.data.benchmarks.item import Item

VIDEO_SUFFIXES = ("", ".mp4", ".mkv", ".webm", ".avi", ".mov")
VIDEO_FOLDERS = ("videos", "video", "data", ".")


@dataclass(frozen=True)
class Question:
    """A row: the item, the video's name, and where the row stands."""

    item: Item
    video: str  # file name or stem below the folder of videos, with sub-folders
    place: str


class VideoBenchmark(Benchmark):
    """A benchmark whose rows each have one video. A subclass gives `questions` in place of `item`."""

    videos: str | None = Field(
        default=None, description="folder of the video files below the data root; none = videos/, video/ or beside"
    )

    def questions(self, base: Path) -> Iterator[Question]:
        """The rows of the split, from the benchmark's folder. Raises ValueError naming file and row."""
        raise TypeError(f"{type(self).__name__} does not implement questions(base)")

    def load(self, root: str | Path, limits: MediaLimits | None = None) -> Any:
        root = Path(root).expanduser()
        base = folder_of(self, root)
        rows = [question for question in self.questions(base) if self.keeps(question.item)]
        if not rows:
            raise ValueError(f"{self.name}: split {self.split!r} below {base} holds no questions")
        below = root if root.is_dir() else base
        limits = (limits or MediaLimits()).model_copy(update={"root": below})
        return VideoSamples(self, rows, base, limits)

    boxable: ClassVar[bool] = True  # whether `scoring: rl` (a boxed answer) makes sense

    @model_validator(mode="after")
    def _scoring_fits(self) -> VideoBenchmark:
        if self.scoring == "rl" and not self.boxable:
            raise ValueError(f"{self.name} scores windows, which are no boxed answer; set scoring: official")
        return self


def folder_of(benchmark: Benchmark, root: Path) -> Path:
    """The benchmark's folder: `root` itself, or the folder of its name or its repository's in it."""
    if root.is_file():
        return root.parent
    if not root.is_dir():
        raise ValueError(f"data root {str(root)!r} of {benchmark.name}: no such file or folder")
    names = [benchmark.name, *benchmark.format.folders]
    for repository in benchmark.format.repositories:
        owner, name = repository.split("/")
        names += [name, repository, f"{owner}--{name}", f"{owner}_{name}"]
    return next((root / name for name in names if (root / name).is_dir()), root)


def find(benchmark: Benchmark, base: Path, names: Sequence[str], folders: Sequence[str] = ()) -> Path:
    """The first of the file names that is there, at the top or in a known folder. Raises ValueError saying which."""
    places = [base, *(base / name for name in (*folders, "annotations", "annotation", "data", "json"))]
    for place in places:
        for name in names:
            if (place / name).is_file():
                return place / name
    there = sorted(p.name for place in places if place.is_dir() for p in place.iterdir() if p.is_file())
    raise ValueError(
        f"{benchmark.name}: {' or '.join(names)} is not below {base}; files there: {', '.join(there[:8]) or 'none'}"
        + (f"; {nearest(names[0], there)}" if there else "")
    )


def read_json(path: Path) -> Any:
    """The JSON of a file. Raises ValueError naming it."""
    try:
        return json.loads(path.read_bytes().removeprefix(b"\xef\xbb\xbf"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from None


def letter_of(response: str, letters: str) -> str | None:
    """The option that a response decides for: in its `<answer>`, else in what follows its thinking."""
    said = answer_of(response)
    return option_letter(without_thinking(response) if said is None else said, letters)


class VideoSamples(Sequence[Sample]):
    """The samples of a video benchmark. Whether a video is there is seen when its sample is asked for."""

    def __init__(
        self,
        benchmark: VideoBenchmark,
        questions: Sequence[Question],
        base: Path,
        limits: MediaLimits,
        indices: Sequence[int] | None = None,
        system: str | None = None,
        template: Template | None = None,
    ) -> None:
        self._benchmark, self._questions, self._base, self._limits = benchmark, questions, base, limits
        self._indices = list(range(len(questions)) if indices is None else indices)
        self._system, self._template = system, template

    def __len__(self) -> int:
        return len(self._indices)

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> VideoSamples: ...

    def __getitem__(self, index: int | slice) -> Sample | VideoSamples:
        if isinstance(index, slice):
            return self.selected(self._indices[index])
        question = self._questions[self._indices[index]]
        meta = self.meta(index)
        text = self._benchmark.prompt(question.item)
        if self._template is not None:
            text = render(self._template, text, meta)
        system = [] if self._system is None else [{"role": "system", "content": self._system}]
        return Sample(
            id=self.id(index),
            messages=(*system, {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": text}]}),
            media=(self._video(question, self.name(index)),),
            answer=self._benchmark.reference(question.item.answer, question.item.letter),
            meta=meta,
            place=question.place,
        )

    def selected(self, rows: Sequence[int]) -> VideoSamples:
        """The samples of these rows of the split."""
        return VideoSamples(
            *(self._benchmark, self._questions, self._base, self._limits, list(rows), self._system, self._template)
        )

    def wrapped(self, system: str | None, template: Template | None) -> VideoSamples:
        """The same samples under a system prompt, with a template around the text of the user's turn."""
        return VideoSamples(
            *(self._benchmark, self._questions, self._base, self._limits, self._indices, system, template)
        )

    def rows(self) -> list[int]:
        """Numbers of the rows in the split."""
        return list(self._indices)

    def id(self, index: int) -> str:
        """The id of a sample: benchmark/split/its own id."""
        benchmark = self._benchmark
        return f"{benchmark.name}/{benchmark.split}/{self._questions[self._indices[index]].item.id}"

    def name(self, index: int) -> str:
        """What messages call a sample."""
        return f"{self.id(index)} ({self._questions[self._indices[index]].place})"

    def item(self, index: int) -> Item:
        """The row of a sample in the common form."""
        return self._questions[self._indices[index]].item

    def meta(self, index: int) -> dict[str, Any]:
        """The meta of a sample; its video is not looked at."""
        item = self.item(index)
        found: dict[str, Any] = {
            **{key: plain(value) for key, value in item.meta.items()},
            "benchmark": self._benchmark.name,
            "split": self._benchmark.split,
            "question": item.question,
            "answer": item.answer,
            "answer_type": item.answer_type,
            "letter": item.letter,
        }
        if item.choices is not None:
            found["choices"] = list(item.choices)
        if item.flags:
            found["flags"] = list(item.flags)
        return found

    def _video(self, question: Question, sample: str) -> Media:
        root = self._limits.root
        assert root is not None
        chosen = self._benchmark.videos
        folders = (chosen,) if chosen is not None else VIDEO_FOLDERS
        for base in dict.fromkeys((self._base, root)):
            for folder in folders:
                for suffix in VIDEO_SUFFIXES:
                    place = base / folder / f"{question.video}{suffix}"
                    if place.is_file() and place.resolve().is_relative_to(root.resolve()):
                        relative = place.resolve().relative_to(root.resolve())
                        media = to_media(str(relative), "video", "video", sample, self._limits)
                        return replace(media, name=f"{question.video!r} of sample {sample}")
        raise UnusableSample(
            f"sample {sample}: video {question.video!r} is not in {' or '.join(str(f) for f in folders)} below "
            f"{self._base}; set videos of the benchmark",
            "media missing",
        )


def gold_spans(meta: Mapping[str, Any]) -> list[tuple[float, float]]:
    """The gold segments in the meta of a sample."""
    return [(float(start), float(end)) for start, end in meta["spans"]]
