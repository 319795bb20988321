"""Small real training runs for tests: easy-VQA images, a tiny untrained Qwen2.5-VL, a reward that differs at once."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tiny import save, tiny_vl

from mmcredit import config

# An untrained model never answers right; the share of vowels in its text differs between any two responses.
REWARD = """
def vowels(item):
    return sum(c in "aeiou" for c in item.response) / max(1, len(item.response))
"""


def model_folder(tmp_path: Path, family: str = "qwen2_5_vl") -> Path:
    """A saved tiny model."""
    folder = tmp_path / family
    if not folder.exists():
        model, processor = tiny_vl(family)
        save(model, processor, folder)
    return folder


def settings(tmp_path: Path, **changes: Any) -> dict[str, Any]:
    """A run config as plain data; `changes` are dotted overrides with `__` for the dots."""
    reward = tmp_path / "vowels.py"
    reward.write_text(REWARD)
    base = {
        "run": {"dir": str(tmp_path / "run"), "steps": 3, "threads": 1},
        "model": {"path": str(model_folder(tmp_path))},
        "data": {"train": {"easy_vqa": {"split": "train", "limit": 40}}},
        "rollout": {"prompts": 4, "group": 4, "sampling": {"max_new_tokens": 8}},
        "rewards": [{"function": {"path": f"{reward}:vowels"}}],
        "train": {"learning_rate": 1e-3},
        "log": {"tensorboard": False, "samples_every": 2},
        "checkpoint": {"every": 0, "final": False},
    }
    for name, value in changes.items():
        *path, last = name.split("__")
        block = base
        for key in path:
            block = block.setdefault(key, {})
        block[last] = value
    return copy.deepcopy(base)


def parse(tmp_path: Path, **changes: Any) -> config.RunConfig:
    """The checked config of `settings`."""
    return config.parse(settings(tmp_path, **changes))


def metrics(run_dir: Path) -> list[dict[str, Any]]:
    """Rows of metrics.jsonl without what measures time."""
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "time" and not k.startswith("cost/")} for row in rows]


def run_python(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program text in a fresh interpreter that sees the test modules."""
    tests = str(Path(__file__).resolve().parent)
    return subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {tests!r})\n{program}", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
