"""Folders that hold a LoRA adapter: found, put on the base that they name, trained further or merged into it."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mmcredit.policy.fingerprint import weights_fingerprint

if TYPE_CHECKING:
    from collections.abc import Callable

    from mmcredit.policy.config import LoRAConfig

CONFIG, WEIGHTS, RECORD = "adapter_config.json", "adapter_model.safetensors", "adapter_base.json"


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter and no model of its own."""
    whole = any(folder.glob("model*.safetensors")) or any(folder.glob("pytorch_model*"))
    return (folder / CONFIG).is_file() and not whole


@dataclass(frozen=True)
class Adapter:
    """An adapter on disk."""

    folder: Path
    base: str  # as `resolve_path` gives it

    @classmethod
    def read(cls, folder: Path, resolve: Callable[[str], str], base: str | None = None) -> Adapter:
        """The adapter in `folder`; `base` (model.base) goes before the base that it names. Raises ValueError if neither
        is there, and for an adapter that is not in safetensors."""
        if not (folder / WEIGHTS).is_file():
            raise ValueError(
                f"model.path={str(folder)!r}: {CONFIG} says that it is an adapter, but there is no {WEIGHTS} (pickled "
                "weights are not read)"
            )
        named = [base] if base is not None else _named_bases(folder)
        refused = []
        for name in named:
            try:
                found = resolve(name)
            except ValueError as error:
                refused.append(str(error).replace("model.path=", ""))
                continue
            if Path(found).resolve() == folder.resolve():
                raise ValueError(f"model.base={name!r} is the adapter's own folder; name what it was trained on")
            _compare(folder, found)
            return cls(folder, found)
        why = "; ".join(refused) or "it names none"
        if base is not None:
            raise ValueError(f"model.base={base!r}: {why}")
        raise ValueError(
            f"model.path={str(folder)!r} is an adapter, and the base model that it was trained on is not where it was "
            f"({why}); say where it is with model.base=PATH"
        )

    def onto(self, model: torch.nn.Module, lora: LoRAConfig | None, wanted: str = "") -> torch.nn.Module:
        """`model`, the base, with the adapter merged into it; with `lora` a PeftModel that trains the adapter further
        (`wanted`: the pattern of its target modules). Raises ValueError if the adapter does not fit."""
        try:
            from peft import PeftConfig, get_peft_model
            from peft.utils import set_peft_model_state_dict
        except ImportError as error:
            raise ValueError("an adapter needs peft; install the extra: pip install 'mmcredit[lora]'") from error
        from safetensors.torch import load_file

        settings: Any = PeftConfig.from_pretrained(str(self.folder))
        if settings.peft_type != "LORA":
            raise ValueError(
                f"model.path={str(self.folder)!r}: only LoRA adapters are read, this is {settings.peft_type}"
            )
        settings.inference_mode = lora is None
        settings.base_model_name_or_path = getattr(model, "name_or_path", None)  # else peft warns of another name
        if lora is not None:
            _same_shape(self.folder, settings, lora, wanted, model)
            settings.lora_dropout = lora.dropout
        with torch.random.fork_rng(devices=[]):
            try:
                made: Any = get_peft_model(model, settings)  # type: ignore[arg-type]
                result: Any = set_peft_model_state_dict(made, load_file(str(self.folder / WEIGHTS)))
            except (ValueError, RuntimeError, KeyError) as error:
                first = str(error).strip().splitlines()[:2]
                raise ValueError(f"{self._misfit()}: {' '.join(first)}") from error
        missing = [key for key in result.missing_keys if "lora_" in key or "modules_to_save" in key]
        if missing or result.unexpected_keys:
            raise ValueError(
                f"{self._misfit()}: {len(missing)} of its weights are missing (first: {missing[:1]}), "
                f"{len(result.unexpected_keys)} have no place in the model (first: {result.unexpected_keys[:1]})"
            )
        if lora is not None:
            made.continues = True  # its starting point is not the base alone
            return made
        merged = made.merge_and_unload(safe_merge=True)
        if hasattr(merged, "peft_config"):
            del merged.peft_config
        merged.requires_grad_(True)
        return merged

    def _misfit(self) -> str:
        return f"model.path={str(self.folder)!r} does not fit its base {self.base!r} (model.base)"


def chain(path: str, resolve: Callable[[str], str], base: str | None) -> tuple[str, list[Adapter]]:
    """The model with weights of its own below `path`, and the adapters on it, innermost first. Raises ValueError for
    `base` where `path` is no adapter."""
    adapters: list[Adapter] = []
    while Path(path).is_dir() and is_adapter(Path(path)):
        if any(each.folder.resolve() == Path(path).resolve() for each in adapters):
            raise ValueError(f"model.path={path!r}: adapters that name each other as their base")
        adapters.insert(0, Adapter.read(Path(path), resolve, None if adapters else base))
        path = adapters[0].base
    if base is not None and not adapters:
        raise ValueError(f"model.base={base!r} is for an adapter, but model.path={path!r} is a model of its own")
    return path, adapters


def record_base(folder: Path, name: str, resolved: str) -> None:
    """Write beside a saved adapter what it belongs to: the name as the config has it (builtin:NAME stays valid where
    the package moves), and a fingerprint of the weights. peft's own file gets an absolute path."""
    path = folder / CONFIG
    settings = json.loads(path.read_text(encoding="utf-8"))
    local = Path(resolved).is_dir()
    settings["base_model_name_or_path"] = str(Path(resolved).resolve()) if local else resolved
    path.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    found = {"base": name, "fingerprint": weights_fingerprint(resolved)}
    (folder / RECORD).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def _record(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _named_bases(folder: Path) -> list[str]:
    try:
        settings = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"model.path={str(folder)!r}: {CONFIG} cannot be read: {error}") from None
    named = [_record(folder).get("base"), settings.get("base_model_name_or_path")]
    return list(dict.fromkeys(name for name in named if isinstance(name, str) and name))


def _compare(folder: Path, base: str) -> None:
    """Warn if the base is not the one that the adapter was trained on."""
    known = _record(folder).get("fingerprint")
    now = weights_fingerprint(base) if known else None
    if known and now and known != now:
        warnings.warn(
            f"the weights of {base} are not those that the adapter in {folder} was trained on (another dtype, or other "
            "training); name the right base with model.base",
            stacklevel=4,
        )


def _same_shape(folder: Path, settings: Any, lora: LoRAConfig, wanted: str, model: torch.nn.Module) -> None:
    """Raise ValueError if model.lora does not describe the adapter that is to be trained further."""
    for name, ours, there in (("rank", lora.rank, settings.r), ("alpha", lora.alpha, settings.lora_alpha)):
        if ours != there:
            raise ValueError(
                f"model.lora.{name} is {ours:g}, the adapter in {folder} has {there:g}: to train it further set "
                f"model.lora.{name}={there:g}; without model.lora it is merged and all weights are trained"
            )
    from peft import LoraConfig
    from peft.tuners.tuners_utils import check_target_module_exists

    mine = LoraConfig(target_modules=wanted)
    linear = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    for name in linear:
        here, there = (bool(check_target_module_exists(c, name)) for c in (mine, settings))
        if here != there:
            raise ValueError(
                f"model.lora.target_modules {'takes in' if here else 'leaves out'} {name}, which the adapter in "
                f"{folder} {'does not have' if here else 'has'}: name the same modules, or merge it (no model.lora)"
            )
