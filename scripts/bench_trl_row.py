"""Rows of scripts/bench_trl.py: TRL's trainer and ours in one process, a step of each in turn. A JSON file per row.

The clock stops between what makes a batch (sampling and rewards) and the rest, the training side: score passes, loss,
backward, optimizer. CPU time is that of this process; our rewards are computed in a worker, TRL's here (both a count of
characters).
"""

from __future__ import annotations

import mmcredit.compat  # isort: skip  # noqa: F401  # before TRL imports torchvision

import contextlib
import json
import math
import os
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from bench_trl_floor import floor
from datasets import Dataset
from PIL import Image
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer

sys.path.insert(0, str(Path(__file__).resolve().parent / "opponents"))
import tiny

from mmcredit import config
from mmcredit.train.loop import Trainer

PATCH = {"qwen2_5_vl": 14, "qwen3_vl": 16}
REWARD = (
    "def share(item):\n    return sum(c in 'aeiou0123456789' for c in item.response) / max(1, len(item.response))\n"
)
SUM = (
    "import re\n\ndef share(item):\n    found = re.findall(r'-?\\d+', item.response)\n"
    "    return float(bool(found) and found[-1] == item.answer)\n"
)


def now() -> tuple[float, float]:
    """(CPU seconds of this process, wall seconds)."""
    return time.process_time(), time.perf_counter()


class Clock:
    """CPU and wall seconds of each step, by part."""

    def __init__(self) -> None:
        self.steps: list[dict[str, dict[str, float]]] = []
        self.tokens: list[int] = []

    def add(self, sampling: tuple[float, float], whole: tuple[float, float], tokens: int) -> None:
        parts = {"sampling": sampling, "whole": whole, "training": (whole[0] - sampling[0], whole[1] - sampling[1])}
        self.steps.append({name: {"cpu": cpu, "wall": wall} for name, (cpu, wall) in parts.items()})
        self.tokens.append(tokens)

    def medians(self) -> dict[str, Any]:
        """Medians over all steps but the first."""
        rest = self.steps[1:]
        found: dict[str, Any] = {
            part: {clock: statistics.median(s[part][clock] for s in rest) for clock in ("cpu", "wall")}
            for part in ("training", "sampling", "whole")
        }
        found["tokens"] = statistics.mean(self.tokens[1:])
        return found


def minus(a: tuple[float, float], b: tuple[float, float]) -> tuple[float, float]:
    return a[0] - b[0], a[1] - b[1]


# -- the work ----------------------------------------------------------------------------------------------------------


