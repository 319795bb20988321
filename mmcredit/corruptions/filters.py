"""Convolution, resampling and random height maps on numpy arrays, for images of any size from 1x1 up."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from PIL import Image

from mmcredit.corruptions.base import Floats

# numpy's names: "edge" repeats the border pixel, "reflect" mirrors without it, "symmetric" mirrors with it.
Border = Literal["edge", "reflect", "symmetric"]


def fast_length(length: int) -> int:
    """The smallest number >= `length` without prime factors above 5: sizes at which the Fourier transform is quick."""
    best = 1 << (length - 1).bit_length()
    fives = 1
    while fives < best:
        threes = fives
        while threes < best:
            need = -(-length // threes)
            best = min(best, threes << (need - 1).bit_length())
            threes *= 3
        fives *= 5
    return best


def correlate(pixels: Floats, kernel: Floats, border: Border = "edge") -> Floats:
    """out[y,x] = sum of kernel[i,j] * pixels[y+i-r, x+j-s]; [H,W] or [H,W,C] in and out, odd kernel sides 2r+1, 2s+1.

    By Fourier transform: the cost hardly depends on the kernel.
    """
    assert kernel.ndim == 2, kernel.shape
    assert all(side % 2 for side in kernel.shape), kernel.shape
    if kernel.size == 1:
        return (pixels * kernel[0, 0]).astype(np.float32)
    if pixels.ndim == 3:
        channels = [correlate(pixels[..., c], kernel, border) for c in range(pixels.shape[2])]
        return np.stack(channels, axis=-1)
    height, width = pixels.shape
    up, left = kernel.shape[0] // 2, kernel.shape[1] // 2
    padded = np.pad(pixels.astype(np.float32), ((up, up), (left, left)), mode=border)
    shape = (fast_length(padded.shape[0]), fast_length(padded.shape[1]))
    # Wrap-around of the transform only reaches rows and columns that are cut off below.
    product = np.fft.rfft2(padded, shape)
    product *= np.conj(np.fft.rfft2(kernel.astype(np.float32), shape))
    return np.fft.irfft2(product, shape)[:height, :width].astype(np.float32)


def gaussian_weights(sigma: float, truncate: float = 4.0) -> Floats:
    """Normalised weights at -r..r, r = truncate * sigma rounded; one weight of 1 for sigma near 0."""
    radius = int(truncate * sigma + 0.5)
    if radius == 0:
        return np.ones(1, np.float32)
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    return (weights / weights.sum()).astype(np.float32)


def gaussian(
    pixels: Floats, sigma: float | tuple[float, float], border: Border = "edge", truncate: float = 4.0
) -> Floats:
    """Gaussian blur of [H,W] or [H,W,C]; `sigma` in pixels, one number or (down, across)."""
    down, across = sigma if isinstance(sigma, tuple) else (sigma, sigma)
    return correlate(pixels, np.outer(gaussian_weights(down, truncate), gaussian_weights(across, truncate)), border)


def disk(radius: int, alias: float, normalised: bool = True) -> Floats:
    """Disk of `radius` pixels with sum 1, its edge softened by a Gaussian of `alias` pixels (ImageNet-C's defocus).

    Where the disk touches the border of its array (radius 8 and more) softening adds 1 %: left in if not `normalised`.
    """
    half = max(8, radius)
    y, x = np.mgrid[-half : half + 1, -half : half + 1]
    sharp = (x**2 + y**2 <= radius**2).astype(np.float32)
    steps = np.arange(-2, 3) if radius > 8 else np.arange(-1, 2)
    weights = np.exp(-0.5 * (steps / alias) ** 2)
    weights /= weights.sum()
    soft = correlate(sharp, np.outer(weights, weights).astype(np.float32), "reflect")
    return soft / (soft.sum() if normalised else sharp.sum())


def one_sided_line(radius: int, sigma: float, degrees: float) -> Floats:
    """Kernel of 2 * radius + 1 weights proportional to exp(-i^2 / 2 sigma^2), the i-th i pixels along `degrees`."""
    steps = np.arange(2 * radius + 1)
    weights = np.exp(-0.5 * (steps / sigma) ** 2)
    weights /= weights.sum()
    down = np.rint(steps * math.sin(math.radians(degrees))).astype(int)
    across = np.rint(steps * math.cos(math.radians(degrees))).astype(int)
    up, left = int(np.abs(down).max()), int(np.abs(across).max())
    kernel = np.zeros((2 * up + 1, 2 * left + 1))
    np.add.at(kernel, (up + down, left + across), weights)
    return kernel.astype(np.float32)


def remap(pixels: Floats, rows: Floats, columns: Floats, repeat: bool = True) -> Floats:
    """Bilinear samples of [H,W,C] at the given places (each [h,w], in pixels), mirrored beyond the border.

    The mirror stands outside the border pixels, which are repeated; with `repeat` False in them.
    """
    height, width = pixels.shape[:2]
    top, left = np.floor(rows), np.floor(columns)
    down, across = (rows - top)[..., None], (columns - left)[..., None]
    y0, x0 = top.astype(np.int64), left.astype(np.int64)
    y1, x1 = _mirror(y0 + 1, height, repeat), _mirror(x0 + 1, width, repeat)
    y0, x0 = _mirror(y0, height, repeat), _mirror(x0, width, repeat)
    upper = pixels[y0, x0] * (1 - across) + pixels[y0, x1] * across
    lower = pixels[y1, x0] * (1 - across) + pixels[y1, x1] * across
    return (upper * (1 - down) + lower * down).astype(np.float32)


def _mirror(index: np.ndarray, length: int, repeat: bool) -> np.ndarray:
    """... 1 0 | 0 1 2 ... length-1 | length-1 ...; without `repeat` ... 2 1 | 0 1 2 ... length-1 | length-2 ..."""
    if not repeat:
        period = max(1, 2 * (length - 1))
        index = index % period
        return np.minimum(index, period - index)
    index = index % (2 * length)
    return np.minimum(index, 2 * length - 1 - index)


def centre_box(size: tuple[int, int], zoom: float) -> tuple[float, float, float, float]:
    """(left, top, right, bottom) of the middle 1/zoom of an image of `size` = (width, height)."""
    width, height = size
    left, top = (width - width / zoom) / 2, (height - height / zoom) / 2
    return left, top, width - left, height - top


def stretched_middle(pixels: Floats, zoom: float) -> Floats:
    """The middle 1/zoom of [H,W,C] in whole pixels, enlarged so that its corners stay corners; at most [H,W,C].

    What imagecorruptions does with scipy's zoom: for want of a pixel the result may be smaller than the image.
    """
    places = []
    for length in pixels.shape[:2]:
        part = math.ceil(length / zoom)
        enlarged = round(part * zoom)
        step = (part - 1) / (enlarged - 1) if enlarged > 1 else 0.0
        places.append((length - part) // 2 + np.arange(min(length, enlarged)) * step)
    rows, columns = np.meshgrid(*places, indexing="ij")
    return remap(pixels, rows, columns)


def resized(layer: Floats, size: tuple[int, int]) -> Floats:
    """[H,W] brought to `size` = (width, height) bilinearly."""
    image = Image.fromarray(np.ascontiguousarray(layer, dtype=np.float32))
    return np.asarray(image.resize(size, Image.Resampling.BILINEAR))


def height_map(size: tuple[int, int], decay: float, rng: np.random.Generator) -> Floats:
    """[height, width] in [0,1] by diamond-square on a torus, on the next power of two (2 or more), cut to `size`.

    The jolt of a level is uniform in +-wibble^2 as in ImageNet-C, whose wibble starts at 100 and is divided by `decay`
    per level: decay 2 quarters the roughness per level.
    """
    width, height = size
    side = max(2, 1 << (max(width, height) - 1).bit_length())
    grid = np.zeros((side, side))
    step, wibble = side, 100.0

    def jolt(shape: tuple[int, ...]) -> np.ndarray:
        return rng.uniform(-(wibble**2), wibble**2, shape)

    while step >= 2:
        half = step // 2
        corners = grid[::step, ::step]
        beside = corners + np.roll(corners, -1, axis=1)
        centres = (beside + np.roll(beside, -1, axis=0)) / 4
        centres = centres + jolt(centres.shape)
        grid[half::step, half::step] = centres
        # Each remaining point has two corners and two centres around it.
        across = corners + np.roll(corners, -1, axis=1) + centres + np.roll(centres, 1, axis=0)
        grid[::step, half::step] = across / 4 + jolt(across.shape)
        down = corners + np.roll(corners, -1, axis=0) + centres + np.roll(centres, 1, axis=1)
        grid[half::step, ::step] = down / 4 + jolt(down.shape)
        step, wibble = half, wibble / decay
    grid -= grid.min()
    return (grid[:height, :width] / max(float(grid.max()), 1e-12)).astype(np.float32)
