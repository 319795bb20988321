"""Our image corruptions against the published ones, grey level by grey level where nothing is random.

    python scripts/diff_corruptions.py --python REFERENCE/bin/python --markdown OUT.md

`--python`: an interpreter with `imagecorruptions==1.1.2` (images of any size), and for ImageNet-C's own functions,
which take 224 x 224 only, also Wand and `--official FOLDER`, a checkout of hendrycks/robustness. They want old
releases (numpy 1.23, scipy 1.10, scikit-image 0.20, opencv-python-headless 4.7, setuptools below 70), hence another
interpreter; it runs `scripts/reference_corruptions.py` and knows nothing of mmcredit. No code of theirs is used here.

Operators without chance: mean and largest distance between their image and ours, in grey levels. Operators with chance:
each draws its own numbers, so what is compared is how far the corrupted image is from the clean one (mean absolute
distance, averaged over draws), ours divided by theirs, with the standard error of that ratio.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from mmcredit.corruptions import IMAGENET_C, IMAGENET_C_EXTRA, SEVERITIES, Corruption, operator
from mmcredit.corruptions.base import Published

THEIR_NAMES = {"elastic": "elastic_transform", "jpeg": "jpeg_compression"}
WITHOUT_CHANCE = (
    *("gaussian_blur", "defocus_blur", "zoom_blur", "contrast", "brightness", "saturate", "jpeg", "pixelate"),
)
SIZES = ((224, 224), (320, 200), (150, 260))  # width, height


def photograph(seed: int, size: tuple[int, int]) -> Image.Image:
    """Colours at five scales, discs and letters: flat places, slopes and edges, black and white."""
    rng = np.random.default_rng(seed)
    total = np.zeros((size[1], size[0], 3))
    for cells, weight in ((3, 0.4), (8, 0.25), (21, 0.2), (60, 0.15)):
        coarse = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        total += weight * np.asarray(coarse.resize(size, Image.Resampling.BICUBIC), float)
    picture = Image.fromarray(np.clip((total - 128) * 2.2 + 128, 0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(picture)
    for _ in range(8):
        x, y, radius = rng.integers(0, size[0]), rng.integers(0, size[1]), rng.integers(5, 40)
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=tuple(rng.integers(0, 256, 3).tolist()))
        pen.text((int(rng.integers(0, size[0] - 40)), int(rng.integers(0, size[1] - 12))), "Label 42", fill=(0, 0, 0))
    return picture


def ours(name: str, published: bool, source: str, frost: Path | None) -> Corruption:
    """Our operator, as published or as it is by itself."""
    fields: dict[str, object] = {}
    if published and isinstance(operator(name), Published):
        fields["published"] = True
    if published and name == "frost" and frost is not None:
        fields["textures"] = str(frost)
    if published and name == "elastic" and source == "first":
        fields["constants"] = "data_set"
    return operator({name: fields})


def theirs(arguments: argparse.Namespace, folder: Path, draws: int) -> None:
    """Run the reference on every picture in `folder`; it writes one array per picture, operator and severity."""
    command = [arguments.python, str(Path(__file__).with_name("reference_corruptions.py")), str(folder), str(draws)]
    subprocess.run([*command, *([str(arguments.official)] if arguments.official else [])], check=True)


def compare(arguments: argparse.Namespace, folder: Path, source: str, published: bool) -> list[str]:
    """The rows of one table."""
    rows = []
    for name in (*IMAGENET_C, *IMAGENET_C_EXTRA):
        corruption = ours(name, published, source, arguments.frost)
        rows.append(f"| {name} | " + " | ".join(_cell(corruption, folder, source, name, s) for s in SEVERITIES) + " |")
    return rows


def _cell(corruption: Corruption, folder: Path, source: str, name: str, severity: int) -> str:
    """One operator at one severity."""
    apart: list[float] = []
    largest = 0.0
    mean, squared = {"ours": 0.0, "theirs": 0.0}, {"ours": 0.0, "theirs": 0.0}
    for number, picture in enumerate(sorted(folder.glob("*.png"))):
        file = folder / f"{picture.stem}-{source}-{THEIR_NAMES.get(name, name)}-{severity}.npy"
        if not file.exists():
            continue
        image = Image.open(picture).convert("RGB")
        clean = np.asarray(image, float)
        reference = np.load(file, allow_pickle=False).astype(float)  # [draws,H,W,3]
        mine = np.stack(
            [
                np.asarray(corruption(image, severity, np.random.default_rng([number, draw, severity])), float)
                for draw in range(len(reference))
            ]
        )
        if name in WITHOUT_CHANCE:
            apart.append(float(np.abs(mine - reference).mean()))
            largest = max(largest, float(np.abs(mine - reference).max()))
        # Errors come from the draws of one picture: how much pictures differ is the same on both sides.
        for side, images in (("ours", mine), ("theirs", reference)):
            per_draw = np.abs(images - clean).mean(axis=(1, 2, 3))
            mean[side] += per_draw.mean()
            squared[side] += per_draw.var(ddof=1) / len(per_draw) if len(per_draw) > 1 else 0.0
    if not mean["theirs"]:
        return "-"
    if name in WITHOUT_CHANCE:
        return f"{np.mean(apart):.2f} ({largest:.0f})"
    ratio = mean["ours"] / mean["theirs"]
    error = ratio * np.sqrt(sum(squared[side] / mean[side] ** 2 for side in mean))
    return f"{ratio:.3f} ± {error:.3f}"


def main() -> None:
    """Make pictures, corrupt them twice, print tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", required=True, help="interpreter of the reference")
    parser.add_argument("--official", type=Path, help="checkout of hendrycks/robustness")
    parser.add_argument("--frost", type=Path, help="folder with frost1.png to frost5.jpg, for `frost` as published")
    parser.add_argument("--draws", type=int, default=8, help="draws per picture of operators with chance")
    parser.add_argument("--pictures", type=int, default=2, help="pictures per size")
    parser.add_argument("--markdown", type=Path, help="where the tables go")
    arguments = parser.parse_args()
    lines: list[str] = []
    with tempfile.TemporaryDirectory() as kept:
        folder = Path(kept)
        for size in SIZES:
            for number in range(arguments.pictures):
                photograph(number, size).save(folder / f"{size[0]}x{size[1]}-{number}.png")
        theirs(arguments, folder, arguments.draws)
        for source, title in (("port", "imagecorruptions 1.1.2"), ("first", "ImageNet-C's own functions")):
            if not any(folder.glob(f"*-{source}-*.npy")):
                continue
            for published in (False, True):
                lines += [
                    f"### {title}, ours {'with `published: true`' if published else 'as they are'}",
                    "",
                    "| operator | " + " | ".join(f"severity {s}" for s in SEVERITIES) + " |",
                    "|---|" + "---|" * len(SEVERITIES),
                    *compare(arguments, folder, source, published),
                    "",
                ]
    print("\n".join(lines))
    if arguments.markdown:
        arguments.markdown.write_text("\n".join(lines))


if __name__ == "__main__":
    main()
