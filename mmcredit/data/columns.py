"""Which column of a row plays which part, and what is kept of the others."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any, Literal

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, model_validator

from mmcredit.components import nearest
from mmcredit.data.dropped import UnusableSample
from mmcredit.data.media import is_encoded

Part = Literal["prompt", "images", "videos", "answer"]

# In order of preference. TRL: prompt, messages, image, images, solution. EasyR1: prompt or problem, images, videos,
# answer. verl: prompt, images, videos, reward_model.ground_truth. LLaVA: conversations, image.
KNOWN: dict[Part, tuple[str, ...]] = {
    "prompt": ("prompt", "problem", "question", "messages", "conversations"),
    "images": ("images", "image"),
    "videos": ("videos", "video"),
    "answer": ("answer", "ground_truth", "reward_model.ground_truth", "solution"),
}


class Columns(BaseModel):
    """Names of the columns, where they differ from the known ones. A dot enters a nested column."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompt: str | None = Field(
        default=None, description="question, or chat messages; else prompt, problem, question, messages, conversations"
    )
    images: str | None = Field(default=None, description="one image or a list; else images, image")
    videos: str | None = Field(default=None, description="one video or a list; else videos, video")
    answer: str | None = Field(
        default=None, description="reference answer; else answer, ground_truth, reward_model.ground_truth, solution"
    )
    id: str | None = Field(default=None, description="unique id of a sample; else the file name and the row number")

    @model_validator(mode="after")
    def _each_column_once(self) -> Columns:
        named = [name for part, name in self if part != "id" and name is not None]
        twice = sorted({name for name in named if named.count(name) > 1})
        if twice:
            raise ValueError(f"column {twice[0]!r} cannot play two parts")
        return self


def find(row: Mapping[str, Any], name: str) -> Any:
    """The value of column `name`, or of the nested ``a.b``. Raises KeyError."""
    if name in row:
        return row[name]
    head, dot, rest = name.partition(".")
    inner = row.get(head) if dot else None
    if isinstance(inner, str) and inner.lstrip()[:1] == "{":  # a nested column stored as its JSON text
        try:
            inner = json.loads(inner)
        except (ValueError, RecursionError):
            inner = None
    if isinstance(inner, Mapping):
        return find(inner, rest)
    raise KeyError(name)


def get(row: Mapping[str, Any], name: str) -> Any:
    """`find`, or None."""
    try:
        return find(row, name)
    except KeyError:
        return None


def check(columns: Columns, available: Iterable[str], where: str) -> None:
    """Raise ValueError, listing the columns that are there, if a named one or every known prompt column is missing."""
    present = list(available)
    for part, name in columns:
        if name is not None and name not in present and name.partition(".")[0] not in present:
            raise ValueError(f"{where} has no column {name!r} (columns.{part}); {listing(name, present)}")
    if columns.prompt is None and not set(KNOWN["prompt"]) & set(present):
        raise ValueError(
            f"{where} has no prompt column ({', '.join(KNOWN['prompt'])}); name it in columns.prompt; "
            f"{listing('prompt', present, meant('prompt', present))}"
        )


# What other data sets call the parts; never taken without a word.
_ELSEWHERE: dict[Part, tuple[str, ...]] = {
    "prompt": ("query", "instruction", "question_text", "text", "input", "user", "conversation", "dialog"),
    "images": ("img", "picture", "image_path", "image_file", "images_path"),
    "videos": ("clip", "video_path"),
    "answer": ("label", "target", "gold", "reference", "output", "response", "gt", "correct_answer", "final_answer"),
}


def meant(part: Part, present: Iterable[str]) -> str | None:
    """The column that may play `part`, by its name: another case, a slip of the pen, or what others call it."""
    names = {name.casefold().replace(" ", "_"): name for name in present}
    for known in (*KNOWN[part], *_ELSEWHERE[part]):
        if known in names:
            return names[known]
    for known in KNOWN[part]:
        close = difflib.get_close_matches(known, names, n=1, cutoff=0.8)
        if close:
            return names[close[0]]
    return None


def listing(name: str, present: Iterable[str], guess: str | None = None) -> str:
    """The columns that are there, for a message, with the nearest to `name` or `guess`."""
    columns = sorted(present)
    if guess is not None:
        return f"columns there: {', '.join(columns)}; did you mean {guess!r}?"
    hint = nearest(name, columns)
    suffix = "; " + hint if hint.startswith("did you mean") else ""
    return f"columns there: {', '.join(columns) or 'none'}{suffix}"


def pick(row: Mapping[str, Any], columns: Columns, part: Part, where: str) -> tuple[str | None, Any]:
    """(name, value) of the column that plays `part`; (None, None) if no known column has a value.

    Raises ValueError if the column that the config names is not in this row, or if two known media columns are filled.
    """
    chosen: str | None = getattr(columns, part)
    if chosen is not None:
        try:
            return chosen, find(row, chosen)
        except KeyError:
            raise UnusableSample(
                f"{where} has no column {chosen!r} (columns.{part}); {listing(chosen, row)}", "column missing"
            ) from None
    filled = [(name, value) for name in KNOWN[part] if not is_empty(value := get(row, name))]
    if part in ("images", "videos") and len(filled) > 1:
        names = " and ".join(name for name, _ in filled)
        raise UnusableSample(f"{where} has both {names}; say in columns.{part} which one to use", "media malformed")
    return filled[0] if filled else (None, None)


def is_empty(value: Any) -> bool:
    """None, "", NaN or an empty list: a column without a value in this row.

    NaN is how pandas writes a missing value.
    """
    return value is None or is_nan(value) or (isinstance(value, str | list | tuple) and len(value) == 0)


def is_nan(value: Any) -> bool:
    """Whether a value is the number NaN."""
    return isinstance(value, float | np.floating | Decimal) and value != value


_MEDIA_FILE = re.compile(r"\.(png|jpe?g|webp|gif|bmp|tiff?|ppm|mp4|mkv|mov|webm|avi)$", re.IGNORECASE)


def media_like(row: Mapping[str, Any]) -> list[str]:
    """The columns whose value looks like an image or a video: file names, data URIs, encoded bytes, pictures."""
    return [str(name) for name, value in row.items() if _is_media(value)]


def _is_media(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return bool(value) and all(_is_media(item) for item in value)
    if isinstance(value, Mapping):
        return any(_is_media(value.get(key)) for key in ("bytes", "path", "image", "url"))
    if isinstance(value, str):
        text = value.strip()
        return bool(_MEDIA_FILE.search(text)) or text[:11].lower() in ("data:image/", "data:video/")
    if isinstance(value, bytes | bytearray | memoryview):
        return is_encoded(bytes(value[:16]))
    return isinstance(value, Image.Image)


def plain(value: Any) -> Any:
    """`value` as JSON can hold it: no NaN; bytes and pictures as a short description, dates and decimals as text."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return None if value != value else value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [plain(item) for item in value]
    if isinstance(value, np.generic | np.ndarray):
        return plain(value.tolist())
    if isinstance(value, bytes | bytearray | memoryview):
        return f"<{len(value)} bytes>"
    if isinstance(value, Image.Image):
        return f"<image {value.width}x{value.height}>"
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, Decimal | timedelta):
        return str(value)
    return repr(value)
