"""The policy's weights as vLLM loads them: names of the checkpoint, adapters merged on the way."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file

if TYPE_CHECKING:
    from torch import Tensor

    from mmcredit.policy.policy import Policy

SHARD_BYTES = 2 * 2**30  # of one file


@torch.no_grad()
def policy_weights(policy: Policy) -> Iterator[tuple[str, Tensor]]:
    """(name in the model's own checkpoint, tensor) of every weight, LoRA adapters added to what they adapt.

    Tied weights come once. The model is not changed: a sum is a new tensor, made one at a time.
    """
    model = _plain(policy)
    tied = set(getattr(model, "all_tied_weights_keys", None) or ())
    adapted = {name: module for name, module in model.named_modules() if hasattr(module, "get_delta_weight")}
    for name, value in (*model.named_parameters(), *_persistent(model)):
        if ".lora_" in name or name in tied:
            continue
        module_name, _, leaf = name.rpartition(".")
        layer = adapted.get(module_name.removesuffix(".base_layer"))
        plain = value.detach()
        if layer is not None and leaf == "weight" and module_name.endswith(".base_layer"):
            delta = sum(layer.get_delta_weight(adapter) for adapter in layer.active_adapters)
            plain = plain + delta.to(plain.dtype)
        yield name.replace(".base_layer.", "."), plain


def _plain(policy: Policy) -> Any:
    """The model without the wrapper of its adapters."""
    model: Any = policy.model
    return model.get_base_model() if policy.adapters else model


def _persistent(model: Any) -> Iterator[tuple[str, Tensor]]:
    """Buffers that a checkpoint holds."""
    kept = model.state_dict().keys()
    for name, value in model.named_buffers():
        if name in kept:
            yield name, value


def write_folder(policy: Policy, folder: Path) -> set[str]:
    """Write a plain model folder, as `from_pretrained` and vLLM read it. Returns the names of the weights."""
    model = _plain(policy)
    folder.mkdir(parents=True, exist_ok=True)
    config = copy.deepcopy(model.config)
    config.architectures = [type(model).__name__]  # what vLLM chooses its own class by
    config.save_pretrained(folder)
    if getattr(model, "generation_config", None) is not None:
        model.generation_config.save_pretrained(folder)
    (policy.processor or policy.tokenizer).save_pretrained(folder)
    index: dict[str, str] = {}
    shard: dict[str, Tensor] = {}
    held, number = 0, 0

    def flush() -> None:
        nonlocal shard, held, number
        number += 1
        file = f"model-{number:05d}.safetensors"
        save_file(shard, folder / file, metadata={"format": "pt"})
        index.update(dict.fromkeys(shard, file))
        shard, held = {}, 0

    for name, value in policy_weights(policy):
        shard[name] = value.cpu().contiguous().clone()
        held += value.numel() * value.element_size()
        if held >= SHARD_BYTES:
            flush()
    if shard:
        flush()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return set(index)
