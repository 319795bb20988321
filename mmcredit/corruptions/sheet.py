"""The contact sheet: one image under every operator and severity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mmcredit.components import names
from mmcredit.corruptions.base import (
    REFERENCE_SIDE,
    SEVERITIES,
    Corruption,
    check_image,
    check_severity,
    corruption_seed,
)
from mmcredit.corruptions.suite import IMAGENET_C, IMAGENET_C_EXTRA, operator
from mmcredit.data.media import MediaLimits, load_image
from mmcredit.data.sample import Media

GAP = 6
LABEL = 20  # height of a line of text, pixels
FORMATS = (".png", ".jpg", ".jpeg", ".webp")


def built_in() -> list[str]:
    """All operators that need no settings: ImageNet-C's order, then the others by name."""
    first = [*IMAGENET_C, *IMAGENET_C_EXTRA]
    return first + [name for name in names("corruption") if name not in (*first, "albumentations")]


def contact_sheet(
    image: Image.Image,
    operators: Sequence[str | Mapping[str, Any] | Corruption],
    severities: Sequence[int] = SEVERITIES,
    seed: int = 0,
) -> Image.Image:
    """One row per operator, one column per severity, the clean image first. Cells have the size of `image`.

    `operators` are config entries. Raises ValueError for an image that is not RGB and for a wrong severity or entry.
    """
    check_image(image)
    built = [operator(spec) for spec in operators]
    for severity in severities:
        check_severity(severity)
    if not built or not severities:
        raise ValueError("a contact sheet needs at least one operator and one severity")
    font = ImageFont.load_default(14)
    width, height = image.size
    across = max(width, 120) + GAP
    down = height + LABEL + GAP
    sheet = Image.new("RGB", (GAP + across * (1 + len(severities)), GAP + LABEL + down * len(built)), "white")
    pen = ImageDraw.Draw(sheet)
    for column, title in enumerate(["clean", *(f"severity {severity}" for severity in severities)]):
        pen.text((GAP + column * across, GAP), title, "black", font)
    for row, corruption in enumerate(built):
        top = GAP + LABEL + row * down
        pen.text((GAP, top), corruption.title, "black", font)
        sheet.paste(image, (GAP, top + LABEL))
        for column, severity in enumerate(severities, start=1):
            rng = np.random.default_rng(corruption_seed(seed, 0, "sheet", f"{corruption.title}:{severity}"))
            sheet.paste(corruption(image, severity, rng), (GAP + column * across, top + LABEL))
    return sheet


def run_sheet(
    image_path: str | Path,
    output: str | Path,
    operators: Sequence[str | Mapping[str, Any] | Corruption] | None = None,
    severities: Sequence[int] = SEVERITIES,
    seed: int = 0,
    side: int | None = REFERENCE_SIDE,
) -> Path:
    """Read an image, write its contact sheet, return where it was written. `operators` None = all built-in ones.

    The image is first reduced so that its shorter side is at most `side` pixels (None = never; a sheet has about 150
    cells) and is decoded as a data set's would be. Raises ValueError naming the file if the image cannot be read, or if
    `output` is no .png, .jpg, .jpeg or .webp file in a folder that exists.
    """
    source, target = Path(image_path), Path(output)
    if target.suffix.lower() not in FORMATS:
        raise ValueError(f"the contact sheet is written as one of {', '.join(FORMATS)}, got {str(target)!r}")
    if not target.absolute().parent.is_dir():
        raise ValueError(f"the contact sheet cannot be written to {str(target)!r}: there is no such folder")
    if side is not None and side < 1:
        raise ValueError(f"side is a number of pixels from 1 up, got {side}")
    image = load_image(Media("image", path=source.absolute(), name=str(source)), MediaLimits(min_side=1))
    if side is not None and min(image.size) > side:
        shrink = side / min(image.size)
        image = image.resize((round(image.width * shrink), round(image.height * shrink)), Image.Resampling.LANCZOS)
    contact_sheet(image, built_in() if operators is None else operators, severities, seed).save(target)
    return target
