"""R2R, Arbitrage and TokenSelect on chains of sums: accuracy, share of large-model tokens and CPU seconds.

    python scripts/effect_decoding.py --model models/SmolLM2-135M-Instruct --output runs/effect_decoding

The large model is SmolLM2-135M-Instruct, the small one a new Llama of 7M parameters with its tokenizer; `mmcredit sft`
trains both on worked chains "12 + 7 = 19", a blank line, "19 + 30 = 49", a blank line, "Answer: 49". Every decoding
then answers the same held-out chains, greedy, one at a time. Writes `decoding.md` and `decoding.json`; what is there is
not made again.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.console import Console

from mmcredit import config as run_config
from mmcredit.components import build
from mmcredit.evaluate import usable
from mmcredit.evaluate.accuracy import evaluate
from mmcredit.evaluate.held_out import evaluation_sampling, evaluation_seeds
from mmcredit.intervals import paired_gain, proportion
from mmcredit.policy.policy import Policy
from mmcredit.prepare import held_out_samples, make_pool, seed_everything
from mmcredit.supervised.command import run as fit
from mmcredit.supervised.config import SFTConfig, load

SMALL = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 4,
         "num_key_value_heads": 2, "head_dim": 32}  # fmt: skip
SEPARATOR = "\n\n"


def chain(numbers: list[int]) -> dict[str, str]:
    """A question, its worked answer and the sum."""
    steps, total = [], numbers[0]
    for number in numbers[1:]:
        steps.append(f"{total} + {number} = {total + number}")
        total += number
    asked = "What is " + " + ".join(map(str, numbers)) + "? Add one number at a time."
    return {"prompt": asked, "completion": SEPARATOR.join([*steps, f"Answer: {total}"]), "answer": str(total)}


def write_chains(folder: Path, train: int, test: int) -> None:
    """Chains of three numbers below 100; no held-out chain is trained on."""
    draw, rows = random.Random(0), {}
    while len(rows) < train + test:
        numbers = [draw.randrange(1, 100) for _ in range(3)]
        rows[tuple(numbers)] = chain(numbers)
    every = list(rows.values())
    for name, part in (("test", every[:test]), ("train", every[test:])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))


def tiny(model: str, folder: Path) -> None:
    """A new model of the same family, far smaller, with the tokenizer of `model`."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    config = AutoConfig.from_pretrained(model)
    for name, value in SMALL.items():
        setattr(config, name, value)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    AutoTokenizer.from_pretrained(model).save_pretrained(folder)


def taught(options: Namespace, start: str, name: str, steps: int, rate: float, batch: int) -> str:
    """The folder of a model after supervised training on the chains."""
    folder = options.output / name
    if not (folder / "model" / "config.json").exists():
        words = {
            "run": {"name": name, "dir": str(folder), "threads": 1},
            "model": {"path": start, "dtype": "float32", "save_dtype": "float32"},
            "data": {"train": {"jsonl": {"path": str(options.output / "train.jsonl")}},
                     "evaluate": {"jsonl": {"path": str(options.output / "test.jsonl")}}, "max_tokens": 256},
            "train": {"batch": batch, "steps": steps, "learning_rate": rate, "warmup_steps": 5, "token_budget": 4096},
            "evaluate": {"limit": 50}, "log": {"tensorboard": False}, "checkpoint": {"every": 0},
        }  # fmt: skip
        path = options.output / f"{name}.yaml"
        path.write_text(yaml.safe_dump(words))
        shutil.rmtree(folder, ignore_errors=True)
        fit(load(SFTConfig, path), Namespace(resume=False), Console())
    return str(folder / "model")


def questions(options: Namespace, model: str) -> Any:
    """The config of the held-out chains."""
    words = {
        "run": {"name": "chains", "dir": str(options.output / "none"), "steps": 1, "threads": 1},
        "model": {"path": model, "dtype": "float32"},
        "data": {"train": {"jsonl": {"path": str(options.output / "train.jsonl")}},
                 "evaluate": {"jsonl": {"path": str(options.output / "test.jsonl")}}},
        "rollout": {"prompts": 1, "group": 1, "sampling": {"temperature": 1.0, "max_new_tokens": 64}},
        "rewards": [{"number": {"extract": "whole"}}], "credit": ["grpo"],
        "evaluate": {"limit": options.questions, "temperature": 0.0},
    }  # fmt: skip
    path = options.output / "chains.yaml"
    path.write_text(yaml.safe_dump(words))
    return run_config.load(path)


