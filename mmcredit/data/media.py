"""Images and videos of a data set: where they may come from, how large they may be, how an image becomes RGB.

Files are read only below one declared folder (`data.media.root`), by real path: no "..", no absolute path or symbolic
link that leads out. Sizes are checked before anything is decoded. Remote addresses are refused.
"""

from __future__ import annotations

import base64
import binascii
import difflib
import hashlib
import io
import json
import os
import re
import warnings
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from PIL import Image, ImageOps
from pydantic import BaseModel, ConfigDict, Field

from mmcredit.data.dropped import UnusableSample
from mmcredit.data.sample import Media
from mmcredit.yaml_values import Kind

# Decoders that Pillow carries itself. Its full list includes formats that start other programs (EPS: Ghostscript).
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")

_MOST_NAMES = 10_000  # files of a folder among which a missing name is looked for
_REMOTE = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+://")


class MediaLimits(BaseModel):
    """Where media files may lie and how large they may be."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    root: Path | None = Field(default=None, description="folder below which all media files lie")
    # 178,956,970 is where Pillow itself refuses to open an image.
    max_pixels: int = Field(default=50_000_000, gt=0, le=178_956_970, description="width times height of an image")
    max_bytes: int = Field(default=64 * 2**20, gt=0, description="encoded size of one image or video file")
    min_side: int = Field(default=2, gt=0, description="shorter side of an image, pixels")
    # The Qwen-VL image processors raise beyond 200:1.
    max_aspect_ratio: float = Field(default=200.0, ge=1, description="longer side divided by the shorter one")
    video: Annotated[str | dict[str, Any] | None, Kind("video")] = Field(
        default=None, description="how a video becomes frames; none = the one way that is installed"
    )
    allow_remote: Literal[False] = Field(
        default=False, description="addresses are never fetched: download the files first"
    )


def resolve(root: Path | None, name: str | Path, sample: str = "", folder: Path | None = None) -> Path:
    """The real path of the media file that a data set calls `name`, which must lie below `root`.

    A name may also start at `folder`, that of the data file, if that lies below the root; without a root, `folder` is
    the root. Backslashes are separators where no file has that very name. `sample` is the sample's name, for the
    message. Raises ValueError for a remote address, a path that leaves the root (by "..", absolute, or through a
    symbolic link), a missing file, and anything that is not a plain file.
    """
    declared = root is not None or folder is None
    root = root if declared else folder

    text = str(name)
    where = f"media file {text!r}" + (f" of sample {sample}" if sample else "")
    if text.lower().startswith("file://"):
        text = text[len("file://") :]
    elif _REMOTE.match(text):
        raise UnusableSample(
            f"{where} is a remote address; it is not fetched: download it below data.media.root", "media remote"
        )
    if not text.strip() or "\0" in text:
        raise UnusableSample(f"{where} is no usable file name", "media missing")
    if root is None:
        raise UnusableSample(
            f"{where}: no media folder is declared; set data.media.root to the folder that holds it",
            "media root not set",
        )
    if re.match(r"[A-Za-z]:[/\\]", text):
        raise UnusableSample(
            f"{where} is an absolute Windows path; name it relative to data.media.root ({root})",
            "media outside the root",
        )
    if ".." in re.split(r"[/\\]", text):
        raise UnusableSample(
            f"{where} contains '..'; name it relative to data.media.root ({root})", "media outside the root"
        )
    # RuntimeError: Python 3.11 and 3.12 report a loop of symbolic links so, later versions as OSError.
    try:
        base = Path(root).expanduser().resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise UnusableSample(f"data.media.root {str(root)!r} cannot be opened: {error}", "media root not set") from None
    spellings = dict.fromkeys((text, text.replace("\\", "/")))
    places = [base / each for each in spellings]
    if folder is not None and (beside := folder.expanduser().resolve()).is_relative_to(base):
        places += [beside / each for each in spellings]
    missing = ""
    for candidate in places:
        try:
            real = candidate.resolve(strict=True)
        except (OSError, RuntimeError) as error:
            reason = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be opened ({error})"
            missing = missing or reason  # the first place is the one to name
            continue
        if not real.is_relative_to(base):
            raise UnusableSample(
                f"{where} leads out of data.media.root ({root}); copy it there or set data.media.root",
                "media outside the root",
            )
        if not real.is_file():
            raise UnusableSample(f"{where} is not a file (data.media.root is {root})", "media missing")
        return real
    below = f"data.media.root ({root})" if declared else f"{root}, the folder of the data file; set data.media.root"
    raise UnusableSample(f"{where} {missing} below {below}{_alike(base, places)}", "media missing")


def _alike(base: Path, places: list[Path]) -> str:
    """What may have been meant by a name that is not there: without white space, in another case, one folder less."""
    for place in places:
        parts = place.relative_to(base).parts if place.is_relative_to(base) else ()
        shorter = [base.joinpath(*parts[start:]) for start in range(1, len(parts))]
        for candidate in (place.with_name(place.name.strip() or place.name), *shorter):
            if candidate != place and candidate.is_file():
                return f"; {candidate.relative_to(base).as_posix()!r} does"
        folder = place.parent
        if folder.is_dir() and folder.resolve().is_relative_to(base):
            there = [each.name for each in islice(folder.iterdir(), _MOST_NAMES) if each.is_file()]
            meant = _nearest_file(place.name, there)
            if meant is not None:
                return f"; did you mean {os.path.relpath(folder / meant, base)!r}?"
    return ""


def _nearest_file(name: str, there: list[str]) -> str | None:
    """Another case or ending of a name, or a slip of the pen in its stem."""
    for same in (str.casefold, lambda each: Path(each).stem.casefold()):
        found = next((each for each in there if same(each) == same(name)), None)
        if found is not None:
            return found
    stems = {Path(each).stem: each for each in there if Path(each).suffix.casefold() == Path(name).suffix.casefold()}
    close = difflib.get_close_matches(Path(name).stem, stems, n=1, cutoff=0.75)
    return stems[close[0]] if close else None


_BEGINNINGS = (b"\x89PNG\r\n", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*", b"\x1aE\xdf\xa3")


def is_encoded(data: bytes) -> bool:
    """Whether bytes begin as the content of an image or video file does."""
    return data.startswith(_BEGINNINGS) or data[4:8] == b"ftyp"  # the latter: MP4 and its relatives


def label(media: Media) -> str:
    """What to call a media item in a message."""
    content = f"of {len(media.data)} bytes" if media.data is not None else ""
    return f"{media.kind} {media.name or media.path or content}"


def decode_data_uri(text: str, max_bytes: int, what: str) -> bytes:
    """The content of a ``data:image/png;base64,...`` address. Raises ValueError naming `what`."""
    header, comma, body = text.partition(",")
    if not comma or not header.lower().endswith(";base64"):
        raise UnusableSample(f"{what} is a data URI without base64 content: {text[:40]!r}", "media damaged")
    if len(body) // 4 * 3 > max_bytes + 3:
        raise UnusableSample(
            f"{what} holds about {len(body) // 4 * 3} bytes, more than data.media.max_bytes={max_bytes}",
            "media too large",
        )
    try:
        return base64.b64decode(body, validate=True)
    except binascii.Error as error:
        raise UnusableSample(f"{what} is not valid base64: {error}", "media damaged") from None


def read_bytes(media: Media, limits: MediaLimits) -> bytes:
    """The encoded content of an image or video. Raises ValueError if it is unreadable, empty or above `max_bytes`."""
    if media.data is not None:
        data = media.data
    else:
        assert media.path is not None
        try:
            with media.path.open("rb") as file:
                data = file.read(limits.max_bytes + 1)
        except OSError as error:
            raise UnusableSample(f"{label(media)} cannot be read: {error}", "media missing") from None
    if not data:
        raise UnusableSample(f"{label(media)} is empty (0 bytes)", "media damaged")
    if len(data) > limits.max_bytes:
        raise UnusableSample(
            f"{label(media)} has more bytes than data.media.max_bytes={limits.max_bytes}", "media too large"
        )
    return data


_CONTENTS = (
    (re.compile(rb"version https://git-lfs"), "is a pointer of Git LFS, not the file: fetch it (git lfs pull)"),
    (
        re.compile(rb"\s*(?:<\?xml[^>]*>\s*)?(?:<!--.{0,500}?-->\s*)?(?:<!DOCTYPE svg|<svg)", re.S | re.I),
        "is an SVG drawing",
    ),
    (re.compile(rb"\s*<(?:!doctype html|html|\?xml|head|body)", re.I), "is a page of HTML or XML"),
    (re.compile(rb"....ftyp(?:hei|hev|mif1|msf1)", re.S), "is a HEIC picture"),
    (re.compile(rb"....ftypavi", re.S), "is an AVIF picture"),
    (re.compile(rb"....ftyp", re.S), "is a video"),
    (re.compile(rb"%PDF"), "is a PDF document"),
    (re.compile(rb"PK\x03\x04|\x1f\x8b"), "is a packed archive"),
    (re.compile(rb"\x00\x00\x00\x0cjP  "), "is a JPEG 2000 picture"),
    (re.compile(rb"\x00\x00\x01\x00"), "is an icon"),
)


def _unlike_an_image(data: bytes) -> str:
    """What bytes are that no decoder knows, by how they begin."""
    named = next((name for pattern, name in _CONTENTS if pattern.match(data[:1000])), None)
    return named or f"is damaged or unknown (it begins with {data[:12]!r})"


def content_key(media: Media) -> str:
    """SHA-256 of the encoded content, hexadecimal: equal for equal bytes, wherever they lie. The options of a video
    and the keys of its frames are hashed with it."""
    if media.options or media.frames:
        content = [content_key(frame) for frame in media.frames] or [content_key(replace(media, options={}))]
        text = json.dumps([content, sorted(media.options.items())])
        return hashlib.sha256(text.encode()).hexdigest()
    if media.data is not None:
        return hashlib.sha256(media.data).hexdigest()
    assert media.path is not None
    try:
        with media.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UnusableSample(f"{label(media)} cannot be read: {error}", "media missing") from None


def load_image(media: Media, limits: MediaLimits) -> Image.Image:
    """Decode an image to RGB, 8 bits a channel, as a viewer would show it.

    EXIF orientation is applied, transparency is laid on white, 16-bit grey is scaled to 8 bits (a transparent colour of
    a 16-bit grey image is ignored), of an animation the first frame is taken (with a warning, and `info["frames"]` says
    how many there were). Colour profiles are not applied. Raises ValueError naming the file and its sample: too large
    or too small by its header (nothing is decoded then), unknown format, 32-bit channels, damaged or cut-off content.
    """
    if media.kind != "image":
        raise UnusableSample(f"{label(media)} is not an image", "media malformed")
    data = read_bytes(media, limits)
    # Decoders meet hostile bytes here and raise whatever they like (OSError, SyntaxError, struct.error, ...).
    try:
        opened = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise UnusableSample(
            f"{label(media)} has more pixels than data.media.max_pixels={limits.max_pixels}: {error}", "media too large"
        ) from error
    except Exception as error:
        raise UnusableSample(
            f"{label(media)} {_unlike_an_image(data)}; wanted is one of {', '.join(FORMATS)}", "media damaged"
        ) from error
    with opened:
        _check_size(opened.size, label(media), limits)
        deep = opened.mode == "I" and opened.format in ("PNG", "PPM")  # 16 bits, held in 32
        if opened.mode in ("I", "F") and not deep:
            raise UnusableSample(
                f"{label(media)} has 32 bits a channel (mode {opened.mode!r}) of unknown range; save it with 8 or 16",
                "media malformed",
            )
        try:
            # MPO: a JPEG of a telephone with a preview or depth picture behind it; no animation.
            frames = 1 if opened.format == "MPO" else int(getattr(opened, "n_frames", 1))
            opened.load()
            image = _to_rgb(ImageOps.exif_transpose(opened))
        except Exception as error:
            raise UnusableSample(
                f"{label(media)} is damaged or cut off and cannot be decoded: {error}", "media damaged"
            ) from error
    if frames > 1:
        warnings.warn(f"{label(media)} has {frames} frames; only the first is used", stacklevel=2)
    image.info = {"frames": frames}
    return image


def _check_size(size: tuple[int, int], name: str, limits: MediaLimits) -> None:
    width, height = size
    if width * height > limits.max_pixels:
        raise UnusableSample(
            f"{name} has {width}x{height} pixels, more than data.media.max_pixels={limits.max_pixels}",
            "media too large",
        )
    if min(size) < limits.min_side:
        raise UnusableSample(
            f"{name} has {width}x{height} pixels, a side below data.media.min_side={limits.min_side}", "media too small"
        )
    if max(size) > limits.max_aspect_ratio * min(size):
        raise UnusableSample(
            f"{name} has {width}x{height} pixels, beyond data.media.max_aspect_ratio={limits.max_aspect_ratio}",
            "media too narrow",
        )


def _to_rgb(image: Image.Image) -> Image.Image:
    """RGB from any mode of 1, 8 or 16 bits a channel."""
    if image.mode.startswith("I"):
        # Pillow's own conversion cuts off at 255 instead of scaling.
        grey = np.asarray(image).astype(np.uint32)
        return Image.fromarray(((grey + 128) // 257).astype(np.uint8), "L").convert("RGB")
    if image.has_transparency_data:
        with_alpha = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, with_alpha).convert("RGB")
    return image.convert("RGB")