def picture(family: str, tokens: int, number: int) -> Image.Image:
    """An image of exactly `tokens` visual tokens, 1 : 1 or 1 : 2."""
    rows = 2 ** (round(math.log2(tokens)) // 2)
    side = 2 * PATCH[family]
    image = Image.new("RGB", (tokens // rows * side, rows * side), "white")
    rng = random.Random(number)
    for _ in range(6):
        x, y = rng.randrange(image.width - 20), rng.randrange(image.height - 20)
        image.paste((rng.randrange(256), 40, 90), (x, y, x + 20, y + 20))
    return image


def make_model(row: dict[str, Any], folder: Path) -> None:
    tokenizer = tiny.tokenizer()
    if row["family"] == "text":
        model, keeper = tiny.qwen2(tokenizer, row["hidden"], row["layers"]), tokenizer
    else:
        make = tiny.qwen25vl if row["family"] == "qwen2_5_vl" else tiny.qwen3vl
        model = make(tokenizer, row["hidden"], row["layers"], row["hidden"], row["layers"])
        any_size = {"shortest_edge": 1024, "longest_edge": 2**24}  # no image is scaled
        keeper = tiny.processor(tokenizer, row["family"], size=any_size)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    keeper.save_pretrained(folder)


def data(row: dict[str, Any], folder: Path, model: Path) -> tuple[list[dict[str, Any]], list[Image.Image]]:
    """Rows for our source `jsonl`, and their images."""
    rng = random.Random(0)
    if row["family"] == "smollm2":
        pairs = [(rng.randrange(30), rng.randrange(10)) for _ in range(256)]
        return [
            {"prompt": f"What is {a} + {b}? Reply with the number only.", "answer": str(a + b)} for a, b in pairs
        ], []
    if row["family"] == "text":
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(model)
        empty = tokenizer.apply_chat_template(
            [{"role": "user", "content": ""}], add_generation_prompt=True, tokenize=False
        )
        digits = row["prompt"] - len(tokenizer(empty, add_special_tokens=False)["input_ids"])  # a digit is a token
        return [
            {"prompt": "".join(str(rng.randrange(10)) for _ in range(digits)), "answer": "1"} for _ in range(16)
        ], []
    images = [picture(row["family"], row["ratio"] * row["new"], i) for i in range(8)]
    for i, image in enumerate(images):
        image.save(folder / f"{i}.png")
    return [{"prompt": "how many", "images": [f"{i}.png"], "answer": "1"} for i in range(8)], images


# -- the two sides -----------------------------------------------------------------------------------------------------


class Timed(GRPOTrainer):
    """TRL's trainer with a clock around what makes a batch."""

    spent: tuple[float, float] = (0.0, 0.0)
    sampled = 0

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        began = now()
        output = super()._generate_and_score_completions(inputs)
        self.spent, self.sampled = minus(now(), began), int(output["completion_mask"].sum())
        return output


def trl_side(row: dict[str, Any], folder: Path, content: list[dict[str, Any]], images: list[Image.Image]) -> Timed:
    columns: dict[str, Any] = {
        "prompt": [[{"role": "user", "content": r["prompt"]}] for r in content],
        "answer": [r["answer"] for r in content],
    }
    if images:
        columns["image"] = images
    names: dict[str, Any] = {}
    exec(REWARD if row["family"] != "smollm2" else SUM, names)

    def reward(completions: Any, answer: Any, **kwargs: Any) -> list[float]:
        class Item:
            def __init__(self, response: str, answer: str) -> None:
                self.response, self.answer = response, answer

        return [names["share"](Item(c[0]["content"], a)) for c, a in zip(completions, answer, strict=True)]

    fixed = {} if row["family"] == "smollm2" else {"min_new_tokens": row["new"]}
    if images:
        read = json.loads((folder / "config.json").read_text())
        fixed["suppress_tokens"] = [read["image_token_id"], read["video_token_id"]]
    settings = GRPOConfig(
        output_dir=tempfile.mkdtemp(), use_cpu=True, bf16=False,
        per_device_train_batch_size=row["prompts"] * row["group"],
        num_generations=row["group"], gradient_accumulation_steps=1, max_completion_length=row["new"],
        max_steps=row["steps"] + 1, learning_rate=1e-4, temperature=1.0, beta=0.0, logging_steps=1, report_to=[],
        save_strategy="no", seed=0, gradient_checkpointing=False, disable_tqdm=True, generation_kwargs=fixed,
        loss_type="dapo", model_init_kwargs={"dtype": "float32"},
    )  # fmt: skip
    extra = {}
    if row.get("lora"):
        from peft import LoraConfig

        modules = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
        extra["peft_config"] = LoraConfig(r=row["lora"], lora_alpha=32, target_modules=modules)
    return Timed(
        model=str(folder), reward_funcs=reward, args=settings, train_dataset=Dataset.from_dict(columns), **extra
    )


def our_side(row: dict[str, Any], model: Path, folder: Path, content: list[dict[str, Any]]) -> Trainer:
    (folder / "train.jsonl").write_text("".join(json.dumps(r) + "\n" for r in content))
    (folder / "share.py").write_text(REWARD if row["family"] != "smollm2" else SUM)
    fixed = {} if row["family"] == "smollm2" else {"min_new_tokens": row["new"]}
    run = config.parse(
        {
            "run": {"dir": str(folder / "run"), "steps": row["steps"] + 1, "threads": row["threads"]},
            "model": {"path": str(model), **({"lora": {"rank": row["lora"]}} if row.get("lora") else {})},
            "data": {"train": {"jsonl": {"path": str(folder / "train.jsonl")}}, "media": {"root": str(folder)}},
            "rollout": {
                "prompts": row["prompts"], "group": row["group"], "sampling": {"max_new_tokens": row["new"], **fixed},
            },
            "rewards": [{"function": {"path": f"{folder / 'share.py'}:share"}}],
            "train": {"learning_rate": 1e-4, "schedule": "linear"},
            "log": {"tensorboard": False, "samples_every": 0},
            "checkpoint": {"every": 0, "final": False},
        }
    )  # fmt: skip
    return Trainer(run)


def our_step(trainer: Trainer, number: int, clock: Clock) -> None:
    """One step of ours; sampling ends where the batch is made."""
    spent = []
    make = trainer.stage.run

    def timed(step: int) -> Any:
        began = now()
        batch = make(step)
        spent.append((minus(now(), began), int(batch.rollouts.mask.sum())))
        return batch

    trainer.stage.run = timed  # type: ignore[method-assign]
    began = now()
    trainer._one_step(number)
    whole = minus(now(), began)
    trainer.stage.run = make  # type: ignore[method-assign]
    trainer.step += 1
    clock.add(spent[0][0], whole, spent[0][1])


def measure(row: dict[str, Any]) -> dict[str, Any]:
    """Medians of both sides, the arithmetic, and the load of the machine."""
    torch.set_num_threads(row["threads"])
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name, contextlib.redirect_stdout(sys.stderr):
        folder = Path(name)
        model = Path(row["model"]) if row["family"] == "smollm2" else folder / "model"
        if row["family"] != "smollm2":
            make_model(row, model)
        content, images = data(row, folder, model)
        theirs = trl_side(row, model, content, images)
        ours = our_side(row, model, folder, content)
        clocks = {"trl": Clock(), "ours": Clock()}
        began = [now()]

        class Turns(TrainerCallback):
            def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
                """TRL's step began when it was asked for a batch, before this is called."""

            def on_step_end(self, *args: Any, **kwargs: Any) -> None:
                clocks["trl"].add(theirs.spent, minus(now(), began[0]), theirs.sampled)
                our_step(ours, len(clocks["ours"].steps), clocks["ours"])
                began[0] = now()

        theirs.add_callback(Turns())
        began[0] = now()
        theirs.train()
        lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
        active = statistics.mean(json.loads(x)["policy/active_responses"] for x in lines[1:])
        prompt = statistics.mean(len(ours.parts.policy.encode(ours.parts.samples[i])) for i in range(8))
        patches = 0
        if images:
            grid = ours.parts.policy.encode(ours.parts.samples[0]).media["image_grid_thw"]
            patches = int(grid.prod())
        bound = floor(ours.parts.policy.body, row, prompt, patches, clocks["ours"].medians()["tokens"])
        ours.close()
        load = max(load, os.getloadavg()[0])
    return {
        "row": row, "steps": row["steps"], "load": f"{load:.1f}", "active": active, "floor": bound, "prompt": prompt,
        "trl": clocks["trl"].medians(), "ours": clocks["ours"].medians(),
    }  # fmt: skip


def main() -> None:
    """Measure rows: pairs of a file to write and the row as JSON."""
    for place, spec in zip(sys.argv[1::2], sys.argv[2::2], strict=True):
        Path(place).write_text(json.dumps(measure(json.loads(spec))) + "\n", encoding="utf-8")
        print(place, flush=True)


if __name__ == "__main__":
    main()
