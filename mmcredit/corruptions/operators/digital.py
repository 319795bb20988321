"""Corruptions of tone, resolution, coding and shape. Nothing changes from frame to frame."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from PIL import Image
from pydantic import Field

from mmcredit.components import register
from mmcredit.corruptions.base import Corruption, Floats, PublishedPixels, Scaled
from mmcredit.corruptions.filters import gaussian, remap

if TYPE_CHECKING:
    from numpy.typing import NDArray


@register("corruption", "contrast")
class Contrast(PublishedPixels):
    """Low contrast: (x - m) c + m, m the mean of each channel over the image; c 0.4 0.3 0.2 0.1 0.05.

    ImageNet-C (arXiv 1903.12261), its constants. Nothing is random. Video: the mean is that of each frame.
    """

    FACTOR: ClassVar = (0.4, 0.3, 0.2, 0.1, 0.05)

    def corrupt(self, pixels: Floats, severity: int, drawn: Any, rng: np.random.Generator) -> Floats:
        mean = pixels.mean(axis=(0, 1), keepdims=True, dtype=np.float64).astype(np.float32)
        return (pixels - mean) * np.float32(self.FACTOR[severity - 1]) + mean


@register("corruption", "brightness")
class Brightness(PublishedPixels):
    """Too bright: the value of HSV plus 0.1 0.2 0.3 0.4 0.5, at most 1; hue and saturation stay.

    ImageNet-C (arXiv 1903.12261), its constants. Nothing is random. A white image stays as it is.
    """

    PLUS: ClassVar = (0.1, 0.2, 0.3, 0.4, 0.5)

    def corrupt(self, pixels: Floats, severity: int, drawn: Any, rng: np.random.Generator) -> Floats:
        value = pixels.max(axis=2, keepdims=True)
        brighter = np.minimum(value + np.float32(self.PLUS[severity - 1]), 1)
        # At fixed hue and saturation all channels are proportional to the value; black has neither and becomes grey.
        return np.where(value > 0, pixels * (brighter / np.where(value > 0, value, 1)), brighter)


@register("corruption", "saturate")
class Saturate(PublishedPixels):
    """Colours too weak or too strong: the saturation of HSV becomes s a + b, within [0,1].

    (a, b) = (0.3,0) (0.1,0) (2,0) (5,0.1) (20,0.2): severities 1 and 2 fade, 3 to 5 exaggerate. Grey pixels, whose hue
    counts as red, turn reddish at 4 and 5, as in ImageNet-C (arXiv 1903.12261; one of its four extra operators, its
    constants). Severity 3 hurts more than 2 only where most colours have a saturation below 1/2. Nothing is random.
    """

    CURVE: ClassVar = ((0.3, 0.0), (0.1, 0.0), (2.0, 0.0), (5.0, 0.1), (20.0, 0.2))

    def corrupt(self, pixels: Floats, severity: int, drawn: Any, rng: np.random.Generator) -> Floats:
        factor, plus = self.CURVE[severity - 1]
        value = pixels.max(axis=2, keepdims=True)
        below = value - pixels  # value * saturation * a function of the hue
        chroma = below.max(axis=2, keepdims=True)
        saturation = chroma / np.where(value > 0, value, 1)
        wanted = np.clip(saturation * np.float32(factor) + np.float32(plus), 0, 1)
        red = value * wanted * np.array([0, 1, 1], np.float32)
        return value - np.where(chroma > 0, below * (wanted * value / np.where(chroma > 0, chroma, 1)), red)


JPEG_SIDE = 65_500  # what libjpeg takes


@register("corruption", "jpeg")
class Jpeg(Corruption):
    """JPEG artefacts: coded with quality 25 18 15 10 7 and decoded again.

    ImageNet-C (arXiv 1903.12261), its constants, with Pillow's coder. Nothing is random. Video: each frame by itself.
    """

    QUALITY: ClassVar = (25, 18, 15, 10, 7)

    def corrupt_image(self, image: Image.Image, severity: int, drawn: Any, rng: np.random.Generator) -> Image.Image:
        if max(image.size) > JPEG_SIDE:
            raise ValueError(f"JPEG takes at most {JPEG_SIDE} pixels a side, got {image.width}x{image.height}")
        coded = io.BytesIO()
        image.save(coded, "JPEG", quality=self.QUALITY[severity - 1])
        with Image.open(coded, formats=("JPEG",)) as decoded:
            return decoded.convert("RGB")


def _smaller(size: tuple[int, int], scale: float) -> tuple[int, int]:
    return max(1, int(size[0] * scale)), max(1, int(size[1] * scale))


@register("corruption", "pixelate")
class Pixelate(Scaled):
    """Large pixels: reduced to 0.6 0.5 0.4 0.3 0.25 of its sides by averaging, enlarged again without interpolation.

    ImageNet-C (arXiv 1903.12261), its constants. Nothing is random. `scale_with_resolution` makes the pixels larger.
    """

    SCALE: ClassVar = (0.6, 0.5, 0.4, 0.3, 0.25)

    def corrupt_image(self, image: Image.Image, severity: int, drawn: Any, rng: np.random.Generator) -> Image.Image:
        scale = min(1.0, self.SCALE[severity - 1] / self.factor(image.size))
        small = image.resize(_smaller(image.size, scale), Image.Resampling.BOX)
        return small.resize(image.size, Image.Resampling.NEAREST)


@register("corruption", "low_resolution")
class LowResolution(Scaled):
    """A scan at too low a resolution: reduced to 0.5 0.4 0.3 0.2 0.15 of its sides and enlarged again, both bilinearly.

    Not in ImageNet-C; the constants are ours. Nothing is random. `scale_with_resolution` makes the scan coarser.
    """

    SCALE: ClassVar = (0.5, 0.4, 0.3, 0.2, 0.15)

    def corrupt_image(self, image: Image.Image, severity: int, drawn: Any, rng: np.random.Generator) -> Image.Image:
        scale = min(1.0, self.SCALE[severity - 1] / self.factor(image.size))
        small = image.resize(_smaller(image.size, scale), Image.Resampling.BILINEAR)
        return small.resize(image.size, Image.Resampling.BILINEAR)


@register("corruption", "elastic")
class Elastic(PublishedPixels):
    """Elastic distortion: every pixel is taken from a place moved by a smooth random field.

    `constants: port`, that of imagecorruptions for images of any size: displacements uniform in +-0.005 of the height
    on both axes, Gaussian-smoothed with sigma = 0.01 of the sides (cut off at 3 sigma, mirrored), times 250 (0.05 0.065
    0.085 0.1 0.12); bilinear, mirrored at the border. `constants: data_set`, with which the images of ImageNet-C
    (arXiv 1903.12261) were made, in pixels of 224 x 224: first a random shear of up to 24.4 48.8 4.88 4.88 4.88, then
    displacements in +-1, smoothed with sigma 170.8 19.52 2.44 2.44 2.44, times 488 488 12.2 17.08 29.28. Severities 1
    and 2 move pixels five times as far. Video: one field for all frames.
    """

    STRENGTH: ClassVar = (12.5, 16.25, 21.25, 25.0, 30.0)
    # strength, sigma of the smoothing, largest move of a corner of the shear, all in pixels
    DATA_SET: ClassVar = (
        (488.0, 170.8, 24.4),
        (488.0, 19.52, 48.8),
        (12.2, 2.44, 4.88),
        (17.08, 2.44, 4.88),
        (29.28, 2.44, 4.88),
    )

    constants: Literal["port", "data_set"] = Field(
        default="port", description="those of imagecorruptions, or those of the data set ImageNet-C"
    )

    def draw(self, size: tuple[int, int], severity: int, rng: np.random.Generator) -> tuple[Floats, Floats, Any]:
        """(displacements down, across, each [H,W] in pixels; the shear as [2,3], or None)."""
        width, height = size
        if self.constants == "data_set":
            strength, sigma, move = self.DATA_SET[severity - 1]
            smooth, reach, shear = (sigma, sigma), 1.0, sheared(size, move, rng)
        else:
            strength, reach, shear = self.STRENGTH[severity - 1], 0.005 * height, None
            smooth = (0.01 * height, 0.01 * width)
        down, across = (
            gaussian(
                (rng.random((height, width), dtype=np.float32) * 2 - 1) * np.float32(reach), smooth, "symmetric", 3.0
            )
            * np.float32(strength)
            for _ in range(2)
        )
        return down, across, shear

    def corrupt(self, pixels: Floats, severity: int, drawn: Any, rng: np.random.Generator) -> Floats:
        rows, columns = np.indices(pixels.shape[:2], dtype=np.float32)
        down, across, shear = drawn
        if shear is not None:
            from_x, from_y = (line[0] * columns + line[1] * rows + line[2] for line in shear)
            pixels = remap(pixels, from_y, from_x, repeat=False)
        return remap(pixels, rows + down, columns + across)


def sheared(size: tuple[int, int], move: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """[2,3]: the affine map (x, y, 1) -> (x, y) that takes three points around the middle back from where each moves to
    by up to `move` pixels on both axes.
    """
    middle, reach = np.array(size) // 2, min(size) // 3
    points = middle + reach * np.array([(1, 1), (1, -1), (-1, -1)])
    moved = points + rng.uniform(-move, move, points.shape)
    return np.linalg.solve(np.column_stack([moved, np.ones(3)]), points).T
