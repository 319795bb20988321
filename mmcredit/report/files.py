"""Files of a run directory: written so that a kill leaves either the old or the new content, read so that it shows."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

CONFIG = "config.yaml"
VERSIONS = "versions.json"
METRICS = "metrics.jsonl"
EVALUATIONS = "evaluations.jsonl"
ANSWERS = "answers.jsonl"
EVENTS = "events.jsonl"
COST = "cost.json"
SAMPLES = "samples"
MEDIA = "media"
HEATMAPS = "heatmaps.json"
REPORT = "report.html"


def replace_file(path: Path, content: bytes | str) -> None:
    """Write beside `path`, then rename over it. Raises OSError with the partial file removed."""
    data = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with aside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError:
        aside.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """`value` as readable JSON, replaced in one move. Raises ValueError for NaN, which JSON does not have."""
    replace_file(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """The object in `path`, or {} if there is no such file. Raises ValueError that names the file."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not valid JSON ({error}); delete the file to do without it") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path}: an object is wanted, got {type(value).__name__}")
    return value


def read_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The JSON objects of a JSONL file in order, and how many lines were unreadable.

    A run that is killed in the middle of a write leaves half a line; it is left out and counted.
    """
    rows: list[dict[str, Any]] = []
    broken = 0
    if not path.is_file():
        return rows, broken
    for line in path.read_bytes().split(b"\n"):
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode("utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError):
            broken += 1
            continue
        if isinstance(row, dict):
            rows.append(row)
        else:
            broken += 1
    return rows, broken


class Lines:
    """A JSONL file that grows. On opening, half a last line and rows that will be written again are taken out.

    `keep(row)` says which rows stay; None starts an empty file. `removed` and `broken` count what went.
    """

    def __init__(self, path: Path, keep: Callable[[dict[str, Any]], bool] | None = None) -> None:
        self.path = path
        self.removed = self.broken = 0
        kept: list[dict[str, Any]] = []
        if keep is not None:
            rows, self.broken = read_lines(path)
            kept = [row for row in rows if keep(row)]
            self.removed = len(rows) - len(kept)
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, "".join(_line(row) for row in kept))
        self._file = path.open("a", encoding="utf-8", errors="backslashreplace")  # a lone surrogate is no UTF-8

    def append(self, row: Mapping[str, Any]) -> None:
        """One line, handed to the operating system at once. Raises ValueError for NaN or a value JSON does not have."""
        self._file.write(_line(row))
        self._file.flush()

    def close(self) -> None:
        """Close the file; closing twice is harmless."""
        self._file.close()


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False, allow_nan=False, separators=(", ", ": ")) + "\n"


def size_mb(folder: Path) -> float:
    """What a folder takes on disk, MiB; a file with several names counts once."""
    found = {(s.st_dev, s.st_ino): s.st_size for p in folder.rglob("*") if p.is_file() for s in (p.stat(),)}
    return sum(found.values()) / 2**20
