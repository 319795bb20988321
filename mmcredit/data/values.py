"""A media value as data sets write it (bytes, path, struct, data URI, picture) -> `Media`."""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from PIL import Image, ImageOps

from mmcredit.data.dropped import UnusableSample
from mmcredit.data.media import MediaLimits, decode_data_uri, resolve
from mmcredit.data.sample import Media

Kind = Literal["image", "video"]


def to_media(value: Any, kind: Kind, place: str, sample: str, limits: MediaLimits) -> Media:
    """One media value of a row: {bytes, path}, {path}, encoded bytes, a path below the root, a data URI, a PIL image.

    `place` says where in the row it stands ("images[0]"), `sample` is the sample's id; both appear in messages. A
    struct with bytes is taken by its bytes, its path is a name only. Raises ValueError.
    """
    what = f"{place} of sample {sample}"
    if isinstance(value, Mapping):
        return _from_struct(value, kind, place, sample, limits)
    if isinstance(value, bytes | bytearray | memoryview):
        return Media(kind, data=bytes(value), name=what)
    if isinstance(value, str) and value[:5].lower() == "data:":
        return Media(kind, data=decode_data_uri(value, limits.max_bytes, what), name=what)
    if isinstance(value, str | Path):
        return Media(kind, path=resolve(limits.root, value, sample), name=f"{str(value)!r} of sample {sample}")
    if isinstance(value, Image.Image) and kind == "image":
        return Media(kind, data=_encoded(value), name=what)
    if isinstance(value, list | tuple):
        raise UnusableSample(
            f"{what} is a list of {len(value)}; a {kind} is one file (lists of frames are not supported)",
            "media malformed",
        )
    raise UnusableSample(
        f"{what} is {_shown(value)}; a {kind} is bytes, a path, {{bytes, path}} or a data URI", "media malformed"
    )


def _from_struct(value: Mapping[str, Any], kind: Kind, place: str, sample: str, limits: MediaLimits) -> Media:
    what = f"{place} of sample {sample}"
    known = ("bytes", "base64", "path", "url", kind, f"{kind}_url", "detail")
    given = {key: item for key, item in value.items() if item is not None and key != "detail"}
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise UnusableSample(
            f"{what} has keys {unknown} that are not used; known: {', '.join(known)}", "media malformed"
        )
    if "bytes" in given:
        media = to_media(given["bytes"], kind, place, sample, limits)
        name = given.get("path")
        return Media(kind, path=media.path, data=media.data, name=f"{name!r} of sample {sample}" if name else what)
    if "base64" in given:
        try:
            return Media(kind, data=base64.b64decode(given["base64"], validate=True), name=what)
        except (binascii.Error, ValueError, TypeError) as error:
            raise UnusableSample(f"{what} is not valid base64: {error}", "media damaged") from None
    sources = [key for key in (kind, f"{kind}_url", "path", "url") if key in given]
    if len(sources) != 1:
        raise UnusableSample(
            f"{what} names {sources or 'no content'}; a {kind} is given by exactly one of bytes, path",
            "media malformed",
        )
    return to_media(given[sources[0]], kind, place, sample, limits)


def _encoded(image: Image.Image) -> bytes:
    """A lossless encoding of a decoded picture, upright."""
    upright = ImageOps.exif_transpose(image)
    buffer = io.BytesIO()
    png = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
    upright.save(buffer, format="PNG" if image.mode in png else "TIFF")
    return buffer.getvalue()


def _shown(value: Any) -> str:
    return "null" if value is None else f"{type(value).__name__} {str(value)[:40]!r}"
