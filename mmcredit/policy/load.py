"""From the `model` part of a config to a model in memory."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mmcredit.policy.adapters import CONFIG, chain
from mmcredit.policy.builtin import BUILTIN, builtin_folder
from mmcredit.policy.chat_templates import read_ends, set_template
from mmcredit.policy.config import LoRAConfig, ModelConfig
from mmcredit.policy.families import decoder_name, vision_parameters
from mmcredit.policy.save import source_dtype
from mmcredit.policy.visual_tokens import attach, pooler_of


def resolve_path(path: str) -> str:
    """The folder of a ``builtin:NAME`` model, the folder itself (of a model or an adapter), or a hub id unchanged.
    Raises ValueError for a name that is not shipped and for a path that does not exist."""
    if path.startswith(BUILTIN):
        return str(builtin_folder(path))
    looks_local = path.startswith((".", "/", "~")) or path.count("/") > 1 or (os.sep != "/" and os.sep in path)
    expanded = Path(path).expanduser()
    if looks_local and not expanded.is_dir():
        raise ValueError(f"model.path={path!r}: no such folder")
    if expanded.is_dir() and not any((expanded / name).is_file() for name in ("config.json", CONFIG)):
        raise ValueError(f"model.path={path!r}: the folder holds neither config.json nor {CONFIG}")
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

    An adapter folder is merged into its base; with `lora` the adapter is the one that is trained. The dtype of the
    source is left as `source_dtype` on the model. Raises ValueError for a path that cannot be read as a supported
    model, for weights that are missing in it, and for an adapter that does not fit.
    """
    from transformers import (
        AutoConfig,
        AutoModelForCausalLM,
        AutoModelForImageTextToText,
        AutoProcessor,
        AutoTokenizer,
    )

    named = resolve_path(config.path)
    path, adapters = chain(named, resolve_path, config.base)
    trust = {"trust_remote_code": config.trust_remote_code}
    try:
        described = AutoConfig.from_pretrained(path, **trust)
    except (OSError, ValueError) as error:
        why = str(error).split(chr(10))[0]  # transformers goes on with advice
        local = "" if Path(path).is_dir() else "there is no such folder, and as the name of a model on the hub "
        raise ValueError(f"model.path={config.path!r}: {local}it cannot be read: {why}") from error
    vision = hasattr(described, "vision_config")
    auto = AutoModelForImageTextToText if vision else AutoModelForCausalLM
    device = pick_device(config.device)
    _slow(config.dtype, device)
    loaded: Any = auto.from_pretrained(
        path, dtype=getattr(torch, config.dtype), attn_implementation="sdpa", output_loading_info=True, **trust
    )
    model, info = loaded
    if missing := sorted(info["missing_keys"]):
        raise ValueError(
            f"model.path={config.path!r}: {len(missing)} weights of {type(model).__name__} are not in the folder "
            f"(first: {missing[0]}); they would be random"
        )
    model.source_dtype = source_dtype(described, path)
    attach(model, config.visual_tokens, [path] if named == path else [named, path], seed, config.lora is not None)
    model.to(device)
    for adapter in adapters:
        trained = config.lora if adapter is adapters[-1] else None
        model = adapter.onto(model, trained, "" if trained is None else _targets(model, trained))
    model.eval()
    # An adapter is saved with its tokenizer; one of other people may lie alone.
    texts = named if adapters and (Path(named) / "tokenizer_config.json").is_file() else path
    processor = None
    if vision:
        limits = {k: v for k in ("min_pixels", "max_pixels") if (v := getattr(config, k)) is not None}
        try:
            processor = AutoProcessor.from_pretrained(texts, **trust)
        except ImportError as error:
            raise ValueError(f"model.path={config.path!r}: its processor cannot be made: {error}") from error
        limit_pixels(processor, **limits)
        videos = getattr(processor, "video_processor", None)
        if videos is not None and getattr(videos, "cap_pixels_per_frame", True) is None:
            # Clips come within a volume of their own (`video.frames`). Left open, this changes with transformers 5.22.
            videos.cap_pixels_per_frame = False
        tokenizer = processor.tokenizer
    else:
        tokenizer = AutoTokenizer.from_pretrained(texts, **trust)
    if texts != path:
        read_ends(model, Path(texts))
    set_template(config.chat_template, tokenizer, processor, model)
    prepared: Any = prepare(model, config, seed)
    # What a saved adapter belongs to: the name that the config has for it, and where that is now.
    prepared.base_of = (adapters[-1].base, adapters[-1].base) if adapters else (config.path, path)
    return prepared, tokenizer, processor


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
    base: Any = (model.get_base_model() if hasattr(model, "disable_adapter") else model).model  # type: ignore[operator]
    if config.freeze_vision:
        for parameter in vision_parameters(base):
            parameter.requires_grad_(False)
    if (pooler := pooler_of(base)) is not None:
        pooler.requires_grad_(config.lora is None and pooler.settings.train)
    if config.lora is not None and not hasattr(model, "disable_adapter"):
        model = _add_lora(model, config.lora, seed)
    if config.gradient_checkpointing:
        inner: Any = model.get_base_model() if config.lora is not None else model  # type: ignore[operator]
        inner.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model


def _slow(dtype: str, device: torch.device) -> None:
    """Say so where bfloat16 costs time instead of saving it."""
    capabilities: Any = getattr(torch.cpu, "get_capabilities", dict)()
    capable = bool(capabilities.get("amx_bf16"))
    if dtype == "bfloat16" and device.type == "cpu" and not capable:
        warnings.warn(
            "model.dtype=bfloat16 on a CPU without AMX is several times slower than float32 (46 s for an update of 8 "
            "responses of a 135M model, against 6 to 31 s for 48); set model.dtype=float32",
            stacklevel=3,
        )


def _targets(model: torch.nn.Module, lora: LoRAConfig) -> str:
    """The regular expression over module names that the adapters go to."""
    if isinstance(lora.target_modules, str):
        return lora.target_modules
    base: Any = model.model
    # Towers have layers of the same names: keep to the language model.
    decoder = decoder_name(base)
    inside = rf"(?:.*\.)?{decoder}\." if decoder is not None else ""
    return rf"{inside}.*\b(?:{'|'.join(lora.target_modules)})"


def _add_lora(model: torch.nn.Module, lora: LoRAConfig, seed: int) -> torch.nn.Module:
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise ValueError("model.lora needs peft; install the extra: pip install 'mmcredit[lora]'") from error
    settings = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]
        lora_dropout=lora.dropout,
        target_modules=_targets(model, lora),
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
