"""Small runs of the tiny text model and the tiny vision-language model, for tests of strategies."""

from __future__ import annotations

import json

from runs import settings
from tiny import save, tiny_text

from mmcredit import config
from mmcredit.train.loop import Trainer


def run_config(tmp_path, kind, **changes):
    """A checked config of a `text` or `vlm` run; `changes` are dotted overrides with `__` for the dots."""
    own = {"credit": ["grpo"]}
    if kind == "text":
        folder = tmp_path / "text"
        if not folder.exists():
            model, tokenizer = tiny_text("qwen3", spread=0.15)
            save(model, tokenizer, folder)
            rows = ({"prompt": f"{i} + {i} =", "answer": str(2 * i)} for i in range(20))
            (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        own |= {"model__path": str(folder), "data__train": {"jsonl": {"path": str(tmp_path / "train.jsonl")}}}
    return config.parse(settings(tmp_path, **(own | changes)))


def make(tmp_path, kind, **changes):
    """A trainer that is ready to run."""
    return Trainer(run_config(tmp_path, kind, **changes))
