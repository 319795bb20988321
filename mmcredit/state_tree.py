"""Nested state (dicts, lists, numbers, tensors) as one JSON file and one safetensors file: no pickle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

_TENSOR, _TUPLE, _ITEMS = "$tensor", "$tuple", "$items"


def _split(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        name = f"t{len(tensors)}"
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {_TENSOR: name}
    if isinstance(value, dict):
        if all(isinstance(k, str) and not k.startswith("$") for k in value):
            return {k: _split(v, tensors) for k, v in value.items()}
        return {_ITEMS: [[_split(k, tensors), _split(v, tensors)] for k, v in value.items()]}
    if isinstance(value, tuple):
        return {_TUPLE: [_split(v, tensors) for v in value]}
    if isinstance(value, list):
        return [_split(v, tensors) for v in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"state may hold dicts, lists, tuples, numbers, text and tensors, got {type(value).__name__}")


def _join(value: Any, read: Any) -> Any:
    if isinstance(value, list):
        return [_join(v, read) for v in value]
    if isinstance(value, dict):
        if _TENSOR in value:
            return read(value[_TENSOR])
        if _TUPLE in value:
            return tuple(_join(v, read) for v in value[_TUPLE])
        if _ITEMS in value:
            return {_join(k, read): _join(v, read) for k, v in value[_ITEMS]}
        return {k: _join(v, read) for k, v in value.items()}
    return value


def save_tree(value: Any, path: Path) -> None:
    """Write `value` as `path`.json and `path`.safetensors. Floats survive bit for bit (JSON keeps repr)."""
    tensors: dict[str, torch.Tensor] = {}
    text = json.dumps(_split(value, tensors))
    path.with_suffix(".json").write_text(text, encoding="utf-8")
    save_file(tensors, str(path.with_suffix(".safetensors")))


def load_tree(path: Path) -> Any:
    """Read what `save_tree` wrote."""
    value = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    with safe_open(str(path.with_suffix(".safetensors")), framework="pt") as file:
        return _join(value, file.get_tensor)
