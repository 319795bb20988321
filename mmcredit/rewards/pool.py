"""Scoring responses: rewards run in worker processes that are killed when they hang."""

from __future__ import annotations

import json
import math
import sys
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from operator import mul
from pathlib import Path
from typing import Any

from mmcredit.answers.item import RewardItem
from mmcredit.rewards.base import Reward
from mmcredit.rewards.process import Chunk, Done, Unit, Worker, wait

MIN_CHUNK = 16  # items; below, a round trip costs more than cheap rewards


@dataclass(frozen=True)
class RewardResult:
    """What a batch of n responses earned. All lists have n entries, in the order of the items."""

    total: list[float]  # sum over the parts of weight * value
    parts: dict[str, list[float]]  # by part name, values before the weight; `not_applicable` where it does not apply
    applies: dict[str, list[bool]]  # by part name, False where the reward returned None
    counts: dict[str, int]  # "name/error", "name/timeout", "name/not_applicable"; by kind "name/error/raised" ...
    first_errors: list[str]  # a few of the errors and timeouts, with their sample ids


@dataclass
class _Window:
    """How many items a reward has seen, and failed on, since the last time the share of failures was judged."""

    seen: int = 0
    failed: int = 0


def part_names(rewards: Sequence[Reward]) -> list[str]:
    """A distinct name per reward: its label or its own name, with _2, _3 ... where that is taken."""
    names: list[str] = []
    for reward in rewards:
        base = reward.label or reward.name or type(reward).__name__
        name, number = base, 2
        while name in names:
            name, number = f"{base}_{number}", number + 1
        names.append(name)
    return names


