"""What studies over seeds share: intervals, tables, and cells that are not repeated."""

from __future__ import annotations

import fcntl
import json
import math
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

T95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}  # Student's t, n - 1 degrees of freedom


def interval(values: Sequence[float], scale: float = 100.0, digits: int = 1) -> str:
    """Mean and half width of the 95 % interval over seeds, in percent; of fewer than three seeds the values."""
    if len(values) < 3:
        return " / ".join(f"{scale * value:.{digits}f}" for value in values)
    mean, half = mean_and_half(values)
    return f"{scale * mean:.{digits}f} ± {scale * half:.{digits}f}"


def mean_and_half(values: Sequence[float]) -> tuple[float, float]:
    """The mean and the half width of its 95 % interval; two values at least."""
    mean = sum(values) / len(values)
    sd = math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))
    return mean, T95.get(len(values), 1.96) * sd / math.sqrt(len(values))


def cell(folder: Path, arm: str, seed: int, work: Callable[[Path], dict[str, Any]]) -> dict[str, Any] | None:
    """The result of an arm with a seed: as it lies in `folder`, else what `work` makes in a new run directory.

    None for a cell that another process is at: several may share a folder.
    """
    where = folder / re.sub(r"\W+", "_", arm) / f"seed-{seed}"
    done = where / "result.json"
    if done.is_file():
        return json.loads(done.read_text())
    where.mkdir(parents=True, exist_ok=True)
    with (where / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        if (where / "run").exists():
            shutil.rmtree(where / "run")  # a run that was broken off
        found = {"arm": arm, "seed": seed, **work(where / "run")}
        done.write_text(json.dumps(found, indent=1))
    return found


def results(folder: Path) -> list[dict[str, Any]]:
    """The cells that are there."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*/seed-*/result.json"))]


def table(
    found: Sequence[Mapping[str, Any]],
    arms: Sequence[str],
    measures: Mapping[str, str],
    mode: str,
    before: Mapping[str, Any],
    title: str = "",
) -> str:
    """Markdown: an arm per line, over seeds; the first line is the model that training starts from."""
    head = f"| {title or mode} | seeds | " + " | ".join(measures.values()) + " |"
    lines = [head, "|---|---|" + "---|" * len(measures)]
    row = " | ".join(f"{100 * before[mode][name]:.1f}" for name in measures)
    lines.append(f"| before training | - | {row} |")
    for arm in arms:
        own = [r for r in found if r["arm"] == arm]
        if own:
            cells = " | ".join(interval([r[mode][name] for r in own]) for name in measures)
            lines.append(f"| {arm} | {len(own)} | {cells} |")
    return "\n".join(lines)


def paired(
    found: Sequence[Mapping[str, Any]],
    arms: Sequence[str],
    measures: Mapping[str, str],
    mode: str,
    base: str,
    title: str = "",
) -> str:
    """Markdown: differences to the arm `base` with the same seed."""
    by_seed = {r["seed"]: r for r in found if r["arm"] == base}
    head = f"| {title or mode}, minus {base} | seeds | " + " | ".join(measures.values()) + " |"
    lines = [head, "|---|---|" + "---|" * len(measures)]
    for arm in arms:
        own = [r for r in found if r["arm"] == arm and r["seed"] in by_seed and arm != base]
        if own:
            cells = " | ".join(
                interval([r[mode][name] - by_seed[r["seed"]][mode][name] for r in own]) for name in measures
            )
            lines.append(f"| {arm} | {len(own)} | {cells} |")
    return "\n".join(lines)
