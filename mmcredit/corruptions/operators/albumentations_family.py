"""Transforms of the albumentations library behind the interface of the built-in corruptions."""

from __future__ import annotations

import importlib
import os
import warnings
from types import ModuleType
from typing import Any, ClassVar, Literal

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, model_validator

from mmcredit.components import nearest, register
from mmcredit.corruptions.base import SEVERITIES, Corruption


def load_albumentations() -> ModuleType:
    """The library, imported at first use. Raises ValueError, naming the extra, if it is not installed."""
    # Without this the import looks up a host on the internet for a newer version.
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    try:
        return importlib.import_module("albumentations")
    except ImportError as error:
        raise ValueError(
            f"the corruption 'albumentations' needs the library of that name ({error}); "
            "install it with: pip install 'mmcredit[vision]'"
        ) from error


class Transform(BaseModel):
    """One transform: class name and arguments. {by_severity: [v1, v2, v3, v4, v5]} may stand for a value."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(description="class name in albumentations, such as GaussNoise")
    params: dict[str, Any] = Field(default_factory=dict, description="its arguments; p is 1 unless given")

    @model_validator(mode="after")
    def _has_a_value_per_severity(self) -> Transform:
        for key, value in self.params.items():
            if isinstance(value, dict) and "by_severity" in value:
                values = value["by_severity"]
                if set(value) != {"by_severity"} or not isinstance(values, list) or len(values) != len(SEVERITIES):
                    raise ValueError(
                        f"{self.name}: {key} is written as {{by_severity: [five values]}}, one for each severity, "
                        f"got {value!r}"
                    )
        return self

    def arguments(self, severity: int) -> dict[str, Any]:
        """The arguments at a severity from 1 to 5, lists as tuples."""
        arguments: dict[str, Any] = {"p": 1.0}
        for key, value in self.params.items():
            chosen = value["by_severity"][severity - 1] if isinstance(value, dict) and "by_severity" in value else value
            arguments[key] = tuple(chosen) if isinstance(chosen, list) else chosen
        return arguments


@register("corruption", "albumentations")
class Albumentations(Corruption):
    """Your own pipeline of albumentations 2.0.8 transforms, applied in order.

        albumentations:
          transforms:
            - {name: GaussNoise, params: {std_range: {by_severity: [[.05,.05],[.1,.1],[.15,.15],[.2,.2],[.3,.3]]}}}
            - {name: RandomFog}

    In a suite, `albumentations: [{name: ..., params: ...}]` is short for it. Needs the extra `vision`
    (``pip install 'mmcredit[vision]'``); the library is imported at first use, its look-up of newer versions switched
    off. Transforms that change the size of the image (crops, rotations that expand) are refused when they do. Without
    `by_severity` all five severities are the same. Video: the same draw for all frames, noise included.
    """

    frames: ClassVar[Literal["same", "new noise"]] = "same"

    transforms: list[Transform] = Field(min_length=1, description="{name, params} of each transform")

    def draw(self, size: tuple[int, int], severity: int, rng: np.random.Generator) -> int:
        """The seed of the pipeline."""
        return int(rng.integers(2**31))

    def corrupt_image(self, image: Image.Image, severity: int, drawn: int, rng: np.random.Generator) -> Image.Image:
        library = load_albumentations()
        steps = [_build(library, transform, severity) for transform in self.transforms]
        pixels = library.Compose(steps, seed=drawn)(image=np.array(image))["image"]
        if pixels.dtype != np.uint8 or pixels.ndim != 3:
            raise ValueError(
                f"corruption {self.title!r} gave an array of {pixels.dtype} {pixels.shape} for an image; "
                "leave out transforms that convert to floating point or tensors"
            )
        return Image.fromarray(pixels)


def _build(library: ModuleType, transform: Transform, severity: int) -> Any:
    """The transform object; ValueError if the library has none of that name or refuses the arguments."""
    found = getattr(library, transform.name, None)
    if not (isinstance(found, type) and issubclass(found, library.BasicTransform)):
        known = [
            name
            for name in dir(library)
            if isinstance(c := getattr(library, name), type) and issubclass(c, library.BasicTransform)
        ]
        raise ValueError(f"albumentations has no transform {transform.name!r}; {nearest(transform.name, known)}")
    try:
        with warnings.catch_warnings():
            # The library warns of an argument that it does not know, and goes on without it.
            warnings.filterwarnings("error", message=r"Argument\(s\) .* not valid", category=UserWarning)
            return found(**transform.arguments(severity))
    except (TypeError, ValueError, UserWarning) as error:
        raise ValueError(f"albumentations {transform.name}({transform.params}): {error}") from error
