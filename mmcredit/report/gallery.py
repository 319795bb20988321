"""Which samples go onto the page, and how they are packed: evenly over the steps, up to a budget of bytes."""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from mmcredit.report import files
from mmcredit.report.samples import encode_image, open_samples

MAX_STEPS = 40  # stops of the step selector
PAGE_SIDE = 512  # pixels of the longer side of an embedded image
PACKED_DIGITS = 5  # significant digits of a number on the page


@dataclass
class Gallery:
    """Samples of the page: `steps` as the script reads them, `media` as data URIs, and what was left out and why."""

    steps: list[dict[str, Any]] = field(default_factory=list)
    media: list[str | None] = field(default_factory=list)
    steps_left_out: int = 0
    groups_left_out: int = 0
    responses_left_out: int = 0
    responses: int = 0
    problems: dict[str, int] = field(default_factory=dict)  # what could not be shown -> how often
    bytes: int = 0

    def notes(self) -> list[str]:
        """Sentences for the page about everything that is not on it."""
        lines = []
        if self.steps_left_out or self.groups_left_out or self.responses_left_out:
            lines.append(
                f"To keep the page small, {self.steps_left_out} sample tables are left out, and of the tables shown "
                f"{self.groups_left_out} whole groups and {self.responses_left_out} further responses. "
                f"All of them lie in {files.SAMPLES}/."
            )
        lines += [f"{what} ({count} times)" if count > 1 else what for what, count in self.problems.items()]
        return lines


