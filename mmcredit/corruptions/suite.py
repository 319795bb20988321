"""A set of corruptions to train with, another to test with, and who draws what for which sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from mmcredit.components import build
from mmcredit.corruptions.base import SEVERITIES, Corruption, Published, check_severity, corruption_seed
from mmcredit.seeds import derive

if TYPE_CHECKING:
    from PIL import Image

Split = Literal["seen", "unseen"]

# The split of ROMA's paper is not known; this one keeps the families apart and has the abstract's words in `seen`.
SEEN = ("gaussian_blur", "motion_blur", "jpeg", "pixelate", "low_resolution", "gaussian_noise")
UNSEEN = (
    "defocus_blur", "zoom_blur", "glass_blur", "shot_noise", "impulse_noise", "speckle_noise", "snow", "frost", "fog",
    "contrast", "brightness", "saturate", "elastic", "spatter", "occlusion",
)  # fmt: skip
IMAGENET_C = (
    "gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "snow",
    "frost", "fog", "brightness", "contrast", "elastic", "pixelate", "jpeg",
)  # fmt: skip
IMAGENET_C_EXTRA = ("speckle_noise", "gaussian_blur", "spatter", "saturate")


def operator(spec: str | Mapping[str, Any] | Corruption) -> Corruption:
    """A corruption from its config entry; `{albumentations: [{name, params}]}` is short for its `transforms`.

    Raises UnknownName for an unknown name and ValueError for a wrong field.
    """
    if isinstance(spec, Mapping) and list(spec) == ["albumentations"] and isinstance(spec["albumentations"], list):
        spec = {"albumentations": {"transforms": spec["albumentations"]}}
    built = build("corruption", spec)
    assert isinstance(built, Corruption)
    return built


def imagenet_c() -> tuple[Corruption, ...]:
    """ImageNet-C's 15 operators as its port imagecorruptions computes them, to compare with published numbers.

    Of frost only the mixture is published: its photographs must be named (`{frost: {published: true, textures: ...}}`),
    which the label of ours says.
    """
    fields: dict[str, dict[str, Any]] = {"frost": {"label": "frost (own texture)"}}
    built = []
    for name in IMAGENET_C:
        plain = operator(name)
        follows = {"published": True} if isinstance(plain, Published) else {}
        built.append(operator({name: {**follows, **fields.get(name, {})}}))
    return tuple(built)


@dataclass(frozen=True)
class Draw:
    """One corrupted view of a sample: an operator, a severity, and the seed of its random numbers."""

    operator: Corruption
    severity: int
    seed: int

    @property
    def label(self) -> str:
        """Such as ``jpeg:3``."""
        return f"{self.operator.title}:{self.severity}"

    def image(self, image: Image.Image, index: int = 0) -> Image.Image:
        """The corrupted image; `index` is its place among the sample's media: other numbers, same operator."""
        return self.operator(image, self.severity, self._rng(index))

    def frames(self, frames: Sequence[Image.Image], index: int = 0) -> list[Image.Image]:
        """The corrupted frames of the video at place `index` among the sample's media."""
        return self.operator.apply_frames(frames, self.severity, self._rng(index))

    def _rng(self, index: int) -> np.random.Generator:
        return np.random.default_rng(derive(self.seed, "medium", index))


class Suite(BaseModel):
    """Corruptions to draw from: `seen` in training, `unseen` only in evaluation.

    Entries are those of a config: names, {name: fields}, or components.
    """

    model_config = ConfigDict(extra="forbid", validate_default=True, arbitrary_types_allowed=True, frozen=True)

    seen: tuple[Corruption, ...] = Field(default=SEEN, validate_default=True, description="operators of training")
    unseen: tuple[Corruption, ...] = Field(default=UNSEEN, validate_default=True, description="of evaluation only")
    severity: tuple[int, int] = Field(default=(1, 3), description="least and greatest severity of training")
    eval_severities: tuple[int, ...] = Field(default=(3, 5), min_length=1, description="severities of evaluation")

    @field_validator("seen", "unseen", mode="before")
    @classmethod
    def _build(cls, specs: Any) -> tuple[Corruption, ...]:
        if isinstance(specs, str | Mapping | Corruption):
            raise ValueError(f"a list of corruptions is wanted, got {specs!r}; write [{specs!r}]")
        return tuple(operator(spec) for spec in specs)

    @field_validator("severity", "eval_severities")
    @classmethod
    def _severities_exist(cls, severities: tuple[int, ...]) -> tuple[int, ...]:
        for severity in severities:
            check_severity(severity)
        return severities

    @model_validator(mode="after")
    def _is_a_split(self) -> Suite:
        if self.severity[0] > self.severity[1]:
            raise ValueError(f"severity is [least, greatest], got {list(self.severity)}")
        titles = [corruption.title for corruption in (*self.seen, *self.unseen)]
        twice = sorted({title for title in titles if titles.count(title) > 1})
        if twice:
            raise ValueError(
                f"{', '.join(twice)} stands twice in seen and unseen; an operator is either seen or unseen, and two of "
                "the same name need different labels ({occlusion: {label: small, ...}})"
            )
        return self

    def operators(self, split: Split) -> tuple[Corruption, ...]:
        """The operators of a split."""
        return self.seen if split == "seen" else self.unseen

    def draw(self, seed: int, epoch: int, sample: str, view: int, split: Split = "seen") -> Draw:
        """The `view`-th corrupted view of a sample in an epoch (both from 0): the same on every machine and worker.

        The operators of a sample's views are a random order of the split, so that views differ as long as there are
        enough; each by itself is uniform. The severity is uniform in `severity`. Raises ValueError for an empty split.
        """
        operators = self.operators(split)
        if not operators:
            raise ValueError(f"no {split} corruption to draw from; name some in `{split}`")
        order = np.random.default_rng(derive(seed, "corruption order", epoch, sample, split)).permutation(
            len(operators)
        )
        view_seed = corruption_seed(seed, epoch, sample, view)
        severity = np.random.default_rng(derive(view_seed, "severity")).integers(*self.severity, endpoint=True)
        return Draw(operators[order[view % len(operators)]], int(severity), view_seed)

    def cells(self, split: Split) -> list[tuple[Corruption, int]]:
        """Every (operator, severity) that evaluation goes through."""
        return [(corruption, severity) for corruption in self.operators(split) for severity in self.eval_severities]


def evaluation_draw(seed: int, sample: str, corruption: Corruption, severity: int) -> Draw:
    """The draw of one cell of an evaluation table: the same pixels for every model that is compared."""
    check_severity(severity)
    return Draw(corruption, severity, corruption_seed(seed, 0, sample, f"{corruption.title}:{severity}"))


__all__ = [
    "IMAGENET_C",
    "IMAGENET_C_EXTRA",
    "SEVERITIES",
    "Draw",
    "Split",
    "Suite",
    "evaluation_draw",
    "imagenet_c",
    "operator",
]
