"""Hashes that tell sets of weights apart without reading all of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

_BLOCK, _BLOCKS = 4096, 64  # bytes of a weight file that its fingerprint reads


def folder_fingerprint(folder: Path) -> str:
    """A hash over all files of a folder.

    Small files are read whole; of a large one its size and 64 pieces spread evenly over it: training moves all
    weights, and reading all bytes of a large model would take minutes.
    """
    return _digest(p for p in folder.iterdir() if p.is_file())


def weights_fingerprint(path: str) -> str | None:
    """The same over the weight files alone; None for a hub id, and where there are none."""
    folder = Path(path)
    files = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
    return _digest(files) if files else None


def _digest(files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for file in sorted(files):
        size = file.stat().st_size
        digest.update(json.dumps([file.name, size]).encode())
        with file.open("rb") as content:
            for i in range(_BLOCKS if size > _BLOCK * _BLOCKS else 1):
                content.seek(size * i // _BLOCKS if size > _BLOCK * _BLOCKS else 0)
                digest.update(content.read(_BLOCK if size > _BLOCK * _BLOCKS else size))
    return digest.hexdigest()[:16]
