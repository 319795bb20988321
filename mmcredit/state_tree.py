"""Nested state (dicts, lists, numbers, tensors) as one JSON file and one safetensors file: no pickle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

_TENSOR, _TUPLE, _ITEMS = "$tensor", "$tuple", "$items"
_FILE, _DIGEST = "$file", "$sha256"
_LEAST = 1024  # bytes; smaller tensors are not worth a look


def _split(value: Any, tensors: dict[str, torch.Tensor], shared: Shared | None = None) -> Any:
    if isinstance(value, torch.Tensor):
        if shared is not None and (found := shared.find(value)) is not None:
            return found
        name = f"t{len(tensors)}"
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {_TENSOR: name}
    if isinstance(value, dict):
        if all(isinstance(k, str) and not k.startswith("$") for k in value):
            return {k: _split(v, tensors, shared) for k, v in value.items()}
        return {_ITEMS: [[_split(k, tensors, shared), _split(v, tensors, shared)] for k, v in value.items()]}
    if isinstance(value, tuple):
        return {_TUPLE: [_split(v, tensors, shared) for v in value]}
    if isinstance(value, list):
        return [_split(v, tensors, shared) for v in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"state may hold dicts, lists, tuples, numbers, text and tensors, got {type(value).__name__}")


def _join(value: Any, read: Any) -> Any:
    if isinstance(value, list):
        return [_join(v, read) for v in value]
    if isinstance(value, dict):
        if _TENSOR in value:
            return read(value[_TENSOR], value.get(_FILE), value.get(_DIGEST))
        if _TUPLE in value:
            return tuple(_join(v, read) for v in value[_TUPLE])
        if _ITEMS in value:
            return {_join(k, read): _join(v, read) for k, v in value[_ITEMS]}
        return {k: _join(v, read) for k, v in value.items()}
    return value


class Shared:
    """Safetensors files whose tensors a tree need not hold once more: it names them.

    `names` maps a file to the name under which it lies beside the tree (a hard link: it stays when the file goes).
    """

    def __init__(self, names: Mapping[Path, str]) -> None:
        self.names = dict(names)
        self._places: dict[tuple[torch.dtype, tuple[int, ...]], dict[str, tuple[Path, str]]] = {}
        for path in self.names:
            with safe_open(str(path), framework="pt") as file:
                for key in file.keys():  # noqa: SIM118  # no mapping
                    value = file.get_tensor(key)
                    if value.numel() * value.element_size() >= _LEAST:
                        kind = self._places.setdefault((value.dtype, tuple(value.shape)), {})
                        kind[_digest(value)] = path, key

    def find(self, value: torch.Tensor) -> dict[str, str] | None:
        """What stands for a tensor that one of the files holds bit for bit."""
        kind = self._places.get((value.dtype, tuple(value.shape)))
        place = kind.get(digest := _digest(value)) if kind else None
        return None if place is None else {_TENSOR: place[1], _FILE: self.names[place[0]], _DIGEST: digest}


def _digest(value: torch.Tensor) -> str:
    flat = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha256(flat.numpy().data).hexdigest()


def save_tree(value: Any, path: Path, shared: Shared | None = None) -> None:
    """Write `value` as `path`.json and `path`.safetensors, without what is `shared`. Floats survive bit for bit (JSON
    keeps repr)."""
    tensors: dict[str, torch.Tensor] = {}
    text = json.dumps(_split(value, tensors, shared))
    path.with_suffix(".json").write_text(text, encoding="utf-8")
    save_file(tensors, str(path.with_suffix(".safetensors")))


def load_tree(path: Path) -> Any:
    """Read what `save_tree` wrote. Raises ValueError if a shared file beside it has been changed."""
    value = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    with ExitStack() as stack:
        files: dict[str, Any] = {}

        def read(key: str, name: str | None, digest: str | None) -> torch.Tensor:
            where = path.with_suffix(".safetensors").name if name is None else name
            if where not in files:
                files[where] = stack.enter_context(safe_open(str(path.parent / where), framework="pt"))
            found = files[where].get_tensor(key)
            if digest is not None and _digest(found) != digest:
                raise ValueError(f"{path.parent / where}: {key} is not what was saved; the file was written over")
            return found

        return _join(value, read)
