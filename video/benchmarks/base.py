"""What video benchmarks share: finding their files, samples with a video, reading an option out of a response."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, model_validator

from mmcredit.answers.option import option_letter
from mmcredit.components import nearest
from mmcredit.data.benchmarks.split import SplitSamples
from mmcredit.data.dropped import UnusableSample
from mmcredit.data.media import MediaLimits
from mmcredit.data.sample import Media
from mmcredit.data.values import to_media
from mmcredit.evaluate.benchmarks.base import Benchmark, without_thinking
from video.rewards import answer_of

if TYPE_CHECKING:
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


class VideoSamples(SplitSamples):
    """The samples of a video benchmark. Whether a video is there is seen when its sample is asked for."""

    def __init__(
        self, benchmark: VideoBenchmark, questions: Sequence[Question], base: Path, limits: MediaLimits
    ) -> None:
        super().__init__(benchmark, [question.item for question in questions], limits)
        self._videos, self._questions, self._base = benchmark.videos, questions, base

    def _place(self, number: int) -> str:
        return self._questions[number].place

    def _content(self, text: str, media: Sequence[Media]) -> list[dict[str, str]]:
        return [{"type": "video"}, {"type": "text", "text": text}]

    def _media(self, number: int) -> list[Media]:
        return [self._video(self._questions[number], self._name(number))]

    def _video(self, question: Question, sample: str) -> Media:
        root = self._limits.root
        assert root is not None
        folders = (self._videos,) if self._videos is not None else VIDEO_FOLDERS
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
