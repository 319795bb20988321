"""Images for the tests of corruptions, made with Pillow, and the pictures of easy-VQA."""

import hashlib

import numpy as np
from PIL import Image, ImageDraw

from mmcredit.corruptions import operator
from mmcredit.corruptions.sheet import built_in


def texture(seed, side=224):
    """Colours of moderate saturation at four scales, with text on it: what a photograph has and a shape has not."""
    rng = np.random.default_rng(seed)
    total = np.zeros((side, side, 3))
    for cells, weight in ((7, 0.4), (19, 0.3), (53, 0.2), (151, 0.1)):
        values = (rng.random((cells, cells, 3)) * 0.45 + rng.random((cells, cells, 1)) * 0.55) * 255
        layer = Image.fromarray(values.astype(np.uint8)).resize((side, side), Image.Resampling.BICUBIC)
        total += weight * np.asarray(layer, float)
    image = Image.fromarray(np.clip((total - 128) * 2 + 128, 0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(image)
    for _ in range(14):
        x, y = rng.integers(0, side - 34, 2)
        grey = int(rng.integers(0, 200))
        pen.text((int(x), int(y)), "abc 123", fill=(grey, grey // 2 + 60, 255 - grey))
    return image


def muted(image):
    """The same image with a quarter of its colour."""
    return Image.blend(image.convert("L").convert("RGB"), image, 0.25)


def noise(width, height, seed=0):
    """Independent random pixels."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def same(a, b):
    return a.size == b.size and a.mode == b.mode and a.tobytes() == b.tobytes()


def psnr(a, b):
    """Peak signal-to-noise ratio in dB."""
    error = np.mean((np.asarray(a, float) - np.asarray(b, float)) ** 2) / 255**2
    return float("inf") if error == 0 else -10 * np.log10(error)


def digest():
    """One hash over every built-in operator at every severity."""
    total = hashlib.sha256()
    image = texture(5, 48)
    for name in built_in():
        for severity in (1, 2, 3, 4, 5):
            total.update(operator(name)(image, severity, np.random.default_rng(severity)).tobytes())
    return total.hexdigest()
