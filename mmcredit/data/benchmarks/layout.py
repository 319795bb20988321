"""The public format of a benchmark, and where its files lie below a data root."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmcredit.components import nearest
from mmcredit.data.sources.files import DataFile

SUFFIXES = (".parquet", ".jsonl", ".json")  # in order of preference
_SHARD = re.compile(r"-\d{5}-of-\d{5}(-[0-9a-f]+)?$")


@dataclass(frozen=True)
class Column:
    """A column of the public format."""

    name: str
    aliases: tuple[str, ...] = ()  # names in other revisions or copies
    media: bool = False
    required: bool = True


@dataclass(frozen=True)
class Split:
    """A split: what its files are called, and what is known of it."""

    rows: int | None = None  # as published
    stems: tuple[str, ...] = ()  # names of its files without shard number and suffix; default: the split's name
    folders: tuple[str, ...] = ()  # sub-folders (configurations) in which they may lie; "*": all of them together
    answers: bool = True  # False where the references are hidden


@dataclass(frozen=True)
class Format:
    """The public format: repositories, splits, columns."""

    repositories: tuple[str, ...]  # Hugging Face ids, the present one first, then moved ones and copies
    splits: Mapping[str, Split]
    columns: tuple[Column, ...]
    folders: tuple[str, ...] = ()  # further names that a folder of the benchmark has

    def media(self) -> tuple[str, ...]:
        """Names of the media columns, aliases included."""
        return tuple(name for column in self.columns if column.media for name in (column.name, *column.aliases))


def locate(benchmark: str, form: Format, split: str, root: Path) -> list[DataFile]:
    """The files of a split, all of one suffix.

    `root` is a file of the split, the folder of the benchmark, or a folder that holds it under its own name
    (`mathvista`), its repository's (`MathVista`, `AI4Math/MathVista`, `AI4Math--MathVista`, `AI4Math_MathVista`), or in
    the layout of the Hugging Face cache. In that folder the files lie at the top, in `data`, in a folder named like the
    configuration or the split, or in `data` below or above it. Where several suffixes are there, Parquet comes before
    JSON lines before JSON. Raises ValueError, saying where was looked, if there are none.
    """
    root = root.expanduser()
    if root.is_file():
        if root.suffix not in SUFFIXES:
            raise ValueError(f"{root} is not a {', '.join(SUFFIXES)} file")
        return [DataFile(root, root.name)]
    if not root.is_dir():
        raise ValueError(f"data root {str(root)!r} of {benchmark}: no such file or folder")
    rule = form.splits[split]
    stems = rule.stems or (split,)
    seen: dict[str, None] = {}
    for base in _bases(benchmark, form, root):
        for folder in _folders(base, rule, split):
            found = sorted(p for p in folder.iterdir() if p.suffix in SUFFIXES and p.is_file())
            seen.update(dict.fromkeys(str(p.relative_to(root)) for p in found))
        files = _chosen(base, rule, split, stems)
        if files:
            return files
    there = ", ".join(list(seen)[:8]) + (", ..." if len(seen) > 8 else "")
    raise ValueError(
        f"{benchmark}: no file of split {split!r} below {root}; wanted {' or '.join(stems)} with suffix "
        f"{', '.join(SUFFIXES)} in {_names(benchmark, form)[0]}/ or {form.repositories[0]}/"
        + (f" (also in {', '.join(rule.folders)}/)" if rule.folders else "")
        + f"; files there: {there or 'none'}"
        + (f"; {nearest(stems[0], [Path(name).stem for name in seen])}" if seen else "")
    )


def _names(benchmark: str, form: Format) -> list[str]:
    names = [benchmark, *form.folders]
    for repository in form.repositories:
        owner, name = repository.split("/")
        names += [name, repository, f"{owner}--{name}", f"{owner}_{name}"]
    return names


def _bases(benchmark: str, form: Format, root: Path) -> Iterator[Path]:
    for name in _names(benchmark, form):
        if (root / name).is_dir():
            yield root / name
    for repository in form.repositories:
        snapshots = root / f"datasets--{repository.replace('/', '--')}" / "snapshots"
        if snapshots.is_dir():
            yield from sorted((p for p in snapshots.iterdir() if p.is_dir()), key=lambda p: p.stat().st_mtime)[::-1]
    yield root


def _folders(base: Path, rule: Split, split: str) -> list[Path]:
    """Where files of the split may lie below `base`."""
    found = [base, base / "data"]
    for name in (*rule.folders, split):
        inner = [base / name] if name != "*" else [p for p in sorted(base.iterdir()) if p.is_dir()]
        found += [place for p in inner for place in (p, p / "data", base / "data" / p.name)]
    return [folder for folder in dict.fromkeys(found) if folder.is_dir()]


def _chosen(base: Path, rule: Split, split: str, stems: Sequence[str]) -> list[DataFile]:
    merged = "*" in rule.folders
    configured = [base / name for name in rule.folders if name != "*"]
    folders = _folders(base, rule, split)
    # Where a configuration has a folder of its own, files of that name elsewhere belong to another configuration.
    own = [f for f in folders if any(f == c or f.parent == c or f == base / "data" / c.name for c in configured)]
    for suffix in SUFFIXES:
        per_folder = []
        for folder in own or folders:
            numbered = folder.name == split
            files = sorted(
                p
                for p in folder.iterdir()
                if p.suffix == suffix and p.is_file() and (_stem(p) in stems or (numbered and p.stem.isdigit()))
            )
            if files:
                per_folder.append(files)
        if per_folder:
            chosen = [p for files in per_folder for p in files] if merged else per_folder[0]
            return [DataFile(p, p.relative_to(base).as_posix()) for p in dict.fromkeys(chosen)]
    return []


def _stem(path: Path) -> str:
    return _SHARD.sub("", path.stem)
