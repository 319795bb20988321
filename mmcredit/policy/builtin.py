"""Models that ship with the package, and with packages that add to it: what ``builtin:NAME`` stands for."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from mmcredit.components import load_installed

BUILTIN = "builtin:"
_HOMES: list[Path] = [Path(str(files("mmcredit"))) / "assets"]


def add_home(folder: Path) -> None:
    """Make the models below `folder`, one folder each, known as ``builtin:NAME``; for packages that bring models.

    Called where the package registers its components.
    """
    if folder not in _HOMES:
        _HOMES.append(folder)


def builtin_folder(path: str) -> Path:
    """The folder of a ``builtin:NAME`` model. Raises ValueError for a name that is not shipped."""
    load_installed()
    name = path.removeprefix(BUILTIN)
    known: dict[str, Path] = {}
    for home in _HOMES:
        for folder in sorted(home.iterdir()) if home.is_dir() else ():
            if (folder / "config.json").is_file():
                known.setdefault(folder.name, folder)
    if name not in known:
        raise ValueError(f"model.path={path!r}: no such builtin model; known: {', '.join(sorted(known)) or 'none'}")
    return known[name]
