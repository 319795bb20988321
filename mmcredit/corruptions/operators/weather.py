"""Snow, frost and fog."""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from PIL import Image, ImageDraw
from pydantic import Field, field_validator

from mmcredit.components import register
from mmcredit.corruptions.base import Floats, PublishedPixels
from mmcredit.corruptions.filters import correlate, height_map, one_sided_line, resized, stretched_middle

LUMA = np.array([0.299, 0.587, 0.114], np.float32)


@register("corruption", "fog")
class Fog(PublishedPixels):
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
class Snow(PublishedPixels):
    """Falling snow: bright streaks of thresholded noise, and the image itself whitened.

    Noise N(mean, std), enlarged by z, nothing below t, motion-blurred with (r, s) at 45 to 135 degrees; added as it is
    and turned by 180 degrees to b x + (1 - b) max(x, 1.5 grey(x) + 0.5). ImageNet-C (arXiv 1903.12261), its constants.
    Severities 2 and 3 hurt about the same. Video: one direction for all frames, new flakes in each.
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
        noise = mean + std * rng.standard_normal(pixels.shape[:2], dtype=np.float32)
        layer = stretched_middle(noise[..., None], enlarge)[..., 0]
        flakes = np.clip(np.where(layer < threshold, 0, layer), 0, 1).astype(np.float32)
        flakes = correlate(flakes, one_sided_line(radius, sigma, drawn))[..., None]
        grey = (pixels @ LUMA)[..., None]
        whitened = np.float32(share) * pixels + np.float32(1 - share) * np.maximum(pixels, grey * 1.5 + 0.5)
        return whitened + flakes + flakes[::-1, ::-1]


@register("corruption", "frost")
class Frost(PublishedPixels):
    """Frost on the lens: a x + b T, (a, b) = (1,0.4) (0.8,0.6) (0.7,0.7) (0.65,0.7) (0.6,0.75).

    The mixture is ImageNet-C's (arXiv 1903.12261). The texture T is NOT, unless `textures` names the folder of its
    photographs, which are not shipped here (frost1.png to frost5.jpg of the package imagecorruptions, which never draws
    the sixth): then a random piece of one is taken, enlarged by 1.1 or as far as the image needs. Without them it is
    procedural: six-armed crystals strewn over patches that a height map opens, bluish white on dark, and numbers under
    it do not compare with published ones. Video: one texture for all frames.
    """

    MIX: ClassVar = ((1.0, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75))
    PHOTOGRAPHS: ClassVar = ("frost1.png", "frost2.png", "frost3.png", "frost4.jpg", "frost5.jpg")

    textures: str | None = Field(default=None, description="folder of ImageNet-C's photographs of frost")

    @field_validator("textures")
    @classmethod
    def _photographs_are_there(cls, folder: str | None) -> str | None:
        if folder is not None:
            missing = [name for name in cls.PHOTOGRAPHS if not (Path(folder) / name).is_file()]
            if missing:
                raise ValueError(f"{folder} holds no {missing[0]}; it must hold {', '.join(cls.PHOTOGRAPHS)}")
        return folder

    def draw(self, size: tuple[int, int], severity: int, rng: np.random.Generator) -> Floats:
        if self.textures is None:
            return frost_texture(size, rng)
        name = self.PHOTOGRAPHS[int(rng.integers(len(self.PHOTOGRAPHS)))]
        return frost_photograph(Path(self.textures) / name, size, rng)

    def corrupt(self, pixels: Floats, severity: int, drawn: Floats, rng: np.random.Generator) -> Floats:
        share, amount = self.MIX[severity - 1]
        return np.float32(share) * pixels + np.float32(amount) * drawn


# Textures of larger images are made at this size and enlarged: the crystals grow with the image.
FROST_SIDE = 512
FROST_COLOUR = np.array([0.92, 0.96, 1.0], np.float32)


@lru_cache(maxsize=8)
def _photograph(path: Path) -> Image.Image:
    with Image.open(path, formats=("PNG", "JPEG")) as picture:
        return picture.convert("RGB")


def frost_photograph(path: Path, size: tuple[int, int], rng: np.random.Generator) -> Floats:
    """[H,W,3] in [0,1]: a random piece of a photograph, for an image of `size` = (width, height)."""
    picture = _photograph(path)
    scale = 1.1 * max(1.0, *(wanted / there for wanted, there in zip(size, picture.size, strict=True)))
    picture = picture.resize(
        (math.ceil(picture.width * scale), math.ceil(picture.height * scale)), Image.Resampling.BICUBIC
    )
    left, top = (int(rng.integers(0, there - wanted)) for wanted, there in zip(size, picture.size, strict=True))
    return np.asarray(picture.crop((left, top, left + size[0], top + size[1])), np.float32) / np.float32(255)


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