class RewardPool:
    """Worker processes that score responses with a list of rewards, and survive what the rewards do.

    A worker is a light Python process (no torch) that lives over many batches. Messages are JSON. An item that takes
    longer than its reward's `timeout` gets `on_timeout`: the worker and all processes of its group are killed, a new
    one goes on with the rest. An item on which the worker dies (segmentation fault, out of memory, `os._exit`), on
    which the reward raises, or for which it returns NaN, infinity, another type or another number of values, gets
    `on_error`. None means "does not apply" and is worth 0. All of it is counted. The numbers do not depend on the
    number of workers.

    What this does not protect from. A worker is no sandbox. It runs with your user's rights: reward code can read and
    write your files, use the network, signal your other processes, read their environment through /proc, use more
    memory than the limit by starting further processes, and escape the kill by leaving the process group. Variables
    that look like credentials (TOKEN, SECRET, PASSWORD, API_KEY ...) are not handed to workers, which is hygiene, not
    isolation. Responses are only ever data here; a reward that runs code written by the model needs isolation by the
    operating system (container, virtual machine) of its own.

    Use it as a context manager, or call `close`. Workers end with the parent, also if that is killed. POSIX only.
    """

    def __init__(
        self,
        rewards: Sequence[Reward],
        workers: int = 1,
        memory_limit_mb: int | None = 4096,
        seed: int = 0,
        max_error_share: float = 0.2,
        min_items: int = 20,
        start_timeout: float = 120.0,
        keep_env: Sequence[str] = (),
        log: Path | None = None,
    ) -> None:
        """Nothing is started yet; the first `score` (or `start`) does that.

        `memory_limit_mb`: address space of a worker (RLIMIT_AS), None = no limit. `max_error_share`: above this share
        of items with an error or timeout, of at least `min_items`, `score` raises. `start_timeout`: seconds for a
        worker to import and prepare its rewards. `keep_env`: credential variables that workers get all the same.
        `log`: file to which what workers print is appended; None = the parent's stderr.

        Raises ValueError for no rewards, a number out of range, or a reward that a worker could not import.
        """
        if not rewards:
            raise ValueError("no rewards; the config needs at least one entry under rewards")
        for name, value, least in (("workers", workers, 1), ("min_items", min_items, 1)):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        if memory_limit_mb is not None and memory_limit_mb < 256:
            raise ValueError(
                f"memory_limit_mb must be at least 256 (Python itself needs it) or None, got {memory_limit_mb}"
            )
        if not 0 <= max_error_share <= 1:
            raise ValueError(f"max_error_share must be within 0 and 1, got {max_error_share}")
        self.rewards = list(rewards)
        self.names = part_names(self.rewards)
        self.max_error_share = max_error_share
        self.min_items = min_items
        setup = {
            "rewards": [_origin(reward) for reward in self.rewards],
            "names": self.names,
            "memory_limit_mb": memory_limit_mb,
            "seed": seed,
        }
        timeouts = [reward.timeout for reward in self.rewards]
        self._workers = [Worker(setup, timeouts, start_timeout, keep_env, log) for _ in range(workers)]
        self._windows = [_Window() for _ in self.rewards]
        self._lock = threading.Lock()

    def start(self) -> None:
        """Start all workers and wait until they are ready. Raises RuntimeError if one cannot prepare its rewards."""
        with self._lock, self._stop_on_error():
            for worker in self._workers:
                worker.start()
            while not all(worker.ready for worker in self._workers):
                wait(self._workers)

    def score(self, items: Sequence[RewardItem]) -> RewardResult:
        """Score a batch of responses.

        Raises RuntimeError if too many items fail or if a worker cannot be started, ValueError if an item cannot be
        written as JSON.
        """
        with self._lock, self._stop_on_error():
            tally = _Tally(self, items)
            queue = self._chunks([_as_json(item) for item in items])
            while queue or any(worker.chunk for worker in self._workers):
                for worker in self._workers:
                    if queue and worker.chunk is None:
                        worker.give(queue.popleft())
                for done in wait(self._workers):
                    tally.add(done)
            return tally.result()

    def _chunks(self, items: list[str]) -> deque[Chunk]:
        """Work in pieces: a few per worker, so that a slow piece does not leave the others idle."""
        n = len(items)
        chunks: deque[Chunk] = deque()
        if not n:
            return chunks
        whole = [i for i, reward in enumerate(self.rewards) if reward.whole_batch()]
        single = [i for i in range(len(self.rewards)) if i not in whole]
        for i in whole:
            chunks.append(Chunk(0, items, deque([Unit(i, tuple(range(n)))])))
        size = n if len(self._workers) == 1 else max(MIN_CHUNK, math.ceil(n / (4 * len(self._workers))))
        for first in range(0, n, size) if single else ():
            part = items[first : first + size]
            units = deque(Unit(i, (position,)) for i in single for position in range(first, first + len(part)))
            chunks.append(Chunk(first, part, units))
        return chunks

    @contextmanager
    def _stop_on_error(self) -> Iterator[None]:
        """Half-done work must not answer the next call: kill the workers, whatever ended this one."""
        try:
            yield
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Kill the workers. A later `score` starts new ones."""
        for worker in self._workers:
            worker.stop()

    def __enter__(self) -> RewardPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Tally:
    """What is known of one batch so far."""

    def __init__(self, pool: RewardPool, items: Sequence[RewardItem]) -> None:
        self.pool, self.items = pool, items
        self.values = [[0.0] * len(items) for _ in pool.rewards]
        self.applies = [[True] * len(items) for _ in pool.rewards]
        self.counts = {f"{name}/{kind}": 0 for name in pool.names for kind in ("error", "timeout", "not_applicable")}
        self.failed = [0] * len(pool.rewards)
        self.errors: list[tuple[int, int, str]] = []  # reward, position, message

    def add(self, done: Done) -> None:
        """Take note of a unit. Raises RuntimeError as soon as its reward has failed on too many items."""
        which = done.unit.reward
        name, reward = self.pool.names[which], self.pool.rewards[which]
        for position, outcome in zip(done.unit.positions, done.outcomes, strict=True):
            if outcome is None:
                self.applies[which][position] = False
                self.counts[f"{name}/not_applicable"] += 1
            elif isinstance(outcome, list):
                kind, message = outcome
                self.failed[which] += 1
                self.errors.append((which, position, message))
                if kind == "timeout":
                    self.values[which][position] = reward.on_timeout
                    self.counts[f"{name}/timeout"] += 1
                else:
                    self.values[which][position] = reward.on_error
                    self.counts[f"{name}/error"] += 1
                    self.counts[f"{name}/error/{kind}"] = self.counts.get(f"{name}/error/{kind}", 0) + 1
            else:
                self.values[which][position] = float(outcome)
        window = self.pool._windows[which]
        failed, seen = window.failed + self.failed[which], window.seen + len(self.items)
        if failed > self.pool.max_error_share * max(seen, self.pool.min_items):
            raise RuntimeError(
                f"reward {name!r} failed on {failed} of {seen} items, more than max_error_share="
                f"{self.pool.max_error_share:g} allows; first: {self._first_errors(which)[0]}. "
                "Mend the reward or the data, or raise max_error_share (in a run config: check.max_reward_error_share)"
            )

    def result(self) -> RewardResult:
        """The finished batch; the failures move into the window that the next batch is judged with."""
        for which, window in enumerate(self.pool._windows):
            window.seen += len(self.items)
            window.failed += self.failed[which]
            if window.seen >= self.pool.min_items:
                self.pool._windows[which] = _Window()
        weights = [reward.weight for reward in self.pool.rewards]
        return RewardResult(
            total=[math.fsum(map(mul, weights, row)) for row in zip(*self.values, strict=True)],
            parts=dict(zip(self.pool.names, map(self._part, range(len(weights))), strict=True)),
            applies=dict(zip(self.pool.names, self.applies, strict=True)),
            counts=self.counts,
            first_errors=self._first_errors(),
        )

    def _part(self, which: int) -> list[float]:
        absent = self.pool.rewards[which].not_applicable
        return [v if there else absent for v, there in zip(self.values[which], self.applies[which], strict=True)]

    def _first_errors(self, which: int | None = None, limit: int = 5) -> list[str]:
        chosen = sorted(e for e in self.errors if which is None or e[0] == which)[:limit]
        return [f"{self.pool.names[r]} on sample {self._name(position)}: {text}" for r, position, text in chosen]

    def _name(self, position: int) -> str:
        return repr(self.items[position].sample_id) if self.items[position].sample_id else f"number {position}"


def _origin(reward: Reward) -> dict[str, Any]:
    """From where a worker imports the class of a reward, and its fields."""
    cls = type(reward)
    if cls.__module__ == "__main__" or "<locals>" in cls.__qualname__:
        raise ValueError(
            f"reward {cls.__qualname__} is defined in {cls.__module__}, where no worker process can import it; "
            "put it at the top level of a module or of a --plugin file"
        )
    file = None
    if cls.__module__.startswith("mmcredit_plugin_"):
        file = str(Path(sys.modules[cls.__module__].__file__ or "").absolute())
    return {"module": cls.__module__, "file": file, "qualname": cls.__qualname__, "fields": reward.spec()[reward.name]}


def _as_json(item: RewardItem) -> str:
    try:
        return json.dumps(vars(item), default=_plain)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"sample {item.sample_id!r} cannot be handed to a reward worker: {error}; "
            "meta may hold text, numbers, lists, mappings, arrays, paths and dates"
        ) from None


def _plain(value: Any) -> Any:
    """Common types of data sets as JSON."""
    if isinstance(value, Mapping):
        return dict(value)
    if hasattr(value, "tolist"):  # numpy arrays and numbers
        return value.tolist()
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"a value of type {type(value).__name__} is not JSON")
