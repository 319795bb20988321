"""What splashes on the lens."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from mmcredit.components import register
from mmcredit.corruptions.base import Floats, PublishedPixels
from mmcredit.corruptions.edges import box_mean, distances, edges, equalised, filtered
from mmcredit.corruptions.filters import gaussian


@register("corruption", "spatter")
class Spatter(PublishedPixels):
    """Splashes on the lens: water at severities 1 to 3, mud at 4 and 5.

    Gaussian noise, blurred with sigma 4 3 2 1 1, above a threshold 0.69 0.68 0.68 0.65 0.65. Mud: the splashes blurred
    with 1.5 and cut at 0.8 hide the image behind a brown (63, 42, 20). Water: pale turquoise (175, 238, 238) is added,
    at most 0.6 0.6 0.5, shaded by the distance to the edges of the drops, lit from the upper left. One of ImageNet-C's
    four extra operators (arXiv 1903.12261), its constants and its steps. Video: one splash for all frames.
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

    def draw(self, size: tuple[int, int], severity: int, rng: np.random.Generator) -> Floats:
        """[H,W,1] in [0,1]: how much of the pixel is water or mud."""
        mean, std, blur, threshold, strength, mud = self.SPATTER[severity - 1]
        layer = gaussian(mean + std * rng.standard_normal((size[1], size[0]), dtype=np.float32), blur)
        liquid = np.where(layer < threshold, np.float32(0), layer)
        if mud:
            soft = gaussian((liquid > threshold).astype(np.float32), strength)
            return np.where(soft < 0.8, np.float32(0), soft)[..., None]
        water = drops(liquid)
        return (water * np.float32(strength / max(float(water.max()), 1e-6)))[..., None]

    def corrupt(self, pixels: Floats, severity: int, drawn: Floats, rng: np.random.Generator) -> Floats:
        if self.SPATTER[severity - 1][-1]:
            return pixels * (1 - drawn) + drawn * self.MUD
        return pixels + drawn * self.WATER


# Light from the upper left: the far side of a drop shines.
RELIEF = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])
FARTHEST = 20  # pixels from an edge beyond which the shading stays the same


def drops(liquid: Floats) -> Floats:
    """[H,W] of liquid in [0,1] (0: none) to [H,W]: its light, brightest where it slopes away from the light."""
    grey = (liquid * 255).astype(np.uint8)
    depth = np.minimum(distances(edges(grey, 50, 150)), np.float32(FARTHEST))
    spread = equalised(box_mean(depth).astype(np.uint8))
    shade = np.rint(box_mean(filtered(spread, RELIEF).astype(np.float32)))
    return (grey * shade).astype(np.float32)
