"""Temporary folders of a process, removed when it ends, also where it ends without the interpreter's tear-down."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from weakref import finalize

_ours: dict[str, tuple[int, Path]] = {}  # prefix -> (process, folder): a forked child has folders of its own


def scratch_folder(prefix: str) -> Path:
    """This process's folder of that name, made at the first call."""
    owner, folder = _ours.get(prefix, (0, Path()))
    if owner != os.getpid():
        folder = Path(tempfile.mkdtemp(prefix=prefix))
        _ours[prefix] = (os.getpid(), folder)
        finalize(scratch_folder, clean)  # at exit
    return folder


def clean() -> None:
    """Remove what this process made. To be called before `os._exit`, which runs nothing at exit."""
    for prefix, (owner, folder) in list(_ours.items()):
        if owner == os.getpid():
            shutil.rmtree(folder, ignore_errors=True)
            del _ours[prefix]
