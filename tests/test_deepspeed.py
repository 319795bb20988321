"""DeepSpeed on real processes against the local engine: the same numbers, whatever is spread over how many ranks."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import launch
from runs import metrics, settings
from safetensors.torch import load_file
from tiny import save, tiny_png, tiny_text

from mmcredit import config
from mmcredit.train.loop import Trainer

pytest.importorskip("deepspeed", reason="the extra deepspeed is not installed")

METHODS: dict[str, dict[str, Any]] = {
    "grpo": {"credit": ["grpo"]},
    "pgpo": {"credit": ["grpo", {"pgpo": {}}]},
    "dcpo": {"credit": ["dcpo"], "objective": {"clip": {"dcpo": {}}}},
    "hapo": {"credit": ["hapo"], "train__mini_batches": 2},
    "tempo": {"credit": ["tempo"]},
    "roma": {"credit": ["grpo"], "objective": {"regularizers": [{"roma": {"kl": 0.01, "aux": 0.1, "views": 2}}]}},
    "dynamic": {"credit": ["grpo"], "rollout__strategies": ["dynamic_sampling"]},
}


def plan(tmp_path: Path, name: str, engine: Any, **changes: Any) -> dict[str, Any]:
    run = {"run__dir": str(tmp_path / name), "run__steps": 2, "train__engine": engine, "checkpoint__final": True}
    run |= {"train__learning_rate": 1e-5}
    return settings(tmp_path, **(run | changes))


def local(tmp_path: Path, name: str, **changes: Any) -> Path:
    found = plan(tmp_path, name, "local", **changes)
    Trainer(config.parse(found)).run()
    return Path(found["run"]["dir"])


def compare(one: Path, other: Path, tolerance: float = 1e-6, weights: float = 2e-6) -> None:
    """Metrics and weights of two runs. AdamW divides a gradient by its size: where that is no more than rounding, a
    weight may differ by a good part of the learning rate (1e-5) if gradients were added up in another order."""
    for mine, theirs in zip(metrics(one), metrics(other), strict=True):
        assert mine.keys() == theirs.keys()
        for key, value in mine.items():
            if isinstance(value, float):
                assert theirs[key] == pytest.approx(value, rel=20 * tolerance, abs=tolerance), (other.name, key)
    compare_weights(one, other, weights)


def compare_weights(one: Path, other: Path, weights: float = 2e-6) -> None:
    """The saved models of two runs."""
    mine, theirs = (load_file(run / "model" / "model.safetensors") for run in (one, other))
    assert mine.keys() == theirs.keys()
    for key, value in mine.items():
        assert float((value - theirs[key]).abs().max()) < weights, (other.name, key)


def test_methods_give_the_numbers_of_one_process(tmp_path: Path) -> None:
    scenarios = []
    for name, changes in METHODS.items():
        local(tmp_path, f"{name}-local", **changes)
        scenarios.append({"config": plan(tmp_path, f"{name}-2", "deepspeed", **changes)})
    launch(tmp_path / "two", scenarios, 2)
    for name in METHODS:
        compare(tmp_path / f"{name}-local", tmp_path / f"{name}-2")


@pytest.mark.parametrize("ranks", [1, 2])
def test_zero_stages_give_the_same_weights(tmp_path: Path, ranks: int) -> None:
    # A trained tower and micro-batches of one response.
    mixed = {"run__steps": 5, "train__token_budget": 1, "train__max_grad_norm": 0.1, "train__weight_decay": 0.1}
    local(tmp_path, "local", **mixed)
    stages = [{"deepspeed": {"stage": stage}} for stage in (0, 1, 2, 3)]
    stages += [{"deepspeed": {"stage": 3, "offload_optimizer": True}}]
    scenarios = [{"config": plan(tmp_path, f"stage{i}", stage, **mixed)} for i, stage in enumerate(stages)]
    launch(tmp_path / "ranks", scenarios, ranks)
    compare(tmp_path / "local", tmp_path / "stage0")
    for i in range(1, len(stages)):
        compare(tmp_path / "stage0", tmp_path / f"stage{i}", weights=1e-6)


def test_a_checkpoint_goes_on_with_other_ranks_and_engines(tmp_path: Path) -> None:
    changes = {"run__steps": 6, "checkpoint__every": 2, "checkpoint__keep": 9, "train__schedule": "linear"}
    whole = local(tmp_path, "whole", **changes)

    def leg(name: str, after: Path, step: int, engine: Any) -> dict[str, Any]:
        """A run that goes on from the checkpoint of `step` of another."""
        found = plan(tmp_path, name, engine, **changes)
        folder = Path(found["run"]["dir"]) / "checkpoints"
        folder.mkdir(parents=True)
        shutil.copytree(after / "checkpoints" / f"step-{step:06d}", folder / f"step-{step:06d}")
        return found

    two = leg("two", whole, 2, "deepspeed")
    three = plan(tmp_path, "three", {"deepspeed": {"stage": 3}}, **changes)
    launch(tmp_path / "ranks", [{"config": two, "resume": True}, {"config": three}], 2)
    compare_weights(whole, tmp_path / "two")
    compare_weights(whole, tmp_path / "three")
    one = leg("one", tmp_path / "three", 4, "local")
    Trainer(config.parse(one), resume=True).run()
    compare_weights(whole, tmp_path / "one")
    again = leg("again", tmp_path / "one", 6, {"deepspeed": {"stage": 1}})
    again["run"]["steps"] = 7
    launch(tmp_path / "again", [{"config": again, "resume": True}], 2)
    assert [row["step"] for row in metrics(tmp_path / "again")] == [6]


def test_ranks_with_and_without_images_stay_in_step(tmp_path: Path) -> None:
    """Prompts with and without an image, one response at a time: a rank without one runs the tower on a blank."""
    rows = []
    for i in range(20):
        content = [{"type": "text", "text": f"say {i}"}]
        if i % 3 == 0:
            (tmp_path / f"{i}.png").write_bytes(tiny_png(56, i))
            content.insert(0, {"type": "image"})
        rows.append({"messages": [{"role": "user", "content": content}], "images": [f"{i}.png"] * (i % 3 == 0)})
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    mixed = {
        "data__train": {"jsonl": {"path": str(tmp_path / "train.jsonl")}},
        "data__media": {"root": str(tmp_path)},
        "train__token_budget": 1,
        "check__image_probe": False,
    }
    alone = local(tmp_path, "local", **mixed)
    stages = [{"deepspeed": {"stage": stage}} for stage in (1, 2, 3)]
    scenarios = [{"config": plan(tmp_path, f"stage{i}", stage, **mixed)} for i, stage in enumerate(stages)]
    launch(tmp_path / "ranks", scenarios, 2)
    for i in range(1, len(stages)):
        compare(tmp_path / "stage0", tmp_path / f"stage{i}")
    # In a step without any image ZeRO's flat buffers go on with the tower's momentum; one process leaves it alone.
    mine, theirs = (load_file(run / "model" / "model.safetensors") for run in (alone, tmp_path / "stage0"))
    assert all(float((v - theirs[n]).abs().max()) < 2e-6 for n, v in mine.items() if "visual" not in n)
    frozen = mixed | {"model__freeze_vision": True}
    local(tmp_path, "frozen", **frozen)
    launch(tmp_path / "again", [{"config": plan(tmp_path, "frozen3", stages[2], **frozen)}], 2)
    compare(tmp_path / "frozen", tmp_path / "frozen3")


def test_adapters_and_bfloat16(tmp_path: Path) -> None:
    """LoRA under ZeRO-3 as in one process; bfloat16 weights with float32 masters move at a rate below their spacing."""
    lora = {"model__lora": {"rank": 4}}
    local(tmp_path, "lora-local", **lora)
    narrow = {"model__dtype": "bfloat16", "check__parity": False}
    scenarios = [
        {"config": plan(tmp_path, "lora", {"deepspeed": {"stage": 3}}, **lora)},
        {"config": plan(tmp_path, "bf16", {"deepspeed": {"stage": 2}}, **narrow)},
    ]
    launch(tmp_path / "ranks", scenarios, 2)
    mine, theirs = (
        load_file(tmp_path / name / "model" / "adapter_model.safetensors") for name in ("lora-local", "lora")
    )
    assert mine.keys() == theirs.keys()
    assert all(float((mine[name] - theirs[name]).abs().max()) < 2e-6 for name in mine)
    step = next((tmp_path / "bf16" / "checkpoints").glob("step-*"))
    masters = load_file(step / "training.safetensors")
    assert any(value.dtype == torch.float32 and bool((value != value.bfloat16()).any()) for value in masters.values())


@pytest.mark.parametrize("what", ["sft", "dpo"])
def test_supervised_runs_on_two_ranks_are_those_of_one(tmp_path: Path, what: str) -> None:
    """`mmcredit launch --what`: loss, held-out measures and weights."""
    rows = [
        {"prompt": f"what is {i} + {i}", "chosen": f"it is {2 * i}" + " red" * (i % 4), "rejected": "no"}
        for i in range(20)
    ]
    if what == "sft":
        rows = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in rows]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"jsonl": {"path": str(tmp_path / "rows.jsonl")}}
    plain = {
        "model": {"path": str(save(*tiny_text(), tmp_path / "model"))},
        "data": {"train": source, "evaluate": source},
        "train": {"batch": 6, "steps": 3, "learning_rate": 1e-4, "token_budget": 60},
        "log": {"tensorboard": False},
    }
    (tmp_path / "run.yaml").write_text(json.dumps(plain))
    runs = [tmp_path / "one", tmp_path / "two"]
    for run, words in zip(runs, ([what], ["launch", "--what", what, "--processes", "2"]), strict=True):
        engine = "local" if run.name == "one" else "deepspeed"
        command = [sys.executable, "-m", "mmcredit.cli", words[0], str(tmp_path / "run.yaml"), *words[1:]]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(
            [*command, f"run.dir={run}", f"train.engine={engine}", "run.threads=1"],
            capture_output=True, text=True, timeout=600, env=environment, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:] + done.stdout[-2000:]
    for name in ("metrics.jsonl", "held_out.jsonl"):
        mine, theirs = ([json.loads(line) for line in (run / name).read_text().splitlines()] for run in runs)
        assert len(mine) == len(theirs) > 0
        for one, two in zip(mine, theirs, strict=True):
            for key, value in one.items():
                if isinstance(value, float) and key != "time" and not key.startswith("cost/"):
                    assert two[key] == pytest.approx(value, rel=2e-5, abs=1e-6), (name, key)
    compare_weights(*runs, weights=2e-6)