class Table:
    """The rows that are there, and how another one is measured."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.rows: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}

    def add(self, name: str, config: Any, policy: Policy, engine: Any) -> None:
        """Answer the held-out questions of `config` with an engine, unless the row is there."""
        if name in self.rows:
            return
        seed_everything(config.run.seed)
        asked = usable.read(held_out_samples(config), policy.encode, 0.0)
        seeds = [evaluation_seeds(config, sample.id) for sample in asked.samples]
        with make_pool(config) as pool:
            began = time.process_time()
            found = evaluate(engine, pool, asked.samples, asked.prompts, evaluation_sampling(config), seeds,
                             policy.decode, config.evaluate.reward or pool.names[0])  # fmt: skip
            spent = time.process_time() - began
        self.rows[name] = {"correct": found.correct, "report": engine.report(), "cpu_seconds": spent}
        self.file.write_text(json.dumps(self.rows))
        print(name, found.accuracy, {k: round(v, 4) for k, v in engine.report().items()}, round(spent, 1), flush=True)

    def text(self, names: list[str], columns: dict[str, str], paired: bool = True) -> list[str]:
        """Markdown; gains are paired, over the first name."""
        first = self.rows[names[0]]["correct"]
        head = ["", "accuracy", "gain over the first line, points", *columns.values(), "CPU s a response"]
        lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
        for name in names:
            row = self.rows[name]
            right = row["correct"]
            gain = paired_gain(first, right)
            cells = [name, str(proportion(int(sum(right)), len(right)))]
            cells.append(
                "" if name == names[0] else f"{100 * gain.value:.1f} [{100 * gain.low:.1f}, {100 * gain.high:.1f}]"
            )
            report = row["report"]
            cells += [f"{100 * report[key]:.1f} %" if key in report else "" for key in columns]
            lines.append("| " + " | ".join([*cells, f"{row['cpu_seconds'] / len(right):.2f}"]) + " |")
        return lines


def two_models(options: Namespace, small: str, large: str) -> list[str]:
    """R2R and Arbitrage beside both models alone."""
    table = Table(options.output / "decoding.json")
    config = questions(options, small)
    policy = Policy.load(config.model)
    names = ["small model alone", "large model alone"]
    alone = build("decoding", {"r2r": {"large": large}}).open(policy).alone()
    for name, engine in zip(names, alone.values(), strict=True):
        table.add(name, config, policy, engine)
    entries: dict[str, Any] = {}
    for threshold, tau in ((0.1, 0.05), (0.45, 0.2)):
        entries[f"r2r, entropy at {threshold} nats"] = {"r2r": {"large": large, "threshold": threshold}}
        fields = {"target": large, "tau": tau, "sep": SEPARATOR}
        entries[f"arbitrage, confidence, tau {tau}"] = {"arbitrage": fields}
    entries["r2r, at random, 0.15 of the tokens"] = {"r2r": {"large": large, "router": "random", "threshold": 0.85}}
    head = options.output / "router"
    if (head / "router.json").exists():
        entries["r2r, trained head"] = {"r2r": {"large": large, "router": "head", "head": str(head)}}
    for name, entry in entries.items():
        if name not in table.rows:
            table.add(name, config, policy, build("decoding", entry).open(policy))
    return table.text([*names, *entries], {"large_share": "tokens of the large model", "step_acceptance": "steps kept"})


def budgets(options: Namespace, name: str, config: Any) -> list[str]:
    """TokenSelect at shares of the cache."""
    table = Table(options.output / f"tokenselect-{name}.json")
    policy = Policy.load(config.model, media_limits=config.data.media)
    entries = {f"{share:.0%} of the cache": {"share": share, "n_init": 4, "n_local": 4} for share in (1.0, 0.5, 0.25)}
    entries["25%, selection cache off"] = {"share": 0.25, "n_init": 4, "n_local": 4, "theta": None}
    entries["first 4 and last 4 alone"] = {"k": 1, "n_init": 4, "n_local": 4}
    for label, fields in entries.items():
        table.add(label, config, policy, build("decoding", {"tokenselect": fields}).open(policy))
    columns = {"attended_share": "keys attended to", "reused_share": "selections used again"}
    return table.text(list(entries), columns)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder of SmolLM2-135M-Instruct (scripts/fetch_smollm2.sh)")
    parser.add_argument("--output", type=Path, default=Path("runs/effect_decoding"))
    parser.add_argument("--questions", type=int, default=80)
    parser.add_argument("--small-steps", type=int, default=160)
    parser.add_argument("--large-steps", type=int, default=10)
    parser.add_argument("--parts", nargs="+", default=["train", "two", "chains", "scenes"])
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    if not (options.output / "train.jsonl").exists():
        write_chains(options.output, 16000, 200)
    if "scenes" in options.parts:
        words = [f"evaluate.limit={3 * options.questions}", "evaluate.temperature=0", "run.threads=1"]
        lines = budgets(options, "scenes", run_config.load("scenes", None, words))
        (options.output / "tokenselect-scenes.md").write_text("\n".join(lines) + "\n")
    if {"train", "two", "chains"} & set(options.parts):
        if not (options.output / "new" / "config.json").exists():
            tiny(options.model, options.output / "new")
        small = taught(options, str(options.output / "new"), "small", options.small_steps, 3e-3, 16)
        large = taught(options, options.model, "large", options.large_steps, 1e-4, 16)
    if "two" in options.parts:
        (options.output / "decoding.md").write_text("\n".join(two_models(options, small, large)) + "\n")
    if "chains" in options.parts:
        lines = budgets(options, "chains", questions(options, large))
        (options.output / "tokenselect-chains.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
