"""A media value as data sets write it (bytes, path, struct, data URI, picture) -> `Media`."""

from __future__ import annotations

import base64
import binascii
import io
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from PIL import Image, ImageOps

from mmcredit.data.dropped import UnusableSample
from mmcredit.data.media import MediaLimits, decode_data_uri, is_encoded, resolve
from mmcredit.data.sample import VIDEO_OPTIONS, Media

Kind = Literal["image", "video"]

_A = {"image": "an image", "video": "a video"}
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]+")
_BASE64_FROM = 48  # characters, whole groups of four; every image is longer


def to_media(value: Any, kind: Kind, place: str, sample: str, limits: MediaLimits, folder: Path | None = None) -> Media:
    """One media value of a row: {bytes, path}, {path}, encoded bytes, a path, base64 text, a data URI, a PIL image.

    A path lies below the root; it may start at `folder`, that of the data file, too. `place` says where in the row the
    value stands ("images[0]"), `sample` is the sample's name; both appear in messages. A struct with bytes is taken by
    its bytes, its path is a name only. Raises ValueError.
    """
    what = f"{place} of sample {sample}"
    if isinstance(value, Mapping):
        return _from_struct(value, kind, place, sample, limits, folder)
    if isinstance(value, bytes | bytearray | memoryview):
        return Media(kind, data=bytes(value), name=what)
    if isinstance(value, str) and value[:5].lower() == "data:":
        return Media(kind, data=decode_data_uri(value, limits.max_bytes, what), name=what)
    if isinstance(value, str) and _is_base64(value):
        return Media(kind, data=_decoded(value, what), name=what)
    if isinstance(value, str | Path):
        path = resolve(limits.root, value, f"{sample}, {place},", folder)
        return Media(kind, path=path, name=f"{str(value)!r} of sample {sample}")
    if isinstance(value, Image.Image) and kind == "image":
        return Media(kind, data=_encoded(value), name=what)
    if isinstance(value, list | tuple) and kind == "video" and value:
        frames = [to_media(item, "image", f"{place}[{i}]", sample, limits, folder) for i, item in enumerate(value)]
        return Media("video", frames=tuple(frames), name=what)
    if isinstance(value, list | tuple):
        raise UnusableSample(f"{what} is a list of {len(value)}; an image is one file", "media malformed")
    raise UnusableSample(
        f"{what} is {_shown(value)}; {_A[kind]} is bytes, a path, {{bytes, path}} or a data URI", "media malformed"
    )


def _is_base64(text: str) -> bool:
    """Whether a text is encoded content: these letters alone, and decoded it begins as an image or video does."""
    if len(text) < _BASE64_FROM or not _BASE64.fullmatch(text[:_BASE64_FROM]):
        return False
    return is_encoded(_decoded(text[:_BASE64_FROM], "media"))


def _decoded(text: str, what: str) -> bytes:
    plain = "".join(text.split()).translate(str.maketrans("-_", "+/"))
    try:
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise UnusableSample(f"{what} is not valid base64: {error}", "media damaged") from None


def _from_struct(
    value: Mapping[str, Any], kind: Kind, place: str, sample: str, limits: MediaLimits, folder: Path | None
) -> Media:
    what = f"{place} of sample {sample}"
    known = ("bytes", "base64", "path", "url", kind, f"{kind}_url", "detail")
    given = {key: item for key, item in value.items() if item is not None and key != "detail"}
    if given.get("type") in (kind, f"{kind}_url"):  # a part of a message, as it stands there
        del given["type"]
    if kind == "video" and (options := {key: given.pop(key) for key in VIDEO_OPTIONS if key in given}):
        for key, number in options.items():
            if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
                raise UnusableSample(f"{what}: {key} must be a number, got {_shown(number)}", "media malformed")
        return replace(_from_struct(given, kind, place, sample, limits, folder), options=options)
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise UnusableSample(
            f"{what} has keys {unknown} that are not used; known: {', '.join(known)}", "media malformed"
        )
    if isinstance(given.get("bytes"), str) and given["bytes"][:5].lower() != "data:":
        # JSON holds no bytes: a text in their place is their base64.
        given["base64"] = given.pop("bytes")
    if "bytes" in given:
        media = to_media(given["bytes"], kind, place, sample, limits)
        name = given.get("path")
        return replace(media, name=f"{name!r} of sample {sample}" if name else what)
    if "base64" in given:
        if not isinstance(given["base64"], str):
            raise UnusableSample(f"{what} is not valid base64: {_shown(given['base64'])}", "media damaged")
        return Media(kind, data=_decoded(given["base64"], what), name=what)
    sources = [key for key in (kind, f"{kind}_url", "path", "url") if key in given]
    if len(sources) != 1:
        raise UnusableSample(
            f"{what} names {sources or 'no content'}; {_A[kind]} is given by exactly one of bytes, path",
            "media malformed",
        )
    return to_media(given[sources[0]], kind, place, sample, limits, folder)


def _encoded(image: Image.Image) -> bytes:
    """A lossless encoding of a decoded picture, upright."""
    upright = ImageOps.exif_transpose(image)
    buffer = io.BytesIO()
    png = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
    upright.save(buffer, format="PNG" if image.mode in png else "TIFF")
    return buffer.getvalue()


def _shown(value: Any) -> str:
    return "null" if value is None else f"{type(value).__name__} {str(value)[:40]!r}"
