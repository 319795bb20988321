"""The neutral format: JSON lines with character spans (RAGTruth's keys, or our own)."""

from __future__ import annotations

import base64
import binascii
import json
import shutil
from collections.abc import Iterable
from pathlib import Path

from mmcredit.data.media import content_key
from mmcredit.data.sample import Media
from prm.datasets.base import LabelledSpan, Loaded, SpanSample, from_spans, image_at, need, read_rows


def load_spans(path: str, images: str | None = None) -> Loaded:
    """Rows with question (or prompt), response (or answer), spans (or labels: start, end, text, label), image, meta.

    `image` is a file name below `images`, or a data URI. Without `images` a name is looked for beside the file itself.
    """
    loaded = Loaded()
    for number, (place, row) in enumerate(read_rows(path)):
        response = need(row, "response" if "response" in row else "answer", str, place)
        marks = need(row, "spans" if "spans" in row else "labels", list, place)
        spans = [
            LabelledSpan(
                need(mark, "start", int, place),
                need(mark, "end", int, place),
                mark.get("text", response[mark["start"] : mark["end"]]),
                mark.get("label", "hallucination"),
            )
            for mark in marks
        ]
        kept = from_spans(spans, response, place, loaded)
        if kept is None:
            continue
        question = str(row.get("question", row.get("prompt", "")))
        image = _image(row.get("image"), images, Path(path), place)
        if image is None and row.get("image"):
            loaded.drop("image (no such file; the field 'images' names the folder)", f"{place}: {row['image']}")
        name, meta = str(row.get("id", f"{Path(path).stem}/{number}")), row.get("meta") or {}
        bad = any(span.label == "hallucination" for span in kept)
        source, split = str(row.get("source", Path(path).stem)), str(row.get("split", ""))
        loaded.samples.append(SpanSample(name, image, question, response, kept, bad, source, split, meta))
    return loaded


def save_spans(samples: Iterable[SpanSample], path: Path) -> None:
    """Write samples so that `load_spans` reads them back, wherever the folder is moved to.

    Images with bytes go in as data URIs; files are copied, each once, into the folder `images` beside the file. Raises
    ValueError for one that cannot be read.
    """
    with path.open("w", encoding="utf-8") as file:
        for sample in samples:
            row = {
                "id": sample.id,
                "question": sample.question,
                "response": sample.response,
                "spans": [
                    {"start": s.start, "end": s.end, "text": s.text, "label": s.label} for s in sample.spans or ()
                ],
                "source": sample.source,
                "split": sample.split,
                "meta": dict(sample.meta),
                "image": _saved(sample.image, path.parent),
            }
            file.write(json.dumps(row) + "\n")


def _saved(image: Media | None, folder: Path) -> str | None:
    if image is None or image.path is None:
        data = None if image is None else image.data
        return None if data is None else f"data:image/png;base64,{base64.b64encode(data).decode()}"
    name = f"images/{content_key(image)[:24]}{image.path.suffix}"
    if not (folder / name).is_file():
        (folder / "images").mkdir(exist_ok=True)
        shutil.copyfile(image.path, folder / name)
    return name


def _image(value: object, images: str | None, file: Path, place: str) -> Media | None:
    if not isinstance(value, str) or not value:
        return None
    if value.startswith("data:"):
        try:
            return Media("image", data=base64.b64decode(value.partition(",")[2], validate=True), name=place)
        except binascii.Error as error:
            raise ValueError(f"{place}: image is no base64 data URI ({error})") from None
    if images is None:
        beside = (file.parent / value).resolve()
        inside = beside.is_relative_to(file.parent.resolve()) and beside.is_file()
        return Media("image", path=beside, name=value) if inside else None
    return image_at(images, value)
