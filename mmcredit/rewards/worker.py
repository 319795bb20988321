"""The process in which rewards run: JSON lines in, one JSON line out for each unit of work, no torch.

Started by `mmcredit.rewards.pool`. The first line holds the rewards and the limits, every further line one chunk:
``{"items": [...], "units": [[reward, position, ...], ...]}``. Answers, in the order of the units, each written as soon
as it is there, so that the parent knows at any moment which unit is being worked on: first ``{"begun": n}``, then
``[unit, [outcome, ...]]`` with an outcome per item: a number, null (does not apply) or ``[kind, message]`` (an error).
"""

from __future__ import annotations

import importlib
import json
import math
import os
import random
import resource
import select
import signal
import sys
import threading
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

from mmcredit.answers.item import RewardItem
from mmcredit.rewards.base import Reward

ORPHAN_CHECK_SECONDS = 2.0
Outcome = float | None | list[str]


def main() -> None:
    """Serve until the parent closes the pipe."""
    requests, results = _take_over_pipes()
    threading.Thread(target=_exit_with_parent, args=(requests.fileno(), os.getppid()), daemon=True).start()
    setup = json.loads(requests.readline())
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash of ours is reported; a core file would only cost time
    if setup["memory_limit_mb"] is not None:
        resource.setrlimit(resource.RLIMIT_AS, (setup["memory_limit_mb"] * 2**20,) * 2)
    try:
        rewards = [load_reward(**entry) for entry in setup["rewards"]]
        for reward in rewards:
            reward.prepare()
    except (Exception, SystemExit) as error:
        _send(results, {"failed": _describe(error, setup["memory_limit_mb"])})
        return
    _send(results, {"ready": os.getpid()})
    cpu = _CpuLimit()
    for line in requests:
        chunk = json.loads(line)
        items = [RewardItem(**item) for item in chunk["items"]]
        _send(results, {"begun": len(items)})  # from here on, the death of this process is an item's doing
        for number, (which, *positions) in enumerate(chunk["units"]):
            unit = [items[position] for position in positions]
            cpu.allow(rewards[which].timeout)
            _seed(setup["seed"], setup["names"][which], unit)
            _send(results, [number, judge(rewards[which], unit, setup["memory_limit_mb"])])
    os.killpg(os.getpgid(0), signal.SIGKILL)  # the parent is gone: take along what rewards have started


def judge(reward: Reward, items: Sequence[RewardItem], memory_limit_mb: int | None = None) -> list[Outcome]:
    """An outcome per item. Whatever the reward raises or returns, this returns `len(items)` outcomes."""
    try:
        values = list(reward(items))
    except (Exception, SystemExit) as error:  # a reward that calls sys.exit() must not end the worker
        return [["raised", _describe(error, memory_limit_mb)]] * len(items)
    if len(values) != len(items):
        return [
            ["wrong_length", f"{len(values)} values for {len(items)} items; return one each, in their order"]
        ] * len(items)
    return [_outcome(value) for value in values]


def _outcome(value: Any) -> Outcome:
    if value is None:
        return None
    if type(value) is not float:
        try:
            if not hasattr(type(value), "__float__"):  # float("3") would work, but text is no number
                raise TypeError
            value = float(value)
        except (TypeError, ValueError, OverflowError, RuntimeError):
            return ["wrong_type", f"a number or None is wanted, got {type(value).__name__} {_short(repr(value))}"]
    return value if math.isfinite(value) else ["not_finite", f"returned {value}"]


def load_reward(module: str, file: str | None, qualname: str, fields: dict[str, Any]) -> Reward:
    """A reward from where its class is defined and its fields; `file` is a plug-in file to import first."""
    if file is not None and module not in sys.modules:
        from mmcredit.components import load_plugin

        load_plugin(file)
    found: Any = sys.modules[module] if file is not None else importlib.import_module(module)
    for part in qualname.split("."):
        found = getattr(found, part)
    return found(**fields)


def _take_over_pipes() -> tuple[BinaryIO, BinaryIO]:
    """The two pipes under private descriptors; what rewards print or read no longer touches them."""
    requests, results = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb", buffering=0)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True, errors="backslashreplace")  # type: ignore[union-attr]
    return requests, results


def _exit_with_parent(pipe: int, parent: int) -> None:
    """End this process group when the parent is gone, even in the middle of a sleeping reward.

    The pipe hangs up when its last writer closes it; another process may have inherited a copy, so the parent is
    watched too.
    """
    poll = select.poll()
    poll.register(pipe, 0)  # only POLLHUP and POLLERR, which need not be asked for
    while not poll.poll(ORPHAN_CHECK_SECONDS * 1000) and os.getppid() == parent:
        pass
    os.killpg(os.getpgid(0), signal.SIGKILL)


class _CpuLimit:
    """A limit on processor time that moves along with the work.

    The parent kills a hung worker by the clock. This is for the case that the parent is gone and a loop in C keeps the
    thread that watches it from running.
    """

    def __init__(self) -> None:
        self.end = 0.0

    def allow(self, seconds: float) -> None:
        """At least 2 * seconds + 2 from now on; reward code may use two threads for all of its time."""
        wanted = time.process_time() + 2 * seconds + 2
        if wanted > self.end:
            self.end = wanted + seconds + 1  # room for more units, so that few of them need the system call
            resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(self.end), resource.RLIM_INFINITY))


def _seed(seed: int, name: str, items: Sequence[RewardItem]) -> None:
    """Random numbers of a reward depend on the seed, its name and the item, not on the worker or the order of work."""
    digest = zlib.crc32(f"{seed}/{name}".encode())
    for item in items:
        digest = zlib.crc32(f"{item.sample_id}/{item.response}".encode("utf-8", "surrogatepass"), digest)
    random.seed(digest)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(digest)


def _describe(error: BaseException, memory_limit_mb: int | None = None) -> str:
    text = f"{type(error).__name__}: {_short(str(error))}"
    if isinstance(error, MemoryError) and memory_limit_mb is not None:
        text += f" (limit: memory_limit_mb={memory_limit_mb})"
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    return text if frame is None else f"{text} ({Path(frame.tb_frame.f_code.co_filename).name}:{frame.tb_lineno})"


def _short(text: str, limit: int = 300) -> str:
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _send(results: BinaryIO, message: Any) -> None:
    data = json.dumps(message, separators=(",", ":")).encode() + b"\n"
    while data:
        data = data[results.write(data) :]
