"""What the benchmark scripts share: the machine's description, and memory of processes (Linux)."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path


def resident(field: str, pid: int | str = "self") -> float:
    """KiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field):
            return float(line.split()[1])
    raise RuntimeError(f"{field} is not in /proc/{pid}/status")


def children() -> list[int]:
    """Process ids of the children of this process."""
    return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


def machine() -> str:
    """One line about where the figures come from."""
    import torch
    import transformers

    model = next((x.split(":")[1].strip() for x in _cpuinfo() if x.startswith("model name")), platform.processor())
    return (
        f"{model}, {os.cpu_count()} cores; Python {platform.python_version()}, torch {torch.__version__}, "
        f"transformers {transformers.__version__}; command: {' '.join([Path(sys.argv[0]).name, *sys.argv[1:]])}"
    )


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []
