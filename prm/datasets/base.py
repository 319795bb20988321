"""One sample of an annotated response, whatever data set it comes from."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmcredit.data.sample import Media

HALLUCINATION = "hallucination"


@dataclass(frozen=True)
class LabelledSpan:
    """Characters [start, end) of a response with a label; `text` is what stands there."""

    start: int
    end: int
    text: str
    label: str = HALLUCINATION
    score: float = 1.0


@dataclass(frozen=True)
class SpanSample:
    """A response to a question about an image, and what in it contradicts the image.

    `spans` None: only the whole response is labelled. `hallucinated` is that label; with spans it follows from them.
    """

    id: str
    image: Media | None
    question: str
    response: str
    spans: tuple[LabelledSpan, ...] | None
    hallucinated: bool
    source: str = ""
    split: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def gold(self) -> list[tuple[int, int]] | None:
        """Character ranges of the hallucinations, if they are known."""
        if self.spans is None:
            return None
        return [(span.start, span.end) for span in self.spans if span.label == HALLUCINATION]


@dataclass
class Loaded:
    """Samples, and how many rows or spans were left out for which reason, with the first place of each."""

    samples: list[SpanSample] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)

    def drop(self, reason: str, place: str) -> None:
        """Count something that cannot be used."""
        self.dropped[reason] += 1
        self.first.setdefault(reason, place)


def read_json(path: str | Path) -> Any:
    """The content of a JSON file. Raises ValueError naming it."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None


def read_rows(path: str | Path) -> list[tuple[str, Mapping[str, Any]]]:
    """(place, row) of a JSON list, a JSON lines file, or the values of a JSON object. Raises ValueError."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    try:
        whole = json.loads(text)
        rows = whole if isinstance(whole, list) else [whole]
        places = [f"{path}, item {i}" for i in range(len(rows))]
    except ValueError:
        rows, places = [], []
        for number, line in enumerate(text.splitlines(), 1):
            if not line.strip():
                continue
            try:
                rows.append(json.loads(line))
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: neither a JSON list nor JSON lines ({error})") from None
            places.append(f"{path}, line {number}")
    for place, row in zip(places, rows, strict=True):
        if not isinstance(row, Mapping):
            raise ValueError(f"{place}: an object is wanted, got {str(row)[:60]!r}")
    return list(zip(places, rows, strict=True))


def need(row: Mapping[str, Any], name: str, kind: type | tuple[type, ...], place: str) -> Any:
    """A field of a row. Raises ValueError that names the place, the field and the value."""
    value = row.get(name)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is int):
        wanted = kind.__name__ if isinstance(kind, type) else " or ".join(k.__name__ for k in kind)
        raise ValueError(f"{place}: field {name!r} must be {wanted}, got {str(value)[:60]!r}")
    return value


def image_at(images: str | Path | None, name: str) -> Media | None:
    """An image file below the folder `images`; None without a folder. Raises ValueError for a name that leaves it."""
    if images is None:
        return None
    base = Path(images).resolve()
    path = (base / name).resolve()
    if not path.is_relative_to(base):
        raise ValueError(f"image {name!r} leads out of {images}")
    return Media("image", path=path, name=name)


def from_spans(
    spans: Sequence[LabelledSpan], response: str, place: str, loaded: Loaded
) -> tuple[LabelledSpan, ...] | None:
    """The spans if each of them says what stands there; else None, counted."""
    for span in spans:
        if not 0 <= span.start < span.end <= len(response):
            loaded.drop("span outside the response", f"{place}: [{span.start}, {span.end}) of {len(response)}")
            return None
        if response[span.start : span.end] != span.text:
            loaded.drop("span text differs", f"{place}: {response[span.start : span.end]!r} is not {span.text!r}")
            return None
    return tuple(spans)


def tagged(text: str, tag: str = "hallucination") -> Iterator[tuple[str, list[tuple[int, int]]]]:
    """(text without its tags, ranges that were tagged), once; nothing if the tags do not pair up."""
    opening, closing = f"<{tag}>", f"</{tag}>"
    plain, spans, at = "", [], 0
    while True:
        start = text.find(opening, at)
        if start < 0:
            break
        end = text.find(closing, start)
        if end < 0 or text.find(opening, start + 1, end) >= 0:
            return
        plain += text[at:start]
        spans.append((len(plain), len(plain) + end - start - len(opening)))
        plain += text[start + len(opening) : end]
        at = end + len(closing)
    if closing in text[at:]:
        return
    yield plain + text[at:], spans
