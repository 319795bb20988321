"""A trained model folder as one that ships: weights rounded to bfloat16, measured as rounded, with its provenance.

    python scripts/ship_model.py runs/scenes_describe/model prm/assets/tiny-qwen2_5-vl-scenes-describe --task scenes \
        --command "mmcredit sft sft_scenes_describe"

The measures are those of `effect_perceval.py` for the task, on its held-out questions.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
from pathlib import Path

import torch
import transformers
from effect_perceval import evaluate
from perceval_tasks import TASKS
from safetensors.torch import load_file, save_file

KEPT = (
    "chat_template.jinja", "config.json", "generation_config.json", "processor_config.json",
    "tokenizer.json", "tokenizer_config.json",
)  # fmt: skip


def rounded(source: Path, target: Path) -> int:
    """Copy a model folder with bfloat16 weights; its number of parameters."""
    weights = load_file(source / "model.safetensors")
    target.mkdir(parents=True, exist_ok=True)
    small = {name: w.to(torch.bfloat16).contiguous() for name, w in weights.items()}
    save_file(small, target / "model.safetensors", metadata={"format": "pt"})
    for name in KEPT:
        shutil.copyfile(source / name, target / name)
    (target / "model.safetensors").chmod(0o644)
    return sum(w.numel() for w in weights.values())


def main() -> None:
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("source", type=Path)
    parse.add_argument("target", type=Path)
    parse.add_argument("--task", choices=list(TASKS), required=True)
    parse.add_argument("--command", required=True, help="what made the folder")
    parse.add_argument("--limit", type=int, default=1000, help="held-out questions (default 1000)")
    options = parse.parse_args()
    record = {
        "command": options.command,
        "parameters": rounded(options.source, options.target),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }
    limit = (f"evaluate.limit={options.limit}",)
    task = TASKS[options.task]
    for mode, temperature in (("greedy", 0.0), ("sampled", 1.0)):
        record[mode] = {k: round(v, 4) for k, v in evaluate(task, str(options.target), limit, temperature).items()}
    (options.target / "provenance.json").write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
