"""Checkpoints that survive a kill: written aside, flushed, renamed, and read back only if complete."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mmcredit.state_tree import Shared, load_tree, save_tree

_NAME = re.compile(r"step-(\d{6,})$")
_MANIFEST = "manifest.json"


class CheckpointError(RuntimeError):
    """A checkpoint could not be written or read; the message says what to do."""


class Checkpoints:
    """The checkpoints of one run, below `folder`; the newest `keep` are kept.

    `save` takes parts (name -> nested state), each stored as JSON plus safetensors. A directory appears under its
    final name only when every byte of it is on disk, so a kill at any moment leaves the previous one in place.
    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.folder = folder
        self.keep = keep

    def save(
        self,
        step: int,
        parts: Mapping[str, Any],
        written: Callable[[str], None] | None = None,
        model: Path | None = None,
    ) -> Path:
        """Write one checkpoint. `written` is called after each part (tests kill the process there).

        Tensors that the safetensors files in the folder `model` hold bit for bit are not written once more: the
        checkpoint has a hard link to those files, which stays when the folder is removed or replaced.

        Raises CheckpointError when the disk is full or not writable; the half-written directory is removed and older
        checkpoints stay.
        """
        target = self.folder / f"step-{step:06d}"
        aside = self.folder / f".writing-{target.name}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir()
            shared = None if model is None else _link(model, aside)
            for name, value in parts.items():
                save_tree(value, aside / name, shared)
                if written is not None:
                    written(name)
            if shared is not None:  # links that nothing is read from
                used = "".join(p.read_text(encoding="utf-8") for p in aside.glob("*.json"))
                for name in shared.names.values():
                    if f'"{name}"' not in used:
                        (aside / name).unlink()
            sizes = {p.name: p.stat().st_size for p in sorted(aside.iterdir())}
            (aside / _MANIFEST).write_text(json.dumps({"step": step, "sizes": sizes}), encoding="utf-8")
            for path in aside.iterdir():
                _flush(path)
            _flush(aside)
            if target.exists():  # a resumed run that reaches the same step again
                shutil.rmtree(target)
            aside.rename(target)
            _flush(self.folder)
        except Exception as error:
            shutil.rmtree(aside, ignore_errors=True)
            if isinstance(error, OSError) or "No space left" in str(error):
                raise CheckpointError(self._complaint(step, error)) from error
            raise
        self._prune()
        return target

    def _complaint(self, step: int, error: Exception) -> str:
        free = shutil.disk_usage(self.folder).free if self.folder.exists() else 0
        last = self.latest()
        full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)
        why = "the disk is full" if full else str(error)
        return (
            f"checkpoint of step {step} could not be written below {self.folder}: {why} ({free / 2**20:.0f} MiB free); "
            f"the last good one is {last.name if last else 'none'}; free space or change run.dir or checkpoint.keep"
        )

    def all(self) -> list[Path]:
        """Complete checkpoints, oldest first."""
        if not self.folder.is_dir():
            return []
        found = [p for p in self.folder.iterdir() if _NAME.match(p.name) and problem(p) is None]
        return sorted(found, key=lambda p: int(_NAME.match(p.name).group(1)))  # type: ignore[union-attr]

    def broken(self) -> dict[Path, str]:
        """Directories that look like checkpoints but are incomplete, and why."""
        if not self.folder.is_dir():
            return {}
        found = {p: problem(p) for p in sorted(self.folder.iterdir()) if p.name.startswith(("step-", ".writing-"))}
        return {p: why for p, why in found.items() if why is not None}

    def latest(self) -> Path | None:
        """The newest complete checkpoint."""
        found = self.all()
        return found[-1] if found else None

    def load(self, path: Path) -> tuple[int, dict[str, Any]]:
        """(step, parts) of a checkpoint. Raises CheckpointError if it is not complete."""
        why = problem(path)
        if why is not None:
            raise CheckpointError(f"checkpoint {path} is not complete: {why}; remove it to fall back to the one before")
        manifest = json.loads((path / _MANIFEST).read_text(encoding="utf-8"))
        names = sorted({Path(name).stem for name in manifest["sizes"] if name.endswith(".json")})
        return manifest["step"], {name: load_tree(path / name) for name in names}

    def _prune(self) -> None:
        for path in self.all()[: -self.keep]:
            shutil.rmtree(path, ignore_errors=True)


def _link(model: Path, aside: Path) -> Shared | None:
    """The weight files of a model folder, linked into a checkpoint; None where the file system has no hard links."""
    names = {}
    for number, file in enumerate(sorted(model.glob("*.safetensors"))):
        name = f"model-{number}.safetensors"
        try:
            os.link(file, aside / name)
        except OSError:
            return None
        names[file] = name
    return Shared(names) if names else None


def problem(path: Path) -> str | None:
    """Why a checkpoint directory cannot be trusted, or None."""
    if path.name.startswith("."):
        return "its writing was interrupted"
    manifest = path / _MANIFEST
    if not manifest.is_file():
        return f"{_MANIFEST} is missing"
    try:
        sizes = json.loads(manifest.read_text(encoding="utf-8"))["sizes"]
    except (ValueError, KeyError, TypeError):
        return f"{_MANIFEST} is damaged"
    for name, size in sizes.items():
        file = path / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != size:
            return f"{name} has {file.stat().st_size} bytes, {size} were written"
    return None


def _flush(path: Path) -> None:
    """Ask the kernel to put a file or directory on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
