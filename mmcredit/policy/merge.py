"""`mmcredit merge`: an adapter and its base as one plain model folder."""

from __future__ import annotations

from pathlib import Path

import torch

from mmcredit.policy.adapters import is_adapter
from mmcredit.policy.config import ModelConfig
from mmcredit.policy.load import load_model, resolve_path
from mmcredit.policy.save import DTYPES, save_model, write_aside


def merge(
    path: str, output: Path, *, base: str | None = None, dtype: str | None = None, trust_remote_code: bool = False
) -> torch.dtype:
    """Write the adapter at `path`, merged into its base, to the folder `output`; returns the dtype of its weights.

    Merged in float32 on the CPU and rounded once, to `dtype` (default: that of the base). Raises ValueError if `path`
    holds no adapter, `output` is taken, or the dtype is unknown.
    """
    folder = Path(resolve_path(path))
    if not folder.is_dir() or not is_adapter(folder):
        raise ValueError(f"{path} holds no adapter ({folder / 'adapter_config.json'}): there is nothing to merge")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ValueError(f"-o {output} exists already; name a new or empty folder")
    if dtype is not None and dtype not in DTYPES:
        raise ValueError(f"--dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    config = ModelConfig(path=path, base=base, dtype="float32", device="cpu", trust_remote_code=trust_remote_code)
    model, tokenizer, processor = load_model(config)
    wanted: torch.dtype = getattr(torch, dtype) if dtype is not None else model.source_dtype or torch.float32  # type: ignore[assignment]

    def write(aside: Path) -> None:
        save_model(model, aside, wanted)
        (processor or tokenizer).save_pretrained(aside)

    write_aside(output, write)
    return wanted
