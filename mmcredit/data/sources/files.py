"""Data files from paths, folders and patterns, and their short names."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class DataFile:
    """A data file, and what its samples' ids start with: its path below the folder that all files share."""

    path: Path
    name: str


def expand(patterns: str | Sequence[str], suffixes: Sequence[str]) -> list[DataFile]:
    """The files that `patterns` name: files, folders (all files with one of `suffixes` below), or glob patterns.

    Sorted within a pattern, each file once. Raises ValueError if a pattern matches nothing.
    """
    found: dict[Path, None] = {}
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        path = Path(pattern).expanduser()
        if path.is_file():
            matches = [path]
        elif path.is_dir():
            matches = sorted(p for p in path.rglob("*") if p.suffix in suffixes and p.is_file())
        else:
            matches = sorted(Path(p) for p in glob.glob(str(path), recursive=True) if Path(p).is_file())
        if not matches:
            raise ValueError(f"path {pattern!r}: no such file, and no {' or '.join(suffixes)} file matches it")
        found.update(dict.fromkeys(matches))
    return named(found)


def named(paths: Iterable[Path]) -> list[DataFile]:
    """Give each file a name without machine-dependent parts: its path below the folder that all share."""
    files = list(paths)
    if not files:
        return []
    shared = os.path.commonpath([os.path.abspath(path.parent) for path in files])
    return [DataFile(path, Path(os.path.relpath(os.path.abspath(path), shared)).as_posix()) for path in files]
