"""Blurs: of the lens, of motion, of a pane of glass. The same for all frames of a video."""

from __future__ import annotations

from array import array
from typing import Any, ClassVar, Literal

import numpy as np
from PIL import Image
from pydantic import Field

from mmcredit.components import register
from mmcredit.corruptions.base import Floats, Published, PublishedPixels, Scaled, to_floats, to_image
from mmcredit.corruptions.filters import centre_box, correlate, disk, gaussian, one_sided_line, stretched_middle


def _size(pixels: Floats) -> tuple[int, int]:
    return pixels.shape[1], pixels.shape[0]


@register("corruption", "gaussian_blur")
class GaussianBlur(PublishedPixels, Scaled):
    """Gaussian blur; sigma 1 2 3 4 6 pixels, cut off at 4 sigma, border pixels repeated.

    One of ImageNet-C's four extra operators (arXiv 1903.12261), its constants. Nothing is random.
    """

    SIGMA: ClassVar = (1, 2, 3, 4, 6)

    def corrupt(self, pixels: Floats, severity: int, drawn: Any, rng: np.random.Generator) -> Floats:
        return gaussian(pixels, self.SIGMA[severity - 1] * self.factor(_size(pixels)))


@register("corruption", "defocus_blur")
class DefocusBlur(PublishedPixels, Scaled):
    """Out of focus: a disk of radius 3 4 6 8 10 pixels, its edge softened by 0.1 0.5 0.5 0.5 0.5; mirrored border.

    ImageNet-C (arXiv 1903.12261), its constants. Nothing is random. The published disk sums to 1.01 at severities 4 and
    5, which brightens the image by that (`published`); here it sums to 1.
    """

    DISK: ClassVar = ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))

    def corrupt(self, pixels: Floats, severity: int, drawn: Any, rng: np.random.Generator) -> Floats:
        radius, alias = self.DISK[severity - 1]
        kernel = disk(max(1, round(radius * self.factor(_size(pixels)))), alias, normalised=not self.published)
        return correlate(pixels, kernel, "reflect")


@register("corruption", "motion_blur")
class MotionBlur(PublishedPixels, Scaled):
    """Motion blur: one-sided Gaussian weights along a line at a random angle of -45 to 45 degrees.

    2 r + 1 weights exp(-i^2 / 2 s^2), (r, s) = (10,3) (15,5) (15,8) (15,12) (20,15) pixels; border pixels repeated.
    ImageNet-C (arXiv 1903.12261), its constants. Video: one angle for all frames.
    """

    LINE: ClassVar = ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))

    def draw(self, size: tuple[int, int], severity: int, rng: np.random.Generator) -> float:
        return float(rng.uniform(-45, 45))

    def corrupt(self, pixels: Floats, severity: int, drawn: float, rng: np.random.Generator) -> Floats:
        radius, sigma = self.LINE[severity - 1]
        factor = self.factor(_size(pixels))
        return correlate(pixels, one_sided_line(max(1, round(radius * factor)), sigma * factor, drawn))


@register("corruption", "zoom_blur")
class ZoomBlur(Published):
    """Zoom blur: mean of the image and of its enlargements about the centre, by 1 to 1.11 1.15 1.20 1.24 1.30.

    12 16 11 13 11 enlargements at equal distances, bilinear. ImageNet-C (arXiv 1903.12261), its constants; its code
    takes whole pixels out of the middle and keeps the upper left of their enlargement (`published`), here they are
    centred exactly. Nothing is random.
    """

    # ImageNet-C's arange(1, 1.11, .01) etc. as its floating point has them: number of enlargements, distance.
    ZOOMS: ClassVar = ((12, 0.01), (16, 0.01), (11, 0.02), (13, 0.02), (11, 0.03))

    def corrupt_image(self, image: Image.Image, severity: int, drawn: Any, rng: np.random.Generator) -> Image.Image:
        number, distance = self.ZOOMS[severity - 1]
        pixels = to_floats(image)
        total = pixels.copy()
        for i in range(number):
            if self.published:
                layer = stretched_middle(pixels, 1 + i * distance)
                total[: layer.shape[0], : layer.shape[1]] += layer
                continue
            box = centre_box(image.size, 1 + i * distance)
            total += to_floats(image.resize(image.size, Image.Resampling.BILINEAR, box=box))
        return to_image(total / np.float32(number + 1), cut=self.published)


@register("corruption", "glass_blur")
class GlassBlur(PublishedPixels, Scaled):
    """Frosted glass: blur, let pixels change places with neighbours, blur again.

    (sigma, d, passes) = (0.7,1,2) (0.9,2,1) (1,2,3) (1.1,3,2) (1.5,4,2). In a pass, from the lower right corner to the
    upper left, each pixel changes places with the one at an offset drawn from [-d, d) in both directions. ImageNet-C
    (arXiv 1903.12261), its constants; severities 1 and 2 are nearly alike. Its text says "swap", its code copies, and
    so its published images are copies, moved to the lower right on the whole, where severity 1 hurts more than 2 and 3
    more than 4: `mode: copy` does the same, and so does `published`, which also cuts off the blurred pixels before
    they move. Video: one pane of glass for all frames.
    """

    GLASS: ClassVar = ((0.7, 1, 2), (0.9, 2, 1), (1.0, 2, 3), (1.1, 3, 2), (1.5, 4, 2))

    mode: Literal["swap", "copy"] = Field(default="swap", description="as ImageNet-C is described, or as published")

    def draw(self, size: tuple[int, int], severity: int, rng: np.random.Generator) -> np.ndarray:
        """[H * W] int64: from which pixel of the blurred image each pixel comes, after all passes."""
        _, reach, passes = self.GLASS[severity - 1]
        return shuffled(
            size, max(1, round(reach * self.factor(size))), passes, self.mode == "swap" and not self.published, rng
        )

    def corrupt(self, pixels: Floats, severity: int, drawn: np.ndarray, rng: np.random.Generator) -> Floats:
        sigma = self.GLASS[severity - 1][0] * self.factor(_size(pixels))
        blurred = gaussian(pixels, sigma)
        if self.published:
            blurred = to_floats(to_image(blurred, cut=True))
        return gaussian(blurred.reshape(-1, 3)[drawn].reshape(pixels.shape), sigma)


def shuffled(size: tuple[int, int], reach: int, passes: int, swap: bool, rng: np.random.Generator) -> np.ndarray:
    """[H * W] int64: where each pixel's value comes from when neighbours change places (or are copied) in turn.

    A border of `reach` pixels is only reached from inside. Each step sees what the earlier ones left, hence a loop.
    """
    width, height = size
    source = array("q", range(width * height))
    columns = np.arange(width - reach, reach, -1)
    for _ in range(passes):
        for row in range(height - reach, reach, -1):
            down, across = rng.integers(-reach, reach, (2, len(columns)))
            here = (row * width + columns).tolist()
            there = ((row + down) * width + columns + across).tolist()
            if swap:
                for i, j in zip(here, there, strict=True):
                    source[i], source[j] = source[j], source[i]
            else:
                for i, j in zip(here, there, strict=True):
                    source[i] = source[j]
    return np.frombuffer(source, np.int64).copy()
