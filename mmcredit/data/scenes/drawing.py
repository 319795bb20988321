"""A scene as a picture of any size."""

from __future__ import annotations

import io
import math
from functools import lru_cache

from PIL import Image, ImageDraw, ImageFont

from mmcredit.data.scenes.graph import COLORS, LATTICE, RADIUS, Bar, Scene, Thing

BACKGROUND = (255, 255, 255)
SUPERSAMPLING = 4
# Chart area in lattice steps: axis numbers stand left of LEFT, labels below BASE. 40 steps from BASE to TOP.
LEFT, RIGHT, TOP, BASE = 6, 47, 2, 42
AXIS_NUMBERS_FROM = 160  # pixels a side; below it the digits could not be read, grid lines tell the height
_GRID, _AXIS = (215, 215, 215), (60, 60, 60)


def draw(scene: Scene, image_size: int) -> Image.Image:
    """The scene as an RGB picture of `image_size` pixels a side, edges smoothed."""
    side = image_size * SUPERSAMPLING
    image = Image.new("RGB", (side, side), BACKGROUND)
    pen = ImageDraw.Draw(image)
    unit = side / LATTICE
    if scene.bars:
        _draw_chart(pen, scene, unit, image_size)
    for thing in scene.things:
        _draw_thing(pen, thing, unit)
    return image.resize((image_size, image_size), Image.Resampling.BOX)


def png(scene: Scene, image_size: int) -> bytes:
    """The picture as a PNG file."""
    buffer = io.BytesIO()
    draw(scene, image_size).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def bar_slot(index: int, bars: int) -> tuple[float, float]:
    """Left and right edge of a bar, in lattice steps."""
    width = (RIGHT - LEFT) / bars
    return LEFT + (index + 0.2) * width, LEFT + (index + 0.8) * width


def bar_top(bar: Bar, axis: int) -> float:
    """Height of a bar's upper edge, in lattice steps from the top of the picture."""
    return BASE - bar.value * (BASE - TOP) / axis


def outline(shape: str, x: float, y: float, r: float) -> list[tuple[float, float]]:
    """The corners of a shape in the square of half side `r` around (x, y); shapes with a curved edge have none."""
    if shape == "square":
        return [(x - 0.85 * r, y - 0.85 * r), (x + 0.85 * r, y - 0.85 * r), (x + 0.85 * r, y + 0.85 * r),
                (x - 0.85 * r, y + 0.85 * r)]  # fmt: skip
    if shape == "triangle":
        return [(x, y - r), (x + r, y + 0.85 * r), (x - r, y + 0.85 * r)]
    if shape == "diamond":
        return [(x, y - r), (x + 0.75 * r, y), (x, y + r), (x - 0.75 * r, y)]
    if shape == "star":
        spokes = [(r if i % 2 == 0 else 0.42 * r, math.pi * (i / 5 - 0.5)) for i in range(10)]
        return [(x + length * math.cos(angle), y + length * math.sin(angle)) for length, angle in spokes]
    return []


def _draw_thing(pen: ImageDraw.ImageDraw, thing: Thing, unit: float) -> None:
    x, y, r = thing.x * unit, thing.y * unit, RADIUS[thing.size] * unit
    color = COLORS[thing.color]
    if thing.shape == "circle":
        pen.ellipse((x - r, y - r, x + r, y + r), fill=color)
    elif thing.shape == "ring":
        pen.ellipse((x - r, y - r, x + r, y + r), fill=color)
        pen.ellipse((x - 0.55 * r, y - 0.55 * r, x + 0.55 * r, y + 0.55 * r), fill=BACKGROUND)
    elif thing.shape == "heart":
        pen.ellipse((x - r, y - 0.9 * r, x + 0.08 * r, y + 0.18 * r), fill=color)
        pen.ellipse((x - 0.08 * r, y - 0.9 * r, x + r, y + 0.18 * r), fill=color)
        pen.polygon([(x - 0.93 * r, y - 0.05 * r), (x + 0.93 * r, y - 0.05 * r), (x, y + r)], fill=color)
    else:
        pen.polygon(outline(thing.shape, x, y, r), fill=color)
    if thing.label is not None:
        ink = BACKGROUND if thing.shape != "ring" and _luminance(color) < 140 else (0, 0, 0)
        down = 0.25 * r if thing.shape == "triangle" else 0.0
        size = (1.15 if len(thing.label) == 1 else 0.62) * r
        # The outline keeps what sticks out of a star or a diamond readable.
        ground = BACKGROUND if thing.shape == "ring" else color
        outline_width = max(1, round(0.12 * r))
        pen.text((x, y + down), thing.label, ink, _font(size), "mm", stroke_width=outline_width, stroke_fill=ground)


def _draw_chart(pen: ImageDraw.ImageDraw, scene: Scene, unit: float, image_size: int) -> None:
    line = max(1, round(0.25 * unit))
    step = 1 if scene.axis <= 10 else 2  # of the numbers: closer ones would overlap
    for value in range(scene.axis + 1):
        height = (BASE - value * (BASE - TOP) / scene.axis) * unit
        pen.line((LEFT * unit, height, RIGHT * unit, height), fill=_GRID, width=line)
        if image_size >= AXIS_NUMBERS_FROM and value % step == 0:
            pen.text(((LEFT - 1) * unit, height), str(value), fill=_AXIS, font=_font(2.6 * unit), anchor="rm")
    for index, bar in enumerate(scene.bars):
        left, right = bar_slot(index, len(scene.bars))
        box = (left * unit, bar_top(bar, scene.axis) * unit, right * unit, BASE * unit)
        pen.rectangle(box, fill=COLORS[bar.color])
        if bar.label is not None:
            middle = ((left + right) / 2 * unit, (BASE + 0.7) * unit)
            pen.text(middle, bar.label, fill=(0, 0, 0), font=_font(4.5 * unit), anchor="mt")
    pen.line((LEFT * unit, TOP * unit, LEFT * unit, BASE * unit), fill=_AXIS, width=line)
    pen.line((LEFT * unit, BASE * unit, RIGHT * unit, BASE * unit), fill=_AXIS, width=line)


def _luminance(color: tuple[int, int, int]) -> float:
    return 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2]


@lru_cache(maxsize=64)
def _font(size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font, which needs no file of the system."""
    return ImageFont.load_default(size)