def build_gallery(run_dir: Path, sample_files: Mapping[int, Path], budget: int) -> Gallery:
    """Fill a gallery: steps evenly spread with first and last among them; then one group of each step in turn.

    `budget`: bytes of packed samples and embedded images. A group over a quarter of it loses members, last ones first.
    Nothing is chosen by content, so what is shown is what training saw. Damaged files are counted, not fatal.
    """
    gallery = Gallery()
    chosen = spread(list(sample_files), MAX_STEPS)
    gallery.steps_left_out = len(sample_files) - len(chosen)
    tables: dict[int, Any] = {}
    for step in chosen:
        try:
            tables[step] = open_samples(sample_files[step])
        except ValueError as error:
            _count(gallery, str(error).replace(f"{run_dir}/", ""))
    waiting = {step: _groups(table) for step, table in tables.items()}
    shelf = _Shelf(run_dir, gallery)
    packed: dict[int, list[dict[str, Any]]] = {step: [] for step in tables}
    for turn in range(max((len(groups) for groups in waiting.values()), default=0)):
        for step, groups in waiting.items():
            if turn >= len(groups):
                continue
            room = min(budget // 4, budget - gallery.bytes)
            # Nearly full: what is left would hold a stray short group only. Decoding all others to see costs time.
            group = tables[step].take(groups[turn]).to_pylist() if room > budget // 100 else []
            item, size = _fit(group, room, shelf) if group else (None, 0)
            if item is None:
                gallery.groups_left_out += 1
                continue
            item["media"] = [shelf.add(name) for name in group[0].get("media") or []]
            item["times"] = [short(t) for t in group[0].get("times") or []]
            item["duration"] = short(group[0].get("duration"))
            for member, row in zip(item["members"], group, strict=False):
                if row.get("inserted"):
                    member["inserted"] = [
                        {
                            "at": one["at"],
                            "count": one["count"],
                            "media": [shelf.add(name) for name in one["media"]],
                            "times": [short(t) for t in one.get("times") or []],
                        }
                        for one in row["inserted"]
                    ]
            gallery.bytes += size
            gallery.responses += len(item["members"])
            gallery.responses_left_out += len(group) - len(item["members"])
            packed[step].append(item)
    gallery.steps = [{"step": step, "groups": groups} for step, groups in packed.items() if groups]
    return gallery


def spread(steps: Sequence[int], limit: int) -> list[int]:
    """At most `limit` of the steps, evenly by position, the first and the last among them."""
    if len(steps) <= limit:
        return list(steps)
    return [steps[round(i * (len(steps) - 1) / (limit - 1))] for i in range(limit)]


def _groups(table: Any) -> list[list[int]]:
    """Row numbers of each prompt, in order of appearance; a member seen twice starts another group."""
    groups: list[list[int]] = []
    members: list[set[int]] = []
    current: dict[str, int] = {}
    pairs = zip(table["sample_id"].to_pylist(), table["member"].to_pylist(), strict=True)
    for row, (sample_id, member) in enumerate(pairs):
        place = current.get(sample_id)
        if place is None or member in members[place]:
            current[sample_id] = place = len(groups)
            groups.append([])
            members.append(set())
        groups[place].append(row)
        members[place].add(member)
    return groups


def _fit(group: list[dict[str, Any]], room: int, shelf: _Shelf) -> tuple[dict[str, Any] | None, int]:
    """The packed group with as many members as fit into `room` bytes, and its size. None if not one fits."""
    first = group[0]
    item: dict[str, Any] = {
        "id": str(first["sample_id"]),
        "question": first.get("question") or "",
        "answer": first.get("answer"),
        "size": len(group),
        "prompt": first.get("prompt") or "",
        "members": [],
    }
    size = _size(item) + sum(shelf.cost(name) for name in first.get("media") or [])
    for row in group:
        member = pack_response(row)
        more = _size(member) + sum(shelf.cost(name) for one in row.get("inserted") or [] for name in one["media"])
        if size + more > room:
            break
        item["members"].append(member)
        size += more
    return (item, size) if item["members"] else (None, 0)


def pack_response(row: Mapping[str, Any]) -> dict[str, Any]:
    """One response as the script reads it. A list whose entries are all equal is packed as that one value."""
    count = len(row["token_ids"])
    pieces = list(row["pieces"])
    text = row["response"] or ""
    packed: dict[str, Any] = {
        "member": row["member"],
        "reward": short(row["reward"]),
        "parts": {p["name"]: short(p["value"]) for p in row.get("parts") or []},
        "truncated": bool(row.get("truncated")),
        "pieces": pieces,
        "ids": list(row["token_ids"]),
        "advantage": _stream(row["advantages"]),
        "logprob": _stream(row.get("logprobs") or [None] * count),
        "mask": _constant([bool(m) for m in row.get("mask") or [True] * count]),
        "weights": {w["method"]: _stream(w["values"]) for w in row.get("weights") or []},
        "signals": {s["name"]: _stream(s["values"]) for s in row.get("signals") or []},
    }
    if row.get("windows"):
        numbers = ("start", "end", "rate")
        packed["windows"] = [{**w, **{name: short(w[name]) for name in numbers}} for w in row["windows"]]
    if row.get("verdicts"):
        packed["verdicts"] = [dict(verdict) for verdict in row["verdicts"]]
    if text.strip() not in "".join(pieces):  # pieces that are parts of characters: show the decoded text as well
        packed["text"] = text
    return packed


def short(value: float | None) -> float | None:
    """A float with few digits, an int where it is one; None for NaN and infinity, which JSON does not have."""
    if value is None or not math.isfinite(value):
        return None
    value = float(f"{value:.{PACKED_DIGITS}g}")
    return int(value) if value.is_integer() and abs(value) < 1e15 else value


def _stream(values: Sequence[float | None]) -> Any:
    return _constant([short(value) for value in values])


def _constant(values: list[Any]) -> Any:
    return values[0] if values and all(value == values[0] for value in values) else values


def _size(value: Any) -> int:
    return len(json.dumps(value, ensure_ascii=True, separators=(",", ":")))


def _count(gallery: Gallery, what: str) -> None:
    gallery.problems[what] = gallery.problems.get(what, 0) + 1


class _Shelf:
    """Images of the page, each embedded once."""

    def __init__(self, run_dir: Path, gallery: Gallery) -> None:
        self.folder = Path(run_dir) / files.MEDIA
        self.gallery = gallery
        self._uris: dict[str, str | None] = {}
        self._places: dict[str, int] = {}

    def cost(self, name: str) -> int:
        """Bytes that showing this image would add."""
        return 0 if name in self._places else len(self._uri(name) or "")

    def add(self, name: str) -> int:
        """The image's place in `Gallery.media`."""
        if name not in self._places:
            self._places[name] = len(self.gallery.media)
            self.gallery.media.append(self._uri(name))
        return self._places[name]

    def _uri(self, name: str) -> str | None:
        if name not in self._uris:
            self._uris[name] = self._read(name)
        return self._uris[name]

    def _read(self, name: str) -> str | None:
        path = self.folder / name
        if name in ("", ".", "..") or Path(name).name != name or path.is_symlink():
            _count(self.gallery, f"image name {name!r} is not a plain file name in {files.MEDIA}/")
            return None
        try:
            data = path.read_bytes()
            with Image.open(io.BytesIO(data)) as image:
                kind = image.format
                if kind not in ("PNG", "JPEG") or max(image.size) > PAGE_SIDE:
                    data, suffix = encode_image(image, PAGE_SIDE)
                    kind = "PNG" if suffix == ".png" else "JPEG"
        except FileNotFoundError:
            _count(self.gallery, f"image {name} is missing from {files.MEDIA}/")
            return None
        except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
            _count(self.gallery, f"image {name} cannot be read ({type(error).__name__})")
            return None
        return f"data:image/{kind.lower()};base64,{base64.b64encode(data).decode('ascii')}"
