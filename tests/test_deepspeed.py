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
from mmcredit.report.samples import read_samples
from mmcredit.train.loop import Trainer

pytest.importorskip("deepspeed", reason="the extra deepspeed is not installed")

import fake_verifier  # noqa: F401
import rank_faults  # noqa: F401

METHODS: dict[str, dict[str, Any]] = {
    "grpo": {"credit": ["grpo"]},
    "pgpo": {"credit": ["grpo", {"pgpo": {}}]},
    "dcpo": {"credit": ["dcpo"], "objective": {"clip": {"dcpo": {}}}},
    "hapo": {"credit": ["hapo"], "train__mini_batches": 2},
    "tempo": {"credit": ["tempo"]},
    "roma": {"credit": ["grpo"], "objective": {"regularizers": [{"roma": {"kl": 0.01, "aux": 0.1, "views": 2}}]}},
    "dynamic": {"credit": ["grpo"], "rollout__strategies": ["dynamic_sampling"]},
    # Every signal that credit methods read, and both kinds of masked and reference passes.
    "signals": {
        "credit": ["grpo"],
        "log__signals": [
            "entropy", "blind_logprobs", "visual_kl", "masked_logprobs", "ref_logprobs", "divergence", "self_certainty",
            "sampled_logit", "attention_entropy", "unit_id",
        ],
        "objective": {
            "regularizers": [{"papo": {}}, {"kl": {"coef": 0.1, "estimator": "exact"}}],
            "mismatch": {"kind": "sequence_tis"},
        },
        "train__epochs": 2,
    },
    # What remembers, draws, drops and mixes; answers of the sampler end on an "a".
    "strategies": {
        "credit": ["r3", {"fake_penalty": {}}],
        "verifiers": [{"fake_letters": {"groups": "all"}}],
        "rollout__strategies": [
            {"d3s_selection": {"n_init": 50, "n_final": 50}}, "dynamic_sampling", "overlong_filter",
            {"replay": {"tau": 0.5}}, "noisy_rollout", "adaptive_temperature",
        ],
        "rollout__sampling": {"max_new_tokens": 8, "stop": ["a"]},
        "data__evaluate": {"easy_vqa": {"split": "test", "limit": 5}},
        "evaluate": {"every": 1, "samples": 2, "temperature": 1.0, "reward": "function"},
    },
    # One prompt, two responses, one of them in the loss: ranks without a request, a row or a gradient.
    "lone": {
        "credit": ["grpo"],
        "rollout__prompts": 1,
        "rollout__group": 2,
        "rollout__strategies": [{"d3s_selection": {"n_init": 50, "n_final": 50}}],
    },
}  # fmt: skip
STAGES = {"lone": 1}  # ZeRO stages of these runs, where not the engine's own default
# Whose standard deviation is small: rounding is divided by it.
LOOSE = ("credit/hapo/entropy_high", "rollout/adaptive_temperature/high")


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
                rough = 50 if key in LOOSE else 1
                assert theirs[key] == pytest.approx(value, rel=20 * tolerance * rough, abs=tolerance), (other.name, key)
    compare_weights(one, other, weights)
    compare_files(one, other)


def compare_files(one: Path, other: Path) -> None:
    """Answers, evaluations, alarms and the sample tables of two runs, and what sampling cost."""
    for name in ("answers.jsonl", "evaluations.jsonl"):
        mine, theirs = (read_lines(run / name) for run in (one, other))
        assert len(mine) == len(theirs)
        for a, b in zip(mine, theirs, strict=True):
            assert a.keys() == b.keys()
            for key in a.keys() - {"time", "seconds"}:
                near = pytest.approx(a[key], rel=1e-5, abs=1e-6) if isinstance(a[key], float) else a[key]
                assert b[key] == near, (other.name, name, key)
    mine, theirs = (
        [(e["step"], e["kind"], e["level"], e.get("data")) for e in read_lines(run / "events.jsonl")]
        for run in (one, other)
    )
    assert mine == theirs, other.name
    tables = sorted(path.name for path in (one / "samples").glob("*.parquet"))
    assert tables == sorted(path.name for path in (other / "samples").glob("*.parquet"))
    for name in tables:
        for a, b in zip(*(read_samples(run / "samples" / name) for run in (one, other)), strict=True):
            assert (a["token_ids"], a["mask"], a["verdicts"]) == (b["token_ids"], b["mask"], b["verdicts"])
            assert a["reward"] == b["reward"]
            assert b["advantages"] == pytest.approx(a["advantages"], rel=1e-3, abs=1e-5), (other.name, name)
            for x, y in zip(a["signals"], b["signals"], strict=True):
                assert x["name"] == y["name"]
                assert y["values"] == pytest.approx(x["values"], rel=1e-4, abs=1e-5, nan_ok=True), (name, x["name"])
    mine, theirs = (json.loads((run / "cost.json").read_text()) for run in (one, other))
    for stage, amounts in mine["stages"].items():
        own = {k: v for k, v in amounts.items() if "seconds" not in k}
        assert own == {k: v for k, v in theirs["stages"][stage].items() if "seconds" not in k}, (other.name, stage)
    # Not to the digit: a response that has ended is computed on until the others of its rank have ended.
    drawn = [cost["passes"]["rollout"]["positions"] for cost in (mine, theirs)]
    assert drawn[1] == pytest.approx(drawn[0], rel=0.25), other.name


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Rows of a file of JSON lines; none if it is not there."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


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
        engine = {"deepspeed": {"stage": STAGES[name]}} if name in STAGES else "deepspeed"
        scenarios.append({"config": plan(tmp_path, f"{name}-2", engine, **changes), "plugin": "fake_verifier"})
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


def test_a_mistake_of_one_rank_is_an_error_of_all(tmp_path: Path) -> None:
    """Ranks that would train on different batches say so, each of them."""
    faults = {
        "of_this_process": "ranks 0 and 1 give response 0 different credit",
        "lost_picture": "ranks 0 and 1 have different prompts",  # the last one: it stays in the process
    }
    scenarios = [
        {"config": plan(tmp_path, name, "deepspeed", credit=["grpo", name]), "plugin": "rank_faults", "error": error}
        for name, error in faults.items()
    ]
    launch(tmp_path / "two", scenarios, 2)
    for name in faults:
        assert not metrics(tmp_path / name)


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
        # REL is rounding as long as the model is where it began.
        **({"selection": {"sstoken": {"rel_warmup_samples": 7}}} if what == "sft" else {"loss": "t_reg"}),
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
    forwards = [json.loads((run / "cost.json").read_text())["passes"] for run in runs]
    assert forwards[0].keys() == forwards[1].keys()
    assert all(forwards[1][view]["positions"] >= own["positions"] for view, own in forwards[0].items())
    compare_weights(*runs, weights=2e-6)
