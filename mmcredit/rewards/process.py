"""One worker process of a reward pool, seen from the parent: start, feed, watch the clock, kill."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
import time
import weakref
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

# `-P` keeps files of the working directory from shadowing modules; the parent's own search path is set instead.
_START = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from mmcredit.rewards.worker import main; main()"
_CREDENTIAL = re.compile(r"TOKEN|SECRET|PASSW|CREDENTIAL|API_?KEY|ACCESS_?KEY|PRIVATE_?KEY|AUTH", re.IGNORECASE)
_READ_BYTES = 1 << 16
MAX_FALSE_STARTS = 3
_HINTS = {
    signal.SIGKILL: ", perhaps out of memory",
    signal.SIGXCPU: ", more than two threads busy for all of the reward's timeout",
}


class Unit(NamedTuple):
    """One call of one reward: its number, and the positions in the batch of the items that it gets."""

    reward: int
    positions: tuple[int, ...]


class Done(NamedTuple):
    """A finished unit and an outcome for each of its items: a number, None, or [kind, message]."""

    unit: Unit
    outcomes: list[Any]


@dataclass
class Chunk:
    """Work that one worker gets in one message: consecutive items of the batch as JSON texts, and units over them."""

    first: int  # position in the batch of the first item
    items: list[str]
    units: deque[Unit]

    def message(self) -> bytes:
        units = [[unit.reward, *(position - self.first for position in unit.positions)] for unit in self.units]
        return f'{{"items":[{",".join(self.items)}],"units":{json.dumps(units)}}}\n'.encode()


class Worker:
    """A worker process that is started when there is work, and started again after it had to be killed."""

    def __init__(
        self,
        setup: Mapping[str, Any],
        timeouts: Sequence[float],
        start_timeout: float,
        keep_env: Sequence[str],
        log: Path | None,
    ) -> None:
        self.setup, self.timeouts, self.start_timeout, self.log = setup, timeouts, start_timeout, log
        self.keep_env = frozenset(keep_env)
        self.chunk: Chunk | None = None
        self.ready = False
        self.begun = False  # it has the chunk and works on the first of the units left
        self._false_starts = 0  # times in a row that it died with a chunk before it had begun
        self.deadline = float("inf")  # monotonic seconds at which what it does now has taken too long
        self._running: list[subprocess.Popen[bytes]] = []  # none or one; shared with the finalizer
        self._outgoing = memoryview(b"")
        self._incoming = b""
        weakref.finalize(self, _kill, self._running, os.getpid())

    @property
    def pid(self) -> int | None:
        """Process id, None if it is not running."""
        return self._running[0].pid if self._running else None

    @property
    def busy(self) -> bool:
        """It has work, or is on its way to be ready."""
        return self.chunk is not None or (bool(self._running) and not self.ready)

    def start(self) -> None:
        """Start the process if it is not running (any more). It reports by itself when it is ready."""
        if self._running and self._running[0].poll() is None:
            return
        self.stop(keep_chunk=True)
        command = [sys.executable, "-P", "-c", _START, json.dumps([path or os.getcwd() for path in sys.path])]
        log = None if self.log is None else open(self.log, "ab")  # noqa: SIM115  # closed below, the child has a copy
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                bufsize=0,
                start_new_session=True,  # its own process group: what a reward starts is killed with it
                env=worker_environment(os.environ, self.setup["seed"], self.keep_env),
            )
        finally:
            if log is not None:
                log.close()
        self._running.append(process)
        assert process.stdin is not None
        assert process.stdout is not None
        os.set_blocking(process.stdin.fileno(), False)
        self._outgoing = memoryview(json.dumps(self.setup).encode() + b"\n")
        self.deadline = time.monotonic() + self.start_timeout

    def give(self, chunk: Chunk) -> None:
        """Hand it a chunk; it must have none."""
        assert self.chunk is None
        self.chunk = chunk
        self.start()
        if self.ready:
            self._send_chunk()

    def stop(self, keep_chunk: bool = False) -> None:
        """Kill the process and all of its group."""
        _kill(self._running, os.getpid())
        self.ready, self.begun, self.deadline = False, False, float("inf")
        self._outgoing, self._incoming = memoryview(b""), b""
        if not keep_chunk:
            self.chunk = None

    def _send_chunk(self) -> None:
        assert self.chunk is not None
        self.begun = False
        assert not self._outgoing
        self._outgoing = memoryview(self.chunk.message())
        self.deadline = time.monotonic() + self.start_timeout

    def _restart_clock(self) -> None:
        timeout = self.timeouts[self.chunk.units[0].reward] if self.chunk else float("inf")
        self.deadline = time.monotonic() + timeout

    def _descriptors(self) -> list[tuple[int, int]]:
        if not self._running:
            return []
        process = self._running[0]
        assert process.stdin is not None
        assert process.stdout is not None
        found = [(process.stdout.fileno(), select.POLLIN)]
        if self._outgoing:
            found.append((process.stdin.fileno(), select.POLLOUT))
        return found

    def _write(self) -> None:
        """Pass on what the pipe takes. A closed pipe shows up as the end of the results as well."""
        pipe = self._running[0].stdin
        assert pipe is not None
        try:
            self._outgoing = self._outgoing[os.write(pipe.fileno(), self._outgoing) :]
        except BlockingIOError:
            return
        except BrokenPipeError:
            self._outgoing = memoryview(b"")

    def _read(self) -> list[Done]:
        pipe = self._running[0].stdout
        assert pipe is not None
        data = os.read(pipe.fileno(), _READ_BYTES)
        if not data:
            return self._died()
        *lines, self._incoming = (self._incoming + data).split(b"\n")
        done: list[Done] = []
        for line in lines:
            try:
                message = json.loads(line)
            except ValueError:
                raise RuntimeError(
                    f"a reward worker sent {line[:200]!r} in place of a result; "
                    "reward code must not write to file descriptors that it has not opened"
                ) from None
            if isinstance(message, dict):
                self._report(message)
                continue
            assert self.chunk is not None, "a result without a chunk"
            unit = self.chunk.units.popleft()
            assert len(message[1]) == len(unit.positions), "a worker answers every item of a unit"
            done.append(Done(unit, message[1]))
            if not self.chunk.units:
                self.chunk = None
        if lines and self.begun:
            self._restart_clock()
        return done

    def _report(self, message: Mapping[str, Any]) -> None:
        if "failed" in message:
            raise RuntimeError(f"a reward cannot be prepared in its worker process: {message['failed']}")
        if "begun" in message:
            self.begun, self._false_starts = True, 0
            return
        self.ready = True
        if self.chunk is not None:
            self._send_chunk()

    def _died(self) -> list[Done]:
        process = self._running[0]
        was_ready, had_begun = self.ready, self.begun
        _await_exit(process.pid)
        self.stop(keep_chunk=True)
        code = process.returncode
        if code is not None and code < 0:
            number = signal.Signals(-code)
            how = f"killed by {number.name}{_HINTS.get(number, '')}"
        else:
            how = f"exit code {code}"
        if not was_ready:
            raise RuntimeError(f"a reward worker ended while starting ({how}); what it printed is in its log or above")
        if not had_begun:  # it was killed between two chunks, which is no item's doing
            self._false_starts += 1
            if self._false_starts > MAX_FALSE_STARTS:
                raise RuntimeError(
                    f"a reward worker died {self._false_starts} times in a row on reading its items ({how}); "
                    "if they are large, raise memory_limit_mb"
                )
            if self.chunk is not None:
                self.start()
            return []
        return self._give_up_unit("died", f"the worker process died ({how})")

    def _expire(self) -> list[Done]:
        was_ready, had_begun = self.ready, self.begun
        self.stop(keep_chunk=True)
        if not had_begun:
            raise RuntimeError(
                f"a reward worker {'did not read its items' if was_ready else 'was not ready'} within "
                f"start_timeout={self.start_timeout:g} s; raise it if a reward loads something large"
            )
        assert self.chunk is not None
        seconds = self.timeouts[self.chunk.units[0].reward]
        return self._give_up_unit("timeout", f"no value after timeout={seconds:g} s; the worker was killed")

    def _give_up_unit(self, kind: str, message: str) -> list[Done]:
        """The unit that was being worked on is lost; the rest of the chunk goes to a new process."""
        if self.chunk is None:
            return []
        unit = self.chunk.units.popleft()
        if self.chunk.units:
            self.start()
        else:
            self.chunk = None
        return [Done(unit, [[kind, message]] * len(unit.positions))]


def wait(workers: Sequence[Worker]) -> list[Done]:
    """Block until a worker reports, dies or runs out of time; the units that got finished, if any.

    Raises RuntimeError if a worker cannot be started.
    """
    active = [worker for worker in workers if worker.busy]
    if not active:
        return []
    seconds = min(worker.deadline for worker in active) - time.monotonic()
    ready = _poll(active, max(seconds, 0.0))
    if not ready:
        ready = _poll(active, 0.0)  # this process may have slept past the deadline while the answer lay in the pipe
    done: list[Done] = []
    for worker in active:
        events = ready.get(worker, 0)
        if events & select.POLLOUT:
            worker._write()
        if events & select.POLLIN:
            done += worker._read()
        elif time.monotonic() >= worker.deadline:
            done += worker._expire()
    return done


def _poll(workers: Sequence[Worker], seconds: float) -> dict[Worker, int]:
    poll, owner = select.poll(), {}
    for worker in workers:
        for descriptor, events in worker._descriptors():
            owner[descriptor] = (worker, events)
            poll.register(descriptor, events)
    found: dict[Worker, int] = {}
    for descriptor, _ in poll.poll(seconds * 1000 + 1):  # whole milliseconds, rounded up; any event counts as asked for
        worker, events = owner[descriptor]
        found[worker] = found.get(worker, 0) | events
    return found


def worker_environment(environment: Mapping[str, str], seed: int, keep: frozenset[str]) -> dict[str, str]:
    """The environment of a worker: without what looks like a credential, one thread per library, a fixed hash seed."""
    kept = {name: value for name, value in environment.items() if name in keep or not _CREDENTIAL.search(name)}
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        kept.setdefault(name, "1")
    kept["PYTHONHASHSEED"] = str(seed % 2**32)  # sets of strings iterate in the same order in all workers
    return kept


def _await_exit(pid: int, seconds: float = 1.0) -> None:
    """Let a process that has closed its pipe come to its own end, so that its exit code tells why; it is not reaped."""
    end = time.monotonic() + seconds
    while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None and time.monotonic() < end:
        time.sleep(0.005)


def _kill(running: list[subprocess.Popen[bytes]], owner: int) -> None:
    """Kill the process group of what runs, and forget it. Does nothing in a fork of the owner."""
    if os.getpid() != owner:
        return
    while running:
        process = running.pop()
        if process.returncode is None:  # not reaped yet, so the number still belongs to it
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                process.kill()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
        process.wait(timeout=30)
