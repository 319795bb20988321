"""Noise of the sensor: new in every frame of a video."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from mmcredit.components import register
from mmcredit.corruptions.base import Floats, PixelCorruption, PublishedPixels

DIFFUSION_STEPS = 1000


@register("corruption", "gaussian_noise")
class GaussianNoise(PublishedPixels):
    """Gaussian noise: x + N(0, sigma) for every pixel and channel; sigma 0.08 0.12 0.18 0.26 0.38 of full scale.

    ImageNet-C (arXiv 1903.12261), its constants. Video: new noise in every frame.
    """

    frames: ClassVar[Literal["same", "new noise"]] = "new noise"
    SIGMA: ClassVar = (0.08, 0.12, 0.18, 0.26, 0.38)

    def corrupt(self, pixels: Floats, severity: int, drawn: Any, rng: np.random.Generator) -> Floats:
        noise = rng.standard_normal(pixels.shape, dtype=np.float32)
        return pixels + np.float32(self.SIGMA[severity - 1]) * noise


@register("corruption", "shot_noise")
class ShotNoise(PublishedPixels):
    """Shot noise: Poisson(x c) / c, as of c photons at full white; c 60 25 12 5 3.

    ImageNet-C (arXiv 1903.12261), its constants. Video: new noise in every frame.
    """

    frames: ClassVar[Literal["same", "new noise"]] = "new noise"
    PHOTONS: ClassVar = (60, 25, 12, 5, 3)

    def corrupt(self, pixels: Floats, severity: int, drawn: Any, rng: np.random.Generator) -> Floats:
        photons = self.PHOTONS[severity - 1]
        return rng.poisson(pixels * photons).astype(np.float32) / np.float32(photons)


@register("corruption", "impulse_noise")
class ImpulseNoise(PublishedPixels):
    """Salt and pepper: each channel of each pixel becomes 0 or 1 with probability 0.03 0.06 0.09 0.17 0.27 in all.

    ImageNet-C (arXiv 1903.12261), its constants. Video: new noise in every frame.
    """

    frames: ClassVar[Literal["same", "new noise"]] = "new noise"
    SHARE: ClassVar = (0.03, 0.06, 0.09, 0.17, 0.27)

    def corrupt(self, pixels: Floats, severity: int, drawn: Any, rng: np.random.Generator) -> Floats:
        share = self.SHARE[severity - 1]
        chance = rng.random(pixels.shape, dtype=np.float32)
        return np.where(chance < share / 2, np.float32(0), np.where(chance < share, np.float32(1), pixels))


@register("corruption", "speckle_noise")
class SpeckleNoise(PublishedPixels):
    """Speckle noise: x + x N(0, c) for every pixel and channel; c 0.15 0.2 0.35 0.45 0.6.

    One of ImageNet-C's four extra operators (arXiv 1903.12261), its constants. Video: new noise in every frame.
    """

    frames: ClassVar[Literal["same", "new noise"]] = "new noise"
    SCALE: ClassVar = (0.15, 0.2, 0.35, 0.45, 0.6)

    def corrupt(self, pixels: Floats, severity: int, drawn: Any, rng: np.random.Generator) -> Floats:
        noise = rng.standard_normal(pixels.shape, dtype=np.float32)
        return pixels * (1 + np.float32(self.SCALE[severity - 1]) * noise)


@lru_cache(maxsize=1)
def _signal_variance() -> np.ndarray:
    """[1000]: cumulative product of 1 - beta, beta on a sigmoid from 1e-5 to 5e-3."""
    beta = 1 / (1 + np.exp(-np.linspace(-6, 6, DIFFUSION_STEPS))) * (5e-3 - 1e-5) + 1e-5
    return np.cumprod(1 - beta)


def diffusion_level(step: int) -> tuple[float, float]:
    """(factor of the image, standard deviation of the noise) after diffusion step 0 <= step < 1000.

    (0.999989, 0.004726) at 0, (0.864103, 0.503314) at 499. Raises ValueError for another step.
    """
    if not 0 <= step < DIFFUSION_STEPS:
        raise ValueError(f"a diffusion step is a number from 0 to {DIFFUSION_STEPS - 1}, got {step!r}")
    variance = float(_signal_variance()[step])
    return variance**0.5, (1 - variance) ** 0.5


@register("corruption", "diffusion_noise")
class DiffusionNoise(PixelCorruption):
    """Noise of a diffusion step: sqrt(a_k) x + sqrt(1 - a_k) N(0, 1) on [0,1] pixels, a_k = prod_{j<=k} (1 - beta_j).

    beta_j = sigmoid(linspace(-6, 6, 1000)[j]) (5e-3 - 1e-5) + 1e-5. NoisyRollout (arXiv 2504.13055); DVRP's noised view
    is the same. The noised image gets darker, unlike with gaussian_noise. Step 0 still adds noise of 0.0047.
    `step` fixes k, whatever the severity; else k = 100 200 300 400 500 (our choice). Video: new noise in every frame.
    """

    frames: ClassVar[Literal["same", "new noise"]] = "new noise"
    STEP: ClassVar = (100, 200, 300, 400, 500)

    step: int | None = Field(default=None, ge=0, lt=DIFFUSION_STEPS, description="diffusion step k; null = by severity")

    def corrupt(self, pixels: Floats, severity: int, drawn: Any, rng: np.random.Generator) -> Floats:
        signal, noise = diffusion_level(self.STEP[severity - 1] if self.step is None else self.step)
        return np.float32(signal) * pixels + np.float32(noise) * rng.standard_normal(pixels.shape, dtype=np.float32)
