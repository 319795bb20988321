"""Procedural scenes for the cold start: pictures with their graphs, the dense classifier's targets, imagined scenes."""

import random
from collections import defaultdict
from dataclasses import dataclass, replace

import torch
from PIL import Image
from torch.nn.functional import cross_entropy, grid_sample
from transformers import ProcessorMixin

from mmcredit.data.scenes import KINDS, Question, draw, make_question, setting_of
from mmcredit.data.scenes.drawing import BASE, bar_slot
from mmcredit.data.scenes.graph import COLORS, LATTICE, LETTERS, PLACES, SHAPES, Scene, place_of
from mmcredit.data.scenes.layout import GRID
from tiny.task import Example

IMAGE_SIZE = 96
IMAGE_TOKENS = 36
SETTING = setting_of("easy")
FORMS = (
    "color", "shape", "place", "label", "count", "relation_color", "relation_shape", "relation_yes_no",
    "more_or_fewer", "tallest", "shortest", "value",
)  # fmt: skip
TRAIN_SEED, VALIDATION_SEED = 1000, 1001  # apart from those that runs use


@dataclass
class Drawn:
    """Pictures in memory, run through the image processor when a batch needs them; stands in for `Pixels`."""

    processor: ProcessorMixin
    pictures: list[Image.Image]

    def inputs(self, images: list[int]) -> dict[str, torch.Tensor]:
        """The model inputs for the images with these indices, in this order."""
        out = self.processor.image_processor(images=[self.pictures[i] for i in images], return_tensors="pt")
        return {"pixel_values": out["pixel_values"], "image_grid_thw": out["image_grid_thw"]}


@dataclass
class SceneSet:
    """Questions, each with its own picture: question i belongs to picture i."""

    questions: list[Question]
    pixels: Drawn

    def by_form(self, form: str) -> list[int]:
        """Numbers of the questions of a form."""
        return [i for i, question in enumerate(self.questions) if question.form == form]


def questions_of(size: int, seed: int, split: str = "train") -> list[Question]:
    """The first `size` questions of a split."""
    return [make_question(SETTING, KINDS, seed, split, i) for i in range(size)]


def make_set(processor: ProcessorMixin, size: int, seed: int, split: str = "train") -> SceneSet:
    """The first `size` questions of a split, drawn."""
    questions = questions_of(size, seed, split)
    return SceneSet(questions, Drawn(processor, [draw(q.scene, IMAGE_SIZE) for q in questions]))


class DenseProbe(torch.nn.Module):
    """A throw-away classifier: what stands at a point, from the image tokens around it.

    For each thing colour, shape, size and label at its centre; for each bar colour, value and number at its foot; of
    every cell of the grid its place. Qwen2.5-VL's tower knows positions only relative to each other: without `place`,
    its features do not say where they are, and the language model learns to say it ten times more slowly.
    """

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.sizes = {
            "color": len(COLORS), "shape": len(SHAPES), "size": 2, "label": len(LETTERS) + 1,
            "value": SETTING.level.highest + 1, "thing": 3, "place": 9, "bar": SETTING.level.bars[1],
        }  # fmt: skip
        self.heads = torch.nn.ModuleDict({name: torch.nn.Linear(hidden, n) for name, n in self.sizes.items()})

    def forward(self, features: torch.Tensor, scenes: list[Scene]) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """features: [N, tokens, hidden] of a square picture; per head (logits, targets) of all points that have one."""
        side = int(features.shape[1] ** 0.5)
        maps = features.view(len(scenes), side, side, -1).permute(0, 3, 1, 2)
        rows, points, targets = [], [], {name: [] for name in self.sizes}
        for row, scene in enumerate(scenes):
            for x, y, target in points_of(scene):
                rows.append(row)
                points.append((2 * x / LATTICE - 1, 2 * y / LATTICE - 1))
                for name, values in targets.items():
                    values.append(target.get(name, -100))
        found = grid_sample(maps[rows], torch.tensor(points).view(-1, 1, 1, 2), align_corners=False)[:, :, 0, 0]
        return {name: (self.heads[name](found), torch.tensor(values)) for name, values in targets.items()}

    def loss(self, features: torch.Tensor, scenes: list[Scene]) -> torch.Tensor:
        """Sum of the heads' cross-entropies."""
        parts = [cross_entropy(a, b) for a, b in self(features, scenes).values() if (b >= 0).any()]
        return torch.stack(parts).sum()

    def accuracy(self, features: torch.Tensor, scenes: list[Scene]) -> dict[str, float]:
        """Share of right answers of every head."""
        scores = {}
        for name, (logits, targets) in self(features, scenes).items():
            known = targets >= 0
            scores[name] = (logits.argmax(-1)[known] == targets[known]).float().mean().item()
        return scores


