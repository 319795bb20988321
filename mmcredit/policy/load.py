"""From the `model` part of a config to a model in memory."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

from mmcredit.policy.chat_templates import set_template
from mmcredit.policy.config import LoRAConfig, ModelConfig

BUILTIN = "builtin:"


def resolve_path(path: str) -> str:
    """The folder of a ``builtin:NAME`` model, the folder itself, or a hub id unchanged. Raises ValueError for a name
    that is not shipped and for a path that does not exist."""
    if path.startswith(BUILTIN):
        name = path.removeprefix(BUILTIN)
        home = Path(str(files("mmcredit") / "assets"))
        known = sorted(p.name for p in home.iterdir() if (p / "config.json").is_file()) if home.is_dir() else []
        if name not in known:
            raise ValueError(f"model.path={path!r}: no such builtin model; known: {', '.join(known) or 'none'}")
        return str(home / name)
    looks_local = path.startswith((".", "/", "~")) or path.count("/") > 1 or (os.sep != "/" and os.sep in path)
    expanded = Path(path).expanduser()
    if looks_local and not expanded.is_dir():
        raise ValueError(f"model.path={path!r}: no such folder")
    if expanded.is_dir() and not (expanded / "config.json").is_file():
        raise ValueError(f"model.path={path!r}: the folder holds no config.json")
    return str(expanded) if expanded.is_dir() else path


def pick_device(name: str) -> torch.device:
    """The torch device of `model.device`. Raises ValueError for cuda where there is none."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("model.device=cuda, but torch sees no CUDA device; set model.device to auto or cpu")
    return torch.device(name)


def load_model(config: ModelConfig, seed: int = 0) -> tuple[torch.nn.Module, Any, Any]:
    """Model (eval mode, on its device), tokenizer, and processor (None for a text model). `seed` initialises adapters.

    Raises ValueError for a path that cannot be read as a supported model.
    """
    from transformers import (
        AutoConfig,
        AutoModelForCausalLM,
        AutoModelForImageTextToText,
        AutoProcessor,
        AutoTokenizer,
    )

    path = resolve_path(config.path)
    trust = {"trust_remote_code": config.trust_remote_code}
    try:
        described = AutoConfig.from_pretrained(path, **trust)
    except (OSError, ValueError) as error:
        raise ValueError(f"model.path={config.path!r} cannot be read: {error}") from error
    vision = hasattr(described, "vision_config")
    auto = AutoModelForImageTextToText if vision else AutoModelForCausalLM
    model = auto.from_pretrained(path, dtype=getattr(torch, config.dtype), attn_implementation="sdpa", **trust)
    model.to(pick_device(config.device))  # type: ignore[arg-type]
    model.eval()
    processor = None
    if vision:
        limits = {k: v for k in ("min_pixels", "max_pixels") if (v := getattr(config, k)) is not None}
        processor = AutoProcessor.from_pretrained(path, **trust)
        limit_pixels(processor, **limits)
        tokenizer = processor.tokenizer
    else:
        tokenizer = AutoTokenizer.from_pretrained(path, **trust)
    set_template(config.chat_template, tokenizer, processor, model)
    return prepare(model, config, seed), tokenizer, processor


def limit_pixels(processor: Any, min_pixels: int | None = None, max_pixels: int | None = None) -> None:
    """Set the pixel limits of a processor's images. Raises ValueError if it has none, or if they contradict."""
    if min_pixels is None and max_pixels is None:
        return
    images = processor.image_processor
    size = dict(getattr(images, "size", None) or {})
    if not {"shortest_edge", "longest_edge"} <= set(size):
        raise ValueError(
            f"model.min_pixels / max_pixels: {type(images).__name__} is not limited by pixels (its size is {size})"
        )
    size["shortest_edge"] = min_pixels or size["shortest_edge"]
    size["longest_edge"] = max_pixels or size["longest_edge"]
    if size["shortest_edge"] > size["longest_edge"]:
        raise ValueError(f"model.min_pixels={size['shortest_edge']} is above model.max_pixels={size['longest_edge']}")
    images.size = type(images.size)(**size) if not isinstance(images.size, dict) else size
    for name, value in (("min_pixels", size["shortest_edge"]), ("max_pixels", size["longest_edge"])):
        if getattr(images, name, None) is not None:
            setattr(images, name, value)


def prepare(model: torch.nn.Module, config: ModelConfig, seed: int = 0) -> torch.nn.Module:
    """Freeze, checkpoint and adapt a model as the config says. The result is a PeftModel with `lora`."""
    base: Any = model.model
    tower = getattr(base, "visual", None) or getattr(base, "vision_tower", None)
    if config.freeze_vision and isinstance(tower, torch.nn.Module):
        tower.requires_grad_(False)
    if config.lora is not None:
        model = _add_lora(model, config.lora, seed)
    if config.gradient_checkpointing:
        inner: Any = model.get_base_model() if config.lora is not None else model  # type: ignore[operator]
        inner.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model


def _add_lora(model: torch.nn.Module, lora: LoRAConfig, seed: int) -> torch.nn.Module:
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise ValueError("model.lora needs peft; install the extra: pip install 'mmcredit[lora]'") from error
    modules: Any = lora.target_modules
    if not isinstance(modules, str):
        names = "|".join(modules)
        base: Any = model.model
        # Towers have layers of the same names: keep to the language model.
        inside = r"(?:.*\.)?language_model\." if hasattr(base, "language_model") else ""
        modules = rf"{inside}.*\b(?:{names})"
    settings = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]
        lora_dropout=lora.dropout,
        target_modules=modules,
        bias="none",  # type: ignore[arg-type]
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return get_peft_model(model, settings)  # type: ignore[arg-type]
        except ValueError as error:
            raise ValueError(f"model.lora.target_modules={lora.target_modules!r}: {error}") from error


@torch.no_grad()
def take_over(own: Mapping[str, torch.nn.Parameter], state: Mapping[str, torch.Tensor]) -> None:
    """Copy `state` into the parameters `own`. Raises ValueError naming missing, unknown or misshapen ones."""
    missing, unknown = sorted(set(own) - set(state)), sorted(set(state) - set(own))
    if missing or unknown:
        raise ValueError(
            f"the weights do not belong to this model: {len(missing)} parameters are missing (first: "
            f"{missing[:1]}), {len(unknown)} unknown (first: {unknown[:1]})"
        )
    for name, parameter in own.items():
        if parameter.shape != state[name].shape:
            raise ValueError(f"{name} has shape {list(parameter.shape)}, the weights {list(state[name].shape)}")
        parameter.copy_(state[name])
