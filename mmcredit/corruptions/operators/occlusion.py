"""Blackening of random patches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import Field

from mmcredit.components import register
from mmcredit.corruptions.base import Floats, PixelCorruption

if TYPE_CHECKING:
    from numpy.typing import NDArray


def patch_mask(
    size: tuple[int, int], patch_size: int, probability: float, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """[H,W] bool for an image of `size` = (width, height): True where the pixel is blackened.

    The image is tiled from its upper left corner, edge tiles may be smaller; each tile is hit independently.
    """
    width, height = size
    tiles = rng.random((-(-height // patch_size), -(-width // patch_size))) < probability
    return tiles.repeat(patch_size, axis=0).repeat(patch_size, axis=1)[:height, :width]


@register("corruption", "occlusion")
class Occlusion(PixelCorruption):
    """Random squares of `patch_size` pixels are set to black, each with a probability, independently.

    The `masked` view of PAPO (arXiv 2507.06448; probability 0.6) and VPPO (arXiv 2510.09285; 0.5), both with 14 pixels,
    the side of a patch of Qwen2.5-VL. `probability` fixes it, whatever the severity; else 0.1 0.2 0.3 0.45 0.6 (our
    choice). Video: one mask for all frames; with a new one per frame the others would show what one hides.
    """

    PROBABILITY: ClassVar = (0.1, 0.2, 0.3, 0.45, 0.6)

    patch_size: int = Field(default=14, gt=0, description="side of a square, pixels")
    probability: float | None = Field(default=None, ge=0, le=1, description="of a square; null = by severity")

    def draw(self, size: tuple[int, int], severity: int, rng: np.random.Generator) -> NDArray[np.bool_]:
        probability = self.PROBABILITY[severity - 1] if self.probability is None else self.probability
        return patch_mask(size, self.patch_size, probability, rng)

    def corrupt(self, pixels: Floats, severity: int, drawn: Any, rng: np.random.Generator) -> Floats:
        return np.where(drawn[..., None], np.float32(0), pixels)
