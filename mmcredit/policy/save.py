"""A model in memory written as a folder that transformers (or peft) loads, in the dtype of its source."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mmcredit.policy import visual_tokens

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

DTYPES = ("float32", "bfloat16", "float16")


def source_dtype(described: Any, path: str) -> torch.dtype | None:
    """The dtype of the weights at `path`: what its config says, else that of most values in its safetensors files."""
    for config in (described, getattr(described, "text_config", None)):
        named = getattr(config, "dtype", None)
        found = getattr(torch, str(named).removeprefix("torch."), None)
        if isinstance(found, torch.dtype):
            return found
    counts: dict[str, int] = {}
    for file in Path(path).glob("*.safetensors") if Path(path).is_dir() else ():
        with file.open("rb") as content:
            header = json.loads(content.read(int.from_bytes(content.read(8), "little")))
        for entry in (value for name, value in header.items() if name != "__metadata__"):
            size = entry["data_offsets"][1] - entry["data_offsets"][0]
            counts[entry["dtype"]] = counts.get(entry["dtype"], 0) + size
    known = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
    return known.get(max(counts, key=lambda name: counts[name])) if counts else None


def write_aside(folder: Path, write: Callable[[Path], None]) -> None:
    """Fill `folder` by `write`: into a folder beside it, which then takes its place as a whole. Files of the old folder
    that are not the model's (notes, logs, data beside it) are kept."""
    aside, old = folder.with_name(f".writing-{folder.name}"), folder.with_name(f".old-{folder.name}")
    for leftover in (aside, old):
        shutil.rmtree(leftover, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        write(aside)
        if folder.exists():
            folder.rename(old)
        aside.rename(folder)
        for path in old.iterdir() if old.exists() else ():
            if not (folder / path.name).exists() and not _of_a_model(path.name):
                path.rename(folder / path.name)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _of_a_model(name: str) -> bool:
    """Whether a file would be read as a part of the model, and must not outlive it."""
    return ".safetensors" in name or name.endswith(".bin") or name.startswith("adapter")


def save_model(model: Any, folder: Path, dtype: torch.dtype | None) -> None:
    """Write weights and config; floating-point weights as `dtype` (None: as they are)."""
    visual_tokens.write(model, folder, dtype)
    with visual_tokens.apart(model):
        if dtype is None or dtype == model.dtype:
            model.save_pretrained(folder)
            return
        model.save_pretrained(folder, state_dict=_as(model.state_dict(), dtype))
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    for block in (config, *(value for value in config.values() if isinstance(value, dict))):
        for key in ("dtype", "torch_dtype"):
            if key in block:
                block[key] = str(dtype).removeprefix("torch.")
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def save_adapter(model: Any, folder: Path, dtype: torch.dtype | None) -> None:
    """Write the adapter of a PeftModel; as `dtype` (None: as it is trained, float32)."""
    visual_tokens.write(model.get_base_model(), folder, dtype)
    if dtype is None:
        model.save_pretrained(folder)
        return
    from safetensors.torch import load_file, save_file

    model.save_pretrained(folder)
    path = str(folder / "adapter_model.safetensors")
    save_file(_as(load_file(path), dtype), path, metadata={"format": "pt"})


def _as(state: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Floating-point tensors as `dtype`, on the CPU; tied ones stay one tensor."""
    made: dict[tuple[int, torch.Size], Tensor] = {}
    found = {}
    for name, value in state.items():
        key = (value.data_ptr(), value.shape)
        if key not in made:
            made[key] = value.detach().to("cpu", dtype if value.is_floating_point() else value.dtype)
        found[name] = made[key]
    return found
