"""The memory that a process may still take: of the machine, of its control groups, of the GPU."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

MIB = 2**20


@dataclass(frozen=True)
class Free:
    """How much is free, and of what."""

    mib: float
    of: str  # what bounds it, for messages


def free_memory(device: torch.device, root: Path = Path("/")) -> Free | None:
    """What this process can still take on `device`; None where the system does not say.

    On a CPU the least of the machine's available memory (Linux: MemAvailable) and what the limits of the control
    groups leave, both versions, parents included: in a container the machine's figure is not the limit. `root` is for
    tests.
    """
    if device.type == "cuda":
        import torch

        free, _ = torch.cuda.mem_get_info(device)
        reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return Free((free + reserved) / MIB, f"GPU {torch.cuda.get_device_name(device)}")
    found = [*_machine(root), *_groups(root)]
    return min(found, key=lambda free: free.mib, default=None)


def _machine(root: Path) -> Iterator[Free]:
    info = _read(root / "proc/meminfo")
    for line in (info or "").splitlines():
        if line.startswith("MemAvailable:"):
            yield Free(int(line.split()[1]) / 1024, "RAM of this machine")
            return
    if info is None and "SC_AVPHYS_PAGES" in getattr(os, "sysconf_names", {}):
        yield Free(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / MIB, "RAM of this machine")


def _groups(root: Path) -> Iterator[Free]:
    """What each control group that holds this process leaves."""
    for line in (_read(root / "proc/self/cgroup") or "").splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            home, limit, usage, cache = "sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            home, limit, usage = "sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            cache = "total_inactive_file"
        else:
            continue
        folder = Path(path.lstrip("/"))
        for group in (folder, *folder.parents):  # inside a container the path may be that of the host: the top remains
            place = root / home / group
            most, used = _number(place / limit), _number(place / usage)
            if most is None or used is None or most >= 2**60:  # version 1 writes "no limit" as a huge number
                continue
            yield Free((most - used + _stat(place / "memory.stat", cache)) / MIB, "memory limit of this container")


def _stat(path: Path, name: str) -> int:
    """A counter of memory.stat: page cache that the kernel gives back before it kills anything."""
    for line in (_read(path) or "").splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return int(value)
    return 0


def _number(path: Path) -> int | None:
    text = (_read(path) or "").strip()
    return int(text) if text.isdigit() else None


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return None


def held_memory(device: torch.device) -> float:
    """MiB that this process holds now: on a GPU what its tensors take, else its resident set."""
    if device.type == "cuda":
        import torch

        return torch.cuda.memory_allocated(device) / MIB
    for line in (_read(Path("/proc/self/status")) or "").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    from mmcredit.train.costs import peak_memory_mb

    return peak_memory_mb()  # no /proc: the largest so far is the nearest known
