"""One seed derives all others."""

from __future__ import annotations

import hashlib


def derive(seed: int, *path: str | int) -> int:
    """A 63-bit seed for one purpose: the same (seed, path) gives the same number on every machine and Python.

    Numbers and texts are kept apart (``1`` and ``"1"`` differ), so that two paths cannot meet by accident.
    """
    text = repr((seed, *path)).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1
