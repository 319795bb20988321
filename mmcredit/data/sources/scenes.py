"""Procedural scenes: pictures of several objects or a bar chart, questions, exact answers."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from pydantic import Field, field_validator, model_validator

from mmcredit.components import register
from mmcredit.data.scenes.drawing import png
from mmcredit.data.scenes.items import Difficulty, Split, make_question, setting_of
from mmcredit.data.scenes.layout import Layout
from mmcredit.data.scenes.questions import KINDS, Kind, Question
from mmcredit.data.sources.base import Rows, TableSource

HARD_FROM = 160  # pixels a side below which the words on objects cannot be read


@register("source", "scenes")
class Scenes(TableSource):
    """Questions about procedural pictures with an exact scene graph; no download, no file.

        source:
          - scenes: {split: train, size: 4000, kinds: [attribute, count], image_size: 96}

    Pictures: coloured shapes in two sizes, some with a text label on them, or a bar chart. Kinds: `attribute` (colour,
    shape, place, label), `count` (0 to 4 of a kind), `relation` (what is left of the red circle? is it above the
    square?), `comparison` (more or fewer, tallest, shortest), `chart` (the value of a bar). They take turns. Answers
    are one or two words, or a number: use the reward `exact_answer`.

    Every question needs its picture: text and answer are drawn independently, the answer uniformly among those of the
    question's form. The best answer without looking is right in about 19 % (attribute), 20 % (count), 31 % (relation),
    22 % (comparison), 20 % (chart) of difficulty `easy`.

    `difficulty`: `easy` (4 shapes, 6 colours, letters, things on a 3x3 grid, 3 or 4 bars up to 5), `medium` (5 shapes,
    8 colours, free positions without overlap, bars up to 9, also sizes, totals and numbers of all things), `hard` (7
    shapes, 11 colours, words as labels, 4 to 6 bars up to 19; `image_size` 160 at least).

    Columns: `question`, `image`, `answer`; `kind`, `form`, `split`; `scene` (the graph: `Scene.from_json`), `response`
    (the ideal one: claims, then the answer). What a response says about its picture is judged by
    `mmcredit.data.scenes.claims`. Ids are scenes/difficulty/split/seed/number.

    Item i is made when it is asked for, 1 to 3 ms each, the same in every process. A picture belongs to `test` (a fifth
    of all) or to `train` by a hash of its graph, whatever seed and settings: the splits share none.
    """

    split: Split = Field(default="train", description="train or test")
    size: int = Field(default=4000, gt=0, description="questions, before `where` and `limit`")
    seed: int = Field(default=0, ge=0, description="other seeds give other questions")
    kinds: list[Kind] = Field(default=list(KINDS), min_length=1, description=", ".join(KINDS))
    difficulty: Difficulty = Field(default="easy", description="easy, medium, hard")
    image_size: int = Field(default=96, ge=64, le=2048, description="pixels a side")
    layout: Layout | None = Field(default=None, description="grid or free; else the difficulty's own")
    min_objects: int = Field(default=2, ge=1, le=6, description="fewest objects of a picture")
    max_objects: int = Field(default=5, ge=2, le=6, description="most objects of a picture")
    described: bool = Field(default=False, description="ideal responses describe the whole picture first")

    @field_validator("kinds")
    @classmethod
    def _once_each(cls, kinds: list[Kind]) -> list[Kind]:
        if len(set(kinds)) < len(kinds):
            raise ValueError(f"each of {', '.join(KINDS)} at most once")
        return kinds

    @model_validator(mode="after")
    def _fits_together(self) -> Scenes:
        if self.min_objects > self.max_objects:
            raise ValueError(f"min_objects {self.min_objects} is over max_objects {self.max_objects}")
        if self.difficulty == "hard" and self.image_size < HARD_FROM:
            raise ValueError(f"difficulty hard has words on objects, which need image_size {HARD_FROM} at least")
        return self

    def rows(self) -> Rows:
        return SceneRows(self)

    def describe(self) -> str:
        return f"{self.name} ({self.difficulty}, {self.split})"


class SceneRows:
    """The questions of one split; each is made when it is read."""

    def __init__(self, source: Scenes) -> None:
        self._source = source
        setting = setting_of(source.difficulty, source.min_objects, source.max_objects, source.layout)
        # The last ones are remembered: a rollout reads a sample several times, and `where` reads a column of all.
        self._question = lru_cache(maxsize=1024)(
            lambda index: make_question(setting, source.kinds, source.seed, source.split, index)
        )

    def __len__(self) -> int:
        return self._source.size

    def columns(self) -> list[str]:
        return ["question", "image", "answer", "kind", "form", "split", "scene", "response"]

    def column(self, name: str) -> Iterator[Any]:
        for index in range(len(self)):
            yield self._without_image(self._question(index)).get(name)

    def read(self, index: int) -> dict[str, Any]:
        question: Question = self._question(index)
        return {**self._without_image(question), "image": png(question.scene, self._source.image_size)}

    def place(self, index: int) -> str:
        return self.id(index)

    def id(self, index: int) -> str:
        source = self._source
        return f"scenes/{source.difficulty}/{source.split}/{source.seed}/{index}"

    def _without_image(self, question: Question) -> dict[str, Any]:
        return {
            "question": question.text,
            "answer": question.answer,
            "kind": question.kind,
            "form": question.form,
            "split": self._source.split,
            "scene": question.scene.to_json(),
            "response": question.response(self._source.described),
        }