def points_of(scene: Scene) -> list[tuple[float, float, dict[str, int]]]:
    """(x, y, targets) of every thing, of the grid's empty cells, and of every bar's foot."""
    points: list[tuple[float, float, dict[str, int]]] = []
    for t in scene.things:
        target = {
            "thing": 1,
            "place": PLACES.index(place_of(t)),
            "color": list(COLORS).index(t.color),
            "shape": SHAPES.index(t.shape),
        }
        target |= {"size": int(t.size == "big"), "label": 1 + LETTERS.index(t.label) if t.label else 0}
        points.append((t.x, t.y, target))
    if not scene.bars:
        taken = {(t.x, t.y) for t in scene.things}
        points += [(*cell, {"thing": 0, "place": i}) for i, cell in enumerate(GRID) if cell not in taken]
    for index, bar in enumerate(scene.bars):
        left, right = bar_slot(index, len(scene.bars))
        target = {"thing": 2, "bar": index, "color": list(COLORS).index(bar.color), "value": bar.value}
        points.append(((left + right) / 2, BASE - 3, target))
    return points


@dataclass
class SceneTask:
    """Train scenes, and a validation set from the train split under another seed; its kinds are the forms."""

    train: SceneSet
    validation: SceneSet
    image_tokens: int = IMAGE_TOKENS
    kinds: tuple[str, ...] = FORMS
    checked: int = 40
    max_new_tokens: int = 64

    def __post_init__(self) -> None:
        # One list of pictures for both: the validation pictures come after the train pictures.
        self.pixels = Drawn(
            self.train.pixels.processor, [*self.train.pixels.pictures, *self.validation.pixels.pictures]
        )
        self._numbers = {kind: self.train.by_form(kind) for kind in self.kinds}
        self._same_words: dict[str, list[int]] = defaultdict(list)
        for number, question in enumerate(self.train.questions):
            self._same_words[question.text].append(number)

    def looked(self, rng: random.Random, kind: str, size: int) -> list[Example]:
        """Questions of a form with their pictures and the ideal response."""
        return [self._example(self.train, i, i) for i in rng.choices(self._numbers[kind], k=size)]

    def guessed(self, rng: random.Random, kind: str, size: int, share: float) -> list[Example]:
        """As `looked`; in a `share` of them the response belongs to some picture with a question in the same words."""
        examples = self.looked(rng, kind, size)
        for place, example in enumerate(examples):
            if rng.random() < share:
                other = self.train.questions[rng.choice(self._same_words[example.question])]
                examples[place] = replace(example, response=other.response())
        return examples

    def example(self, number: int) -> Example:
        """A question of the validation set."""
        return self._example(self.validation, number, len(self.train.questions) + number)

    def held_out(self, kind: str, size: int) -> list[Example]:
        """Questions of a form about pictures that are not learnt from."""
        return [self.example(i) for i in self.validation.by_form(kind)[:size]]

    @staticmethod
    def _example(scenes: SceneSet, number: int, image: int) -> Example:
        question = scenes.questions[number]
        return Example(question.text, question.response(), image, question.answer)
