"""The published corruptions on a folder of PNG pictures; run by `diff_corruptions.py` in the reference's interpreter.

    REFERENCE/bin/python scripts/reference_corruptions.py FOLDER DRAWS [ROBUSTNESS]

Writes FOLDER/PICTURE-port-NAME-SEVERITY.npy, [draws,H,W,3] uint8, by `imagecorruptions`; with a checkout of
hendrycks/robustness also PICTURE-first-..., by its `imagenet_c`, for pictures of 224 x 224. An operator that fails is
named on stderr and left out.
"""

import importlib
import sys
import types
from pathlib import Path

import numpy as np
from PIL import Image

SAME_EVERY_TIME = {
    *("gaussian_blur", "defocus_blur", "zoom_blur", "contrast", "brightness", "saturate", "jpeg_compression"),
    "pixelate",
}


def old_names() -> None:
    """Names that the packages import and newer releases of their libraries moved."""
    import scipy.ndimage
    import skimage.filters

    moved = types.ModuleType("scipy.ndimage.interpolation")
    moved.map_coordinates = scipy.ndimage.map_coordinates
    sys.modules.setdefault("scipy.ndimage.interpolation", moved)
    if not hasattr(np, "float_"):
        np.float_ = np.float64
    gaussian = skimage.filters.gaussian

    def with_old_argument(image, *arguments, multichannel=None, **named):
        if multichannel:
            named["channel_axis"] = -1
        return gaussian(image, *arguments, **named)

    skimage.filters.gaussian = with_old_argument


def run(source: str, package, folder: Path, draws: int) -> None:
    names = list(package.corruption_dict)
    for number, picture in enumerate(sorted(folder.glob("*.png"))):
        pixels = np.asarray(Image.open(picture).convert("RGB"))
        if source == "first" and pixels.shape != (224, 224, 3):
            continue
        for name in names:
            for severity in range(1, 6):
                found = []
                try:
                    for draw in range(1 if name in SAME_EVERY_TIME else draws):
                        np.random.seed(100_000 * number + 10 * draw + severity)
                        found.append(np.uint8(package.corrupt(pixels, severity, name)))
                except Exception as error:  # a missing library of one operator must not end the others
                    print(f"{source} {name}: {type(error).__name__}: {str(error)[:90]}", file=sys.stderr)
                    break
                np.save(folder / f"{picture.stem}-{source}-{name}-{severity}.npy", np.stack(found))


def main() -> None:
    folder, draws = Path(sys.argv[1]), int(sys.argv[2])
    old_names()
    run("port", importlib.import_module("imagecorruptions"), folder, draws)
    if len(sys.argv) > 3:
        sys.path.insert(0, str(Path(sys.argv[3]) / "ImageNet-C" / "imagenet_c"))
        run("first", importlib.import_module("imagenet_c"), folder, draws)


if __name__ == "__main__":
    main()
