"""Frozen rollouts: one whole batch of a run on disk, with its prompts, so that other methods can be tried on it.

RUN/rollouts/step-000010/manifest.json       format, version, step; size and SHA-256 of every file
                         batch.json          samples, the run's config, the shape of the batch
                         batch.safetensors   every tensor of the `Rollouts`, bit for bit
                         media/<SHA-256>     images and videos as the data set has them, each once
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from mmcredit.data.media import MediaLimits, read_bytes
from mmcredit.data.sample import Media, Sample
from mmcredit.policy.piece_state import pack_pieces, unpack_pieces
from mmcredit.rollouts import Rollouts
from mmcredit.state_tree import load_tree, save_tree

FOLDER = "rollouts"
FORMAT, VERSION = "mmcredit-rollouts", 1
_MANIFEST, _BATCH, _MEDIA = "manifest.json", "batch", "media"
_STEP = re.compile(r"step-\d{6,}")
_FILE = re.compile(rf"{_BATCH}\.(?:json|safetensors)|{_MEDIA}/[0-9a-f]{{64}}")


@dataclass(frozen=True)
class Frozen:
    """A batch read back. `rollouts.samples` holds one sample per prompt, media as bytes."""

    path: Path
    step: int  # of the run, from 0
    total_steps: int
    rollouts: Rollouts  # on the CPU
    config: dict[str, Any]  # the run's resolved config, as plain data
    tokenizer: str  # `vocabulary_digest` of the tokenizer whose ids these are
    left_out: dict[str, int] = field(default_factory=dict)  # fields of `Sample.meta` that could not be stored: count


def vocabulary_digest(tokenizer: Any) -> str:
    """SHA-256 over the vocabulary: equal exactly if ids mean the same tokens."""
    pairs = json.dumps(sorted(tokenizer.get_vocab().items()))
    return hashlib.sha256(pairs.encode("utf-8")).hexdigest()


def freeze(
    folder: Path, rollouts: Rollouts, step: int, total_steps: int, config: Mapping[str, Any], tokenizer: Any
) -> Path:
    """Write a batch to `folder`/step-NNNNNN: aside, then renamed, so that a kill leaves no half batch. Returns it.

    `config` is the run's resolved config as plain data. Media are read within `config["data"]["media"]`. Values of
    `Sample.meta` that JSON cannot hold are left out and counted. Raises OSError (full disk) with nothing left behind,
    and ValueError for media that have become unreadable.
    """
    assert rollouts.samples is not None, "frozen rollouts need their samples"
    target = folder / f"step-{step:06d}"
    aside = folder / f".writing-{target.name}"
    shutil.rmtree(aside, ignore_errors=True)
    try:
        (aside / _MEDIA).mkdir(parents=True)
        left_out: Counter[str] = Counter()
        limits = MediaLimits(**config["data"]["media"])
        samples = [_pack(sample, aside / _MEDIA, limits, left_out) for sample in rollouts.samples]
        apart = ("samples", "inserted")
        tensors = {f.name: getattr(rollouts, f.name) for f in fields(Rollouts) if f.name not in apart}
        tree = {
            "rollouts": tensors,
            "samples": samples,
            "inserted": pack_pieces(rollouts.inserted),
            "total_steps": total_steps,
            "config": dict(config),
            "tokenizer": vocabulary_digest(tokenizer),
            "left_out": dict(left_out),
        }
        save_tree(tree, aside / _BATCH)
        files = {str(p.relative_to(aside)): _seal(p) for p in sorted(aside.rglob("*")) if p.is_file()}
        manifest = {"format": FORMAT, "version": VERSION, "step": step, "files": files}
        _write(aside / _MANIFEST, json.dumps(manifest, indent=1).encode("utf-8"))
        if target.exists():  # a resumed run that reaches the same step again
            shutil.rmtree(target)
        aside.rename(target)
    except SafetensorError as error:  # how safetensors reports a full disk
        shutil.rmtree(aside, ignore_errors=True)
        raise OSError(f"{target} could not be written: {error}") from error
    except Exception:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    return target


def thaw(path: str | Path) -> Frozen:
    """Read a batch back; every file is compared with its checksum first.

    Raises ValueError naming the folder and the reason if it is no frozen batch, was written by a newer version, or is
    damaged.
    """
    path = Path(path)
    manifest = _manifest(path)
    for name, seal in manifest["files"].items():
        if _FILE.fullmatch(name) is None:
            raise ValueError(f"{path}: {_MANIFEST} names {name!r}, which no frozen batch holds")
        file = path / name
        if not file.is_file() or file.is_symlink():
            raise ValueError(_damaged(path, f"{name} is missing"))
        size = file.stat().st_size
        if size != seal["bytes"]:
            raise ValueError(_damaged(path, f"{name} has {size} bytes, {seal['bytes']} were written"))
        if _digest(file) != seal["sha256"]:
            raise ValueError(_damaged(path, f"the content of {name} is not what was written"))
    try:
        tree = load_tree(path / _BATCH)
        samples = tuple(_unpack(item, path / _MEDIA) for item in tree["samples"])
        rollouts = Rollouts(**tree["rollouts"], samples=samples, inserted=unpack_pieces(tree.get("inserted")))
        return Frozen(
            path,
            int(manifest["step"]),
            int(tree["total_steps"]),
            rollouts,
            dict(tree["config"]),
            str(tree["tokenizer"]),
            dict(tree["left_out"]),
        )
    except (KeyError, TypeError, ValueError, OSError, SafetensorError) as error:
        raise ValueError(_damaged(path, f"{type(error).__name__}: {error}")) from error


def find(path: str | Path) -> list[Path]:
    """The frozen batches of a run directory, of its `rollouts/`, or the one that `path` is, in step order.

    Raises ValueError if there is none, saying which setting writes them.
    """
    path = Path(path)
    if not path.is_dir():
        raise ValueError(f"{path}: no such folder; name a run directory or one of its {FOLDER}/step-* folders")
    if (path / _MANIFEST).is_file() or _STEP.fullmatch(path.name):
        return [path]
    folder = path / FOLDER if (path / FOLDER).is_dir() else path
    found = [p for p in folder.iterdir() if p.is_dir() and _STEP.fullmatch(p.name)]
    if not found:
        raise ValueError(
            f"{path}: no frozen rollouts; train with log.rollouts_every=N, which freezes the batch of every N-th step "
            f"below RUN/{FOLDER}/"
        )
    return sorted(found, key=lambda p: int(p.name.removeprefix("step-")))


def _manifest(path: Path) -> dict[str, Any]:
    file = path / _MANIFEST
    if not file.is_file():
        raise ValueError(f"{path}: not a frozen rollout batch ({_MANIFEST} is missing)")
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(_damaged(path, f"{_MANIFEST} is not valid JSON ({error})")) from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ValueError(f"{path}: not a frozen rollout batch ({_MANIFEST} does not say {FORMAT!r})")
    version = manifest.get("version")
    if version != VERSION:
        raise ValueError(f"{path}: written in version {version!r} of the format; this mmcredit reads version {VERSION}")
    seals = manifest.get("files")
    seals = seals if isinstance(seals, dict) else {}
    sound = all(isinstance(seal, dict) and {"bytes", "sha256"} <= set(seal) for seal in seals.values())
    if not sound or not {f"{_BATCH}.json", f"{_BATCH}.safetensors"} <= set(seals) or "step" not in manifest:
        raise ValueError(_damaged(path, f"{_MANIFEST} does not list the files of a batch"))
    return manifest


def _damaged(path: Path, why: str) -> str:
    return f"{path}: the frozen batch is damaged: {why}; remove the folder to replay the others"


def _pack(sample: Sample, folder: Path, limits: MediaLimits, left_out: Counter[str]) -> dict[str, Any]:
    media = [_pack_media(item, folder, limits) for item in sample.media]
    meta = {name: value for name, value in sample.meta.items() if _storable(value)}
    left_out.update(str(name) for name in sample.meta if name not in meta)
    messages = [dict(message) for message in sample.messages]
    return {"id": sample.id, "messages": messages, "answer": sample.answer, "meta": meta, "media": media}


def _pack_media(item: Media, folder: Path, limits: MediaLimits) -> dict[str, Any]:
    packed: dict[str, Any] = {"kind": item.kind, "name": item.name}
    if item.options:
        packed["options"] = dict(item.options)
    if item.frames:
        return packed | {"frames": [_pack_media(frame, folder, limits) for frame in item.frames]}
    data = read_bytes(item, limits)
    key = hashlib.sha256(data).hexdigest()
    if not (folder / key).is_file():
        _write(folder / key, data)
    return packed | {"key": key}


def _unpack_media(item: Mapping[str, Any], folder: Path) -> Media:
    frames = tuple(_unpack_media(frame, folder) for frame in item.get("frames", ()))
    data = None if frames else (folder / item["key"]).read_bytes()
    return Media(item["kind"], data=data, name=item["name"], frames=frames, options=item.get("options", {}))


def _unpack(item: Mapping[str, Any], folder: Path) -> Sample:
    media = tuple(_unpack_media(m, folder) for m in item["media"])
    return Sample(item["id"], tuple(item["messages"]), media, item["answer"], item["meta"])


def _storable(value: Any) -> bool:
    """Whether JSON holds the value and gives it back equal."""
    if isinstance(value, dict):
        return all(_storable(k) and _storable(v) for k, v in value.items())
    if isinstance(value, list | tuple):
        return all(_storable(v) for v in value)
    return value is None or isinstance(value, bool | int | float | str)


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _seal(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": _digest(path)}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
