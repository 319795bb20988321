"""Snow, frost, fog and what splashes on the lens."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import numpy as np
from PIL import Image, ImageDraw

from mmcredit.components import register
from mmcredit.corruptions.base import Floats, PixelCorruption
from mmcredit.corruptions.filters import correlate, gaussian, height_map, one_sided_line, resized, zoomed

LUMA = np.array([0.299, 0.587, 0.114], np.float32)


@register("corruption", "fog")
class Fog(PixelCorruption):
    """Fog: (x + c F) m / (m + c), m the largest value of the image, F a random height map in [0,1].

    F by diamond-square, its roughness divided by decay^2 per level; (c, decay) = (1.5,2) (2,2) (2.5,1.7) (2.5,1.5)
    (3,1.4); severities 3 and 4 hide nearly the same. ImageNet-C (arXiv 1903.12261), its constants.
    Video: one bank of fog for all frames.
    """

    FOG: ClassVar = ((1.5, 2.0), (2.0, 2.0), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4))

    def draw(self, size: tuple[int, int], severity: int, rng: np.random.Generator) -> Floats:
        return height_map(size, self.FOG[severity - 1][1], rng)[..., None]

    def corrupt(self, pixels: Floats, severity: int, drawn: Floats, rng: np.random.Generator) -> Floats:
        amount = np.float32(self.FOG[severity - 1][0])
        top = pixels.max()
        return (pixels + amount * drawn) * (top / (top + amount))


@register("corruption", "snow")
class Snow(PixelCorruption):
    """Falling snow: bright streaks of thresholded noise, and the image itself whitened.

    Noise N(mean, std), enlarged by z, nothing below t, motion-blurred with (r, s) at 45 to 135 degrees; added as it is
    and turned by 180 degrees to b x + (1 - b) max(x, 1.5 grey(x) + 0.5). ImageNet-C (arXiv 1903.12261), its constants.
    Video: one direction for all frames, new flakes in each.
    """

    frames: ClassVar[Literal["same", "new noise"]] = "new noise"
    # mean, std, enlargement, threshold, radius and sigma of the motion blur, share of the image.
    SNOW: ClassVar = (
        (0.1, 0.3, 3.0, 0.5, 10, 4, 0.8),
        (0.2, 0.3, 2.0, 0.5, 12, 4, 0.7),
        (0.55, 0.3, 4.0, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    )

    def draw(self, size: tuple[int, int], severity: int, rng: np.random.Generator) -> float:
        return float(rng.uniform(45, 135))

    def corrupt(self, pixels: Floats, severity: int, drawn: float, rng: np.random.Generator) -> Floats:
        mean, std, enlarge, threshold, radius, sigma, share = self.SNOW[severity - 1]
        layer = zoomed(mean + std * rng.standard_normal(pixels.shape[:2], dtype=np.float32), enlarge)
        flakes = np.clip(np.where(layer < threshold, 0, layer), 0, 1).astype(np.float32)
        flakes = correlate(flakes, one_sided_line(radius, sigma, drawn))[..., None]
        grey = (pixels @ LUMA)[..., None]
        whitened = np.float32(share) * pixels + np.float32(1 - share) * np.maximum(pixels, grey * 1.5 + 0.5)
        return whitened + flakes + flakes[::-1, ::-1]


@register("corruption", "frost")
class Frost(PixelCorruption):
    """Frost on the lens: a x + b T, (a, b) = (1,0.4) (0.8,0.6) (0.7,0.7) (0.65,0.7) (0.6,0.75).

    The mixture is ImageNet-C's (arXiv 1903.12261). The texture T is NOT: ImageNet-C cuts it out of six photographs that
    are not shipped here. Ours is procedural: six-armed crystals strewn over patches that a height map opens, bluish
    white on dark. Numbers under it do not compare with published ones. Video: one texture for all frames.
    """

    MIX: ClassVar = ((1.0, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75))

    def draw(self, size: tuple[int, int], severity: int, rng: np.random.Generator) -> Floats:
        return frost_texture(size, rng)

    def corrupt(self, pixels: Floats, severity: int, drawn: Floats, rng: np.random.Generator) -> Floats:
        share, amount = self.MIX[severity - 1]
        return np.float32(share) * pixels + np.float32(amount) * drawn


# Textures of larger images are made at this size and enlarged: the crystals grow with the image.
FROST_SIDE = 512
FROST_COLOUR = np.array([0.92, 0.96, 1.0], np.float32)


def frost_texture(size: tuple[int, int], rng: np.random.Generator) -> Floats:
    """[H,W,3] in [0,1]: bright crystals on dark, for an image of `size` = (width, height)."""
    shrink = min(1.0, FROST_SIDE / max(size))
    small = (max(1, round(size[0] * shrink)), max(1, round(size[1] * shrink)))
    crystals = np.zeros((small[1], small[0]), np.float32)
    # Few large crystals, many small ones; each size with one random turn, as they grow on one pane.
    for radius, share in ((40, 0.0006), (22, 0.002), (10, 0.006)):
        seeds = (rng.random(crystals.shape, dtype=np.float32) < share) * rng.uniform(0.4, 1.0, crystals.shape)
        crystals += correlate(seeds.astype(np.float32), _crystal(radius, float(rng.uniform(0, 60))), "reflect")
    covered = height_map(small, 1.8, rng)
    covered = np.clip((covered - np.median(covered)) * 4 + 0.2, 0.04, 1)
    layer = np.clip(crystals * covered, 0, 1)
    return np.clip(resized(layer, size), 0, 1)[..., None] * FROST_COLOUR


def _crystal(radius: int, turn: float) -> Floats:
    """[2 radius + 1]^2: six arms with side branches at 60 degrees, softened, fading outwards."""
    scale = 4  # drawn larger and reduced, for smooth edges
    side = (2 * radius + 1) * scale
    picture = Image.new("L", (side, side))
    pen = ImageDraw.Draw(picture)
    middle = side / 2
    for arm in range(6):
        angle = math.radians(turn + 60 * arm)
        _line(pen, middle, middle, angle, radius * scale, 2 * scale)
        for part in (0.3, 0.5, 0.7):
            x, y = middle + math.cos(angle) * part * radius * scale, middle + math.sin(angle) * part * radius * scale
            for bend in (-60, 60):
                _line(pen, x, y, angle + math.radians(bend), 0.5 * (1 - part) * radius * scale, scale)
    small = picture.resize((2 * radius + 1, 2 * radius + 1), Image.Resampling.BOX)
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    fade = np.clip(1.2 - np.hypot(x, y) / radius, 0, 1)
    return (np.asarray(small, np.float32) / 255 * fade).astype(np.float32)


def _line(pen: ImageDraw.ImageDraw, x: float, y: float, angle: float, length: float, width: int) -> None:
    pen.line((x, y, x + math.cos(angle) * length, y + math.sin(angle) * length), fill=255, width=width)


@register("corruption", "spatter")
class Spatter(PixelCorruption):
    """Splashes on the lens: water at severities 1 to 3, mud at 4 and 5.

    Gaussian noise, blurred with sigma 4 3 2 1 1, above a threshold 0.69 0.68 0.68 0.65 0.65. Mud: the splashes blurred
    with 1.5 and cut at 0.8 hide the image behind a brown (63, 42, 20). Water: pale turquoise (175, 238, 238) is added,
    at most 0.6 0.6 0.5. One of ImageNet-C's four extra operators (arXiv 1903.12261), its constants; the shading of the
    drops is our own (a relief of their outline, for its distances to Canny edges). Video: one splash for all frames.
    """

    # mean and std of the noise, blur, threshold, strength of the water or blur of the mud, mud?
    SPATTER: ClassVar = (
        (0.65, 0.3, 4.0, 0.69, 0.6, False),
        (0.65, 0.3, 3.0, 0.68, 0.6, False),
        (0.65, 0.3, 2.0, 0.68, 0.5, False),
        (0.65, 0.3, 1.0, 0.65, 1.5, True),
        (0.67, 0.4, 1.0, 0.65, 1.5, True),
    )
    WATER: ClassVar[Floats] = np.array([175, 238, 238], np.float32) / np.float32(255)
    MUD: ClassVar[Floats] = np.array([63, 42, 20], np.float32) / np.float32(255)
    # Light from the upper left: the far side of a drop shines.
    RELIEF: ClassVar[Floats] = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]], np.float32)

    def draw(self, size: tuple[int, int], severity: int, rng: np.random.Generator) -> Floats:
        """[H,W,1] in [0,1]: how much of the pixel is water or mud."""
        mean, std, blur, threshold, strength, mud = self.SPATTER[severity - 1]
        layer = gaussian(mean + std * rng.standard_normal((size[1], size[0]), dtype=np.float32), blur)
        splash = (layer > threshold).astype(np.float32)
        if mud:
            soft = gaussian(splash, strength)
            return np.where(soft < 0.8, np.float32(0), soft)[..., None]
        relief = np.clip(correlate(gaussian(splash, blur / 2), self.RELIEF), 0, 2.7)
        water = layer * splash * relief
        return (water * np.float32(strength / max(float(water.max()), 1e-6)))[..., None]

    def corrupt(self, pixels: Floats, severity: int, drawn: Floats, rng: np.random.Generator) -> Floats:
        if self.SPATTER[severity - 1][-1]:
            return pixels * (1 - drawn) + drawn * self.MUD
        return pixels + drawn * self.WATER
