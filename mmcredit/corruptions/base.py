"""What an image corruption is: RGB image, severity and random generator in; RGB image of the same size out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from mmcredit.components import Component
from mmcredit.seeds import derive

SEVERITIES = (1, 2, 3, 4, 5)
# Shorter side, in pixels, of the photographs that ImageNet-C's constants were chosen for.
REFERENCE_SIDE = 224

Floats = NDArray[np.float32]


def corruption_seed(seed: int, epoch: int, sample: str, view: str | int) -> int:
    """The seed of one corrupted view: run seed, epoch (from 0), sample id, view (number k, or a name)."""
    return derive(seed, "corruption", epoch, sample, view)


def check_image(image: Image.Image) -> None:
    """Raise ValueError unless `image` is a Pillow image in RGB with at least one pixel."""
    if not isinstance(image, Image.Image):
        raise ValueError(f"a corruption takes a Pillow image, got {type(image).__name__}")
    if image.mode != "RGB":
        raise ValueError(
            f"a corruption takes RGB images, got mode {image.mode!r}; decode with mmcredit.data.media.load_image, "
            "so that the clean and the corrupted view see the same pixels"
        )
    if min(image.size) < 1:
        raise ValueError(f"a corruption takes images of at least 1x1 pixel, got {image.width}x{image.height}")


def check_severity(severity: int) -> None:
    """Raise ValueError unless `severity` is one of 1, 2, 3, 4, 5."""
    if isinstance(severity, bool) or not isinstance(severity, int | np.integer) or severity not in SEVERITIES:
        raise ValueError(f"severity is a whole number from 1 (mild) to 5 (strong), got {severity!r}")


def to_floats(image: Image.Image) -> Floats:
    """[H,W,3] float32 in [0,1]."""
    return np.asarray(image, dtype=np.float32) / np.float32(255)


def to_image(pixels: Floats, cut: bool = False) -> Image.Image:
    """RGB image from [H,W,3], clipped to [0,1] and rounded; with `cut` cut off, which is half a grey level darker."""
    scaled = np.clip(pixels, 0, 1) * np.float32(255)
    return Image.fromarray((scaled if cut else np.rint(scaled)).astype(np.uint8), "RGB")


class Corruption(Component):
    """One image corruption with severities 1 to 5. The same generator state gives the same pixels.

    Random numbers come in two kinds. What belongs to the camera, the lens or the codec (angle, drops on the glass,
    mask) is drawn by `draw`, once for all frames of a video; what is new in every exposure (sensor noise) is drawn
    by `corrupt_image`. `frames` says which of the two an operator has.
    """

    frames: ClassVar[Literal["same", "new noise"]] = "same"

    label: str = Field(default="", description="name in tables and logs; empty = the operator's own name")

    @property
    def title(self) -> str:
        """What tables and logs call it."""
        return self.label or self.name

    def __call__(self, image: Image.Image, severity: int, rng: np.random.Generator) -> Image.Image:
        """The corrupted image, RGB, of the size of `image`, which stays as it is.

        Raises ValueError for an image that is not RGB, a severity outside 1 to 5, or an operator that changed the size.
        """
        return self.apply_frames([image], severity, rng)[0]

    def apply_frames(self, frames: Sequence[Image.Image], severity: int, rng: np.random.Generator) -> list[Image.Image]:
        """The corrupted frames of one video: one draw for all of them, sensor noise apart. One frame = `__call__`.

        Raises ValueError as `__call__` does, and if the frames differ in size.
        """
        check_severity(severity)
        if not isinstance(rng, np.random.Generator):
            raise ValueError(f"rng is a numpy Generator (np.random.default_rng(seed)), got {type(rng).__name__}")
        for frame in frames:
            check_image(frame)
            if frame.size != frames[0].size:
                raise ValueError(f"the frames of a video have one size, got {frames[0].size} and {frame.size}")
        if not frames:
            return []
        drawn = self.draw(frames[0].size, severity, rng)
        return [self._checked(frame, self.corrupt_image(frame, severity, drawn, rng)) for frame in frames]

    def _checked(self, before: Image.Image, after: Image.Image) -> Image.Image:
        if after.size != before.size or after.mode != "RGB":
            raise ValueError(
                f"corruption {self.title!r} turned an RGB image of {before.size} into {after.mode} of {after.size}; "
                "the size must stay, or the number of visual tokens changes"
            )
        return after

    def draw(self, size: tuple[int, int], severity: int, rng: np.random.Generator) -> Any:
        """The random parameters that all frames share, for frames of `size` = (width, height)."""
        return None

    def corrupt_image(self, image: Image.Image, severity: int, drawn: Any, rng: np.random.Generator) -> Image.Image:
        """One corrupted frame, given what `draw` returned."""
        raise TypeError(f"{type(self).__name__} does not implement corrupt_image(image, severity, drawn, rng)")


class PixelCorruption(Corruption):
    """A corruption of the pixel values as numbers in [0,1]."""

    def corrupt_image(self, image: Image.Image, severity: int, drawn: Any, rng: np.random.Generator) -> Image.Image:
        return to_image(self.corrupt(to_floats(image), severity, drawn, rng))

    def corrupt(self, pixels: Floats, severity: int, drawn: Any, rng: np.random.Generator) -> Floats:
        """[H,W,3] in [0,1] to [H,W,3]; what leaves [0,1] is clipped afterwards."""
        raise TypeError(f"{type(self).__name__} does not implement corrupt(pixels, severity, drawn, rng)")


class Published(Corruption):
    """An operator of ImageNet-C, which can follow the published code where ours differs from it on purpose."""

    published: bool = Field(
        default=False,
        description="as the package imagecorruptions 1.1.2 computes it: pixels cut off instead of rounded, and what "
        "the page of the operator names",
    )


class PublishedPixels(PixelCorruption, Published):
    """Such an operator on pixel values as numbers in [0,1]."""

    def corrupt_image(self, image: Image.Image, severity: int, drawn: Any, rng: np.random.Generator) -> Image.Image:
        return to_image(self.corrupt(to_floats(image), severity, drawn, rng), cut=self.published)


class Scaled(Corruption):
    """A corruption with constants in pixels, which can grow with the image."""

    scale_with_resolution: bool = Field(
        default=False,
        description=f"multiply constants in pixels by shorter side / {REFERENCE_SIDE} (ImageNet-C's image size)",
    )

    def factor(self, size: tuple[int, int]) -> float:
        """What constants in pixels are multiplied by, for an image of `size` = (width, height)."""
        return min(size) / REFERENCE_SIDE if self.scale_with_resolution else 1.0
