"""Ends a run of several processes when one of them stalls, and says where each of them was.

A rank that hangs (or is stopped) leaves the others waiting in an exchange for ever. Each rank has a thread that counts
its signs of life into the store that the ranks share; each looks at all counts. A rank that shows none for `limit`
seconds, and is not itself waiting for others, has stalled; so has the run if all wait. Then every rank prints the
stacks of its threads and exits.
"""

from __future__ import annotations

import faulthandler
import itertools
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmcredit.world import World

LOADING = 1800.0  # seconds without a sign of life that are borne until the first step is done
EXIT_CODE = 75  # EX_TEMPFAIL: run it again


class Watchdog:
    """Watches the ranks of a run. `beat` at every sign of life; `waiting` around every exchange."""

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.beats = 0
        self.number = 0
        self.depth = 0  # of exchanges that this rank waits in
        self.stage = "start"
        self.stepped = False  # libraries are loaded and compiled on the way to the end of the first step
        self._ended = threading.Event()

    def start(self, world: World) -> None:
        """Watch from now on, in a thread. Nothing to watch in a world of one."""
        if world.size == 1:
            return
        self.number = next(_numbers)
        current.append(self)
        thread = threading.Thread(target=self._watch, args=(world.rank, world.size), name="watchdog", daemon=True)
        thread.start()

    def beat(self, stage: str | None = None) -> None:
        """A sign of life, and the stage that the rank is in."""
        self.beats += 1
        self.stage = stage or self.stage

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around an exchange with other ranks."""
        self.depth += 1
        try:
            yield
        finally:
            self.depth -= 1
            self.beats += 1

    def stop(self) -> None:
        """The run has ended."""
        self._ended.set()

    def _watch(self, rank: int, size: int) -> None:
        import torch.distributed as dist

        store = dist.PrefixStore(f"watchdog{self.number}", dist.distributed_c10d._get_default_store())
        seen: dict[int, tuple[str, float]] = {}
        pause = min(1.0, self.limit / 10)
        while not self._ended.wait(pause):
            try:
                own = {"beats": self.beats, "waits": self.depth > 0, "stage": self.stage, "time": time.time()}
                own["stepped"] = self.stepped
                store.set(f"rank{rank}", json.dumps(own))
                if store.check(["verdict"]):
                    _end(rank, self.stage, store.get("verdict").decode())
                states = {r: json.loads(store.get(f"rank{r}")) for r in range(size) if store.check([f"rank{r}"])}
            except (RuntimeError, ValueError) as error:  # the store has gone with the process that held it
                if not self._ended.is_set():
                    _end(rank, self.stage, f"the other processes of the run are gone ({type(error).__name__})")
                return
            if found := self._stalled(states, seen, size):
                store.set("verdict", found)

    def _stalled(self, states: dict[int, dict[str, Any]], seen: dict[int, tuple[str, float]], size: int) -> str | None:
        """What has stalled, if anything has. `seen`: the last sign of each rank, and when it was new here."""
        now = time.monotonic()
        limit = self.limit if all(s["stepped"] for s in states.values()) else max(self.limit, LOADING)
        idle: list[int] = []
        for rank, state in states.items():
            # A stopped process does not even write that it waits: its own clock stands still.
            sign = json.dumps([state["beats"], state["time"] if state["waits"] else 0])
            if seen.get(rank, ("", 0.0))[0] != sign:
                seen[rank] = (sign, now)
            elif now - seen[rank][1] > limit:
                idle.append(rank)
        everyone = json.dumps([state["beats"] for state in states.values()])
        if seen.get(-1, ("", 0.0))[0] != everyone:
            seen[-1] = (everyone, now)
        if idle:
            where = ", ".join(f"rank {r} in stage {states[r]['stage']!r}" for r in idle)
            return f"{where} showed no progress for {limit:g} s; the run goes on with --resume"
        if len(states) == size and now - seen[-1][1] > limit and all(s["waits"] for s in states.values()):
            return f"all ranks have waited for each other for {limit:g} s; the run goes on with --resume"
        return None


_numbers = itertools.count()  # of the runs of one process, the same on every rank
current: list[Watchdog] = []  # the one of this process, for `beat`


def beat(stage: str | None = None) -> None:
    """A sign of life of this process, if it is watched."""
    for watchdog in current:
        watchdog.beat(stage)


def step_done() -> None:
    """This process has finished a step."""
    for watchdog in current:
        watchdog.stepped = True


def stop() -> None:
    """The run of this process has ended in good order."""
    for watchdog in current:
        watchdog.stop()
    current.clear()


def _end(rank: int, stage: str, why: str) -> None:
    """Print the stacks of this process and leave it: its main thread may never return."""
    sys.stderr.write(f"rank {rank} (stage {stage!r}): ending the run: {why}\n")
    faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
    sys.stderr.flush()
    os._exit(EXIT_CODE)
