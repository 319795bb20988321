"""Verifications kept on disk by content, under a limit of bytes."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmcredit.data.dropped import UnusableSample
from prm.parse import STATUSES, Verification, failed

if TYPE_CHECKING:
    from prm.verifier import Query, Verifier


class CachedVerifier:
    """Asks `inner` only what it has not been asked before: same images, question, response and version.

    Answers lie in one SQLite file that several processes may share; the least recently used go when `max_bytes` is
    passed. `prm_error` is never kept. Equal queries of one call are asked once. A file that cannot be read or written
    is a ValueError on opening; trouble later on costs calls, not answers, and is counted.
    """

    def __init__(self, inner: Verifier, path: Path, max_bytes: int = 256 * 2**20) -> None:
        if max_bytes < 1:
            raise ValueError(f"the cache needs room: max_bytes must be at least 1, got {max_bytes}")
        self.inner, self.version, self.max_bytes = inner, inner.version, max_bytes
        self.counts = {"hits": 0, "misses": 0, "evicted": 0, "broken": 0}
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
            self._file.execute("PRAGMA journal_mode=WAL")
            self._file.execute("PRAGMA synchronous=NORMAL")
            self._file.execute(
                "CREATE TABLE IF NOT EXISTS verifications (key TEXT PRIMARY KEY, value TEXT, size INTEGER, used REAL)"
            )
            self._file.execute("CREATE INDEX IF NOT EXISTS by_use ON verifications (used)")
        except (sqlite3.Error, OSError) as error:
            raise ValueError(
                f"verifier cache {str(path)!r} cannot be opened: {error}; delete it or name another"
            ) from None

    def verify(self, queries: Sequence[Query]) -> list[Verification]:
        """One verification per query; known ones have usage["cache_hits"] = 1 and no calls."""
        keys: list[str] = []
        found: dict[str, Verification] = {}
        for i, query in enumerate(queries):
            try:
                keys.append(query.key(self.version))
            except UnusableSample as error:
                keys.append(f"unreadable {i}")
                found[keys[-1]] = failed(f"image: {error}")
        with self._lock:
            known = {key: self._get(key) for key in dict.fromkeys(keys) if key not in found}
        found |= {key: value for key, value in known.items() if value is not None}
        new = {key: query for key, query in zip(keys, queries, strict=True) if key not in found}
        self.counts["hits"] += sum(value is not None for value in known.values())
        self.counts["misses"] += len(new)
        answers = self.inner.verify(list(new.values())) if new else []
        with self._lock:
            for key, answer in zip(new, answers, strict=True):
                if answer.status != "prm_error":
                    self._put(key, answer)
            self._evict()
        # A query that another of this call stands for costs nothing of its own.
        first = dict(zip(new, answers, strict=True))
        out = []
        for key in keys:
            if key in first:
                out.append(first[key])
                found[key] = replace(first[key], usage=_of_hit(first.pop(key).usage))
            else:
                out.append(found[key])
        return out

    def close(self) -> None:
        """Close the file and the inner verifier."""
        with self._lock:
            self._file.close()
        self.inner.close()

    @property
    def bytes(self) -> int:
        """Bytes of all answers kept."""
        return int(self._file.execute("SELECT COALESCE(SUM(size), 0) FROM verifications").fetchone()[0])

    def _get(self, key: str) -> Verification | None:
        try:
            row = self._file.execute("SELECT value FROM verifications WHERE key = ?", (key,)).fetchone()
            if row is None:
                return None
            found = _read(row[0])
            self._file.execute("UPDATE verifications SET used = ? WHERE key = ?", (time.time(), key))
            return found
        except (sqlite3.Error, ValueError, KeyError, TypeError):
            self.counts["broken"] += 1
            return None

    def _put(self, key: str, answer: Verification) -> None:
        value = json.dumps(asdict(answer))
        size = len(value.encode("utf-8", "surrogatepass")) + len(key)
        try:
            self._file.execute(
                "INSERT OR REPLACE INTO verifications VALUES (?, ?, ?, ?)", (key, value, size, time.time())
            )
        except sqlite3.Error:
            self.counts["broken"] += 1

    def _evict(self) -> None:
        try:
            over = self.bytes - self.max_bytes
            while over > 0:
                rows = self._file.execute("SELECT key, size FROM verifications ORDER BY used LIMIT 64").fetchall()
                for key, size in rows:
                    if over <= 0:
                        break
                    self._file.execute("DELETE FROM verifications WHERE key = ?", (key,))
                    self.counts["evicted"] += 1
                    over -= size
        except sqlite3.Error:
            self.counts["broken"] += 1


def _of_hit(usage: Mapping[str, float]) -> dict[str, float]:
    """Usage of an answer that was known: nothing spent, and what it took to make (for comparisons of methods)."""
    made = {f"cached_{name}": float(usage[name]) for name in ("new_tokens", "prompt_tokens") if name in usage}
    return {"cache_hits": 1.0, **made}


def _read(text: str) -> Verification:
    value: dict[str, Any] = json.loads(text)
    if value["status"] not in STATUSES:
        raise ValueError(f"no status: {value['status']!r}")
    places = value["places"]
    return Verification(
        strings=tuple(map(str, value["strings"])),
        status=value["status"],
        think=str(value["think"]),
        dropped=int(value["dropped"]),
        raw=str(value["raw"]),
        usage=_of_hit(value["usage"]),
        places=None if places is None else tuple((int(a), int(b)) for a, b in places),
    )
