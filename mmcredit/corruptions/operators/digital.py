"""Corruptions of tone, resolution, coding and shape. Nothing changes from frame to frame."""

from __future__ import annotations

import io
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from mmcredit.components import register
from mmcredit.corruptions.base import Corruption, Floats, PixelCorruption, Scaled
from mmcredit.corruptions.filters import gaussian, remap


@register("corruption", "contrast")
class Contrast(PixelCorruption):
    """Low contrast: (x - m) c + m, m the mean of each channel over the image; c 0.4 0.3 0.2 0.1 0.05.

    ImageNet-C (arXiv 1903.12261), its constants. Nothing is random. Video: the mean is that of each frame.
    """

    FACTOR: ClassVar = (0.4, 0.3, 0.2, 0.1, 0.05)

    def corrupt(self, pixels: Floats, severity: int, drawn: Any, rng: np.random.Generator) -> Floats:
        mean = pixels.mean(axis=(0, 1), keepdims=True, dtype=np.float64).astype(np.float32)
        return (pixels - mean) * np.float32(self.FACTOR[severity - 1]) + mean


@register("corruption", "brightness")
class Brightness(PixelCorruption):
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
class Saturate(PixelCorruption):
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
class Elastic(PixelCorruption):
    """Elastic distortion: every pixel is taken from a place moved by a smooth random field.

    Displacements uniform in +-0.005 of the sides, Gaussian-smoothed with sigma = 0.01 of the sides (cut off at 3 sigma,
    mirrored), times 250 (0.05 0.065 0.085 0.1 0.12); bilinear, mirrored at the border. ImageNet-C (arXiv 1903.12261),
    its constants, without its shear. Video: one field for all frames.
    """

    STRENGTH: ClassVar = (12.5, 16.25, 21.25, 25.0, 30.0)

    def draw(self, size: tuple[int, int], severity: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
        """Displacements down and across, each [H,W] in pixels."""
        width, height = size
        smooth = (0.01 * height, 0.01 * width)
        strength = np.float32(self.STRENGTH[severity - 1])
        fields = []
        for side in (height, width):
            noise = (rng.random((height, width), dtype=np.float32) * 2 - 1) * np.float32(0.005 * side)
            fields.append(gaussian(noise, smooth, "symmetric", truncate=3.0) * strength)
        return fields[0], fields[1]

    def corrupt(self, pixels: Floats, severity: int, drawn: Any, rng: np.random.Generator) -> Floats:
        rows, columns = np.indices(pixels.shape[:2], dtype=np.float32)
        return remap(pixels, rows + drawn[0], columns + drawn[1])
