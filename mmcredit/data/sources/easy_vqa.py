"""easy-VQA: questions about pictures of one coloured shape, from the Python package of that name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from mmcredit.components import register
from mmcredit.data.media import MediaLimits
from mmcredit.data.sources.base import Rows, TableSource

SHAPES = ("circle", "rectangle", "triangle")
Kind = Literal["shape", "color", "yes_no"]


@register("source", "easy_vqa")
class EasyVqa(TableSource):
    """easy-VQA (PyPI `easy-vqa` 1.0, MIT; https://github.com/vzhou842/easy-VQA): real image files, official split.

        source:
          - easy_vqa: {split: train, where: {kind: [shape, color]}, limit: 2000, shuffle: 0}

    5,000 pictures of 64x64 pixels, each one shape (circle, rectangle, triangle) in one of 8 colours; 38,575 questions
    about the 4,000 of the train split, 9,673 about the 1,000 of the test split; 13 answers. Question and answer are the
    package's own texts, the image comes first. `meta`: `image_id`, `kind` (`shape`, `color`, `yes_no`, by the answer),
    `split`. Ids are easy_vqa/SPLIT/number. `data.media.root` is not needed: the pictures are the package's files.
    """

    split: Literal["train", "test"] = Field(default="train", description="official split")

    def rows(self) -> Rows:
        return EasyVqaRows(_package_folder() / "data" / self.split, self.split)

    def media_limits(self, limits: MediaLimits) -> MediaLimits:
        return limits.model_copy(update={"root": _package_folder() / "data"})


def _package_folder() -> Path:
    spec = find_spec("easy_vqa")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("source easy_vqa needs the package 'easy-vqa': pip install 'mmcredit[easy-vqa]'")
    return Path(spec.submodule_search_locations[0])


def kind_of(answer: str) -> Kind:
    """What a question asks for, which its answer tells: the answers are 3 shapes, 8 colours, yes and no."""
    if answer in ("yes", "no"):
        return "yes_no"
    return "shape" if answer in SHAPES else "color"


class EasyVqaRows:
    """The questions of one split, in the package's order."""

    def __init__(self, folder: Path, split: str) -> None:
        try:
            self._questions: list[tuple[str, str, int]] = [
                (text, answer, image)
                for text, answer, image in json.loads((folder / "questions.json").read_text(encoding="utf-8"))
            ]
        except (OSError, ValueError) as error:
            raise ValueError(f"source easy_vqa: {folder} is damaged ({error}); reinstall easy-vqa") from None
        self._folder, self._split = folder, split

    def __len__(self) -> int:
        return len(self._questions)

    def columns(self) -> list[str]:
        return ["question", "image", "answer", "image_id", "kind", "split"]

    def column(self, name: str) -> Iterator[Any]:
        for index in range(len(self)):
            yield self.read(index).get(name)

    def read(self, index: int) -> dict[str, Any]:
        text, answer, image = self._questions[index]
        return {
            "question": text,
            "image": f"{self._split}/images/{image}.png",
            "answer": answer,
            "image_id": image,
            "kind": kind_of(answer),
            "split": self._split,
        }

    def place(self, index: int) -> str:
        return self.id(index)

    def id(self, index: int) -> str:
        return f"easy_vqa/{self._split}/{index}"
