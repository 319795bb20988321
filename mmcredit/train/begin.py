"""Where a run begins: anew, or at a checkpoint of the same run, with what its settings changed since."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from mmcredit.report.files import CONFIG, METRICS
from mmcredit.settings import below, changes, defaults_of, told

if TYPE_CHECKING:
    from pydantic import BaseModel

    from mmcredit.train.checkpoint import Checkpoints
    from mmcredit.world import World

# With another of these a checkpoint's weights, optimizer or place in the data mean something else.
FIXED = ("model.path", "model.lora", "data.train", "data.from_run")


@dataclass(frozen=True)
class Beginning:
    """The checkpoint to go on from (None: step 0), and a sentence per thing that a person should know."""

    checkpoint: str | None = None
    notes: tuple[str, ...] = field(default=())


def begin(world: World, run_dir: Path, checkpoints: Checkpoints, resume: bool, config: BaseModel) -> Beginning:
    """`where_to_begin`, as rank 0 sees the folder, on every rank."""
    found = world.from_first(lambda: asdict(where_to_begin(run_dir, checkpoints, resume, config)))
    return Beginning(found["checkpoint"], tuple(found["notes"]))


def where_to_begin(run_dir: Path, checkpoints: Checkpoints, resume: bool, config: BaseModel) -> Beginning:
    """Look into `run_dir`. Other settings than those the folder was written with are noted; FIXED ones are refused.

    Raises ValueError, naming the settings that differ, for a folder that holds a run and is not resumed, or holds
    another one.
    """
    _writable(run_dir)
    found = _changed(run_dir, config)
    if not resume:
        if (run_dir / METRICS).exists():
            words = f" with other settings ({told(found)})" if found else ""
            raise ValueError(
                f"run.dir {run_dir} holds a run already{words}; go on with --resume, or give run.dir a new folder"
            )
        return Beginning()
    newest = checkpoints.latest()
    if newest is None:
        return Beginning(None, (f"run.dir {run_dir} has no complete checkpoint to go on from: begins at step 0",))
    if other := below(found, FIXED):
        raise ValueError(
            f"run.dir {run_dir} holds another run: {told(other)}; give its settings to go on, or run.dir a new folder"
        )
    return Beginning(newest.name, (f"goes on with other settings: {told(found)}",) if found else ())


def _writable(run_dir: Path) -> None:
    """Raises ValueError, before anything is loaded, where the folder cannot be made or written into."""
    made = not run_dir.exists()
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        if made:
            run_dir.rmdir()
        elif not os.access(run_dir, os.W_OK):
            raise PermissionError("it may not be written into")
    except OSError as error:
        raise ValueError(f"run.dir {run_dir} cannot be used: {error.strerror or error}; give another folder") from None


def _changed(run_dir: Path, config: BaseModel) -> dict[str, str]:
    """What differs from the folder's config; nothing where it has none that can be read. run.dir may have moved."""
    try:
        there = yaml.safe_load((run_dir / CONFIG).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    if not isinstance(there, dict):
        return {}
    found = changes(there, config.model_dump(mode="json"), defaults_of(type(config)))
    return {name: change for name, change in found.items() if name != "run.dir"}
