"""The numeric core on a GPU, throughput by layout, and vision methods beside GRPO; see check.sh."""

from __future__ import annotations

import argparse
import gc
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import workload
from workload import FULL, TINY, Shape

from mmcredit import Objective, assign_credit
from mmcredit.components import Needs
from mmcredit.config import TrainBlock
from mmcredit.credit import Pipeline
from mmcredit.policy.passes import BLIND, CLEAN, Pass
from mmcredit.policy.views import furnish_views
from mmcredit.signals.plan import plan_scores
from mmcredit.train.engines.local import LocalEngine
from mmcredit.train.update import Updater, signals_for_update

# Dense bf16 peak of the chips this may run on, FLOP/s (NVIDIA data sheets, SXM); others are stated without MFU.
PEAK = {"H100": 989e12, "H200": 989e12, "A100": 312e12}


def main() -> None:
    """Run the three parts and print Markdown."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--tiny", action="store_true", help="small shapes, also on a CPU: does the script run?")
    options.add_argument("--repeats", type=int, default=3)
    chosen = options.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu" and not chosen.tiny:
        raise SystemExit("no CUDA device; --tiny tries the script on a CPU")
    warnings.simplefilter("ignore")
    shape = TINY if chosen.tiny else FULL
    import transformers

    name = torch.cuda.get_device_name() if device.type == "cuda" else platform.machine()
    print(f"# On one GPU\n\n{name}; Python {platform.python_version()}, torch {torch.__version__}, ", end="")
    print(f"transformers {transformers.__version__}; `bash scripts/gpu/check.sh`\n")
    began = time.perf_counter()
    agreement(device)
    layouts(shape, device, chosen.repeats, name)
    methods(shape, device, chosen.repeats)
    print(f"\nAll of it took {time.perf_counter() - began:.0f} s.")


def agreement(device: torch.device) -> None:
    """Layouts, views and gradients on the device against float32 on the CPU."""
    print("## The numeric core\n\nLargest difference of log-probs (nats) and of a gradient (relative to its norm).\n")
    print("dtype | pass | shared - padded | device - CPU float32 | gradient, shared - padded")
    print("---|---|---|---|---")
    wanted = [Pass(CLEAN, frozenset({"logprobs", "entropy", "kl_to:blind"})), Pass(BLIND, frozenset({"logprobs"}))]
    reference: dict[str, torch.Tensor] = {}
    for place, dtype in ((torch.device("cpu"), "float32"), (device, "float32"), (device, "bfloat16")):
        torch.manual_seed(0)
        parts = workload.model(TINY, torch.float32, torch.device("cpu"))
        parts[0].to(place, getattr(torch, dtype))
        found: dict[str, dict[str, torch.Tensor]] = {}
        gradients = {}
        for layout in ("shared", "padded"):
            owner = workload.policy(parts, layout, dtype, checkpointing=False)
            asked = workload.prompts(owner, 2, 16)
            batch = workload.rollouts(owner, asked, 4, TINY.response, place)
            scores = owner.score(asked, batch, wanted, temperature=1.0)
            found[layout] = {
                "clean log-probs": scores[CLEAN]["logprobs"].cpu(),
                "entropy": scores[CLEAN]["entropy"].cpu(),
                "exact KL seen/blind": scores[CLEAN]["kl_to:blind"].cpu(),
                "blind log-probs": scores[BLIND]["logprobs"].cpu(),
            }
            out = owner.forward(
                asked, batch, range(len(batch)), [Pass(CLEAN, frozenset({"logprobs"}))], temperature=1.0
            )
            out[CLEAN]["logprobs"].sum().backward()
            kept = [p.grad.float().flatten().cpu() for p in owner.trainable_parameters().values() if p.grad is not None]
            gradients[layout] = torch.cat(kept)
            parts[0].zero_grad()
        if place.type == "cpu" and not reference:
            reference = found["padded"]
            if device.type != "cpu":
                continue
        apart = float((gradients["shared"] - gradients["padded"]).norm() / gradients["padded"].norm())
        for name, value in found["shared"].items():
            mine = float((value - found["padded"][name]).abs().max())
            theirs = float((value - reference[name]).abs().max())
            print(f"{dtype} | {name} | {mine:.1e} | {theirs:.1e} | {apart:.1e}", flush=True)


def timed(job: Callable[[], Any], repeats: int, device: torch.device) -> tuple[float, float]:
    """(median seconds, peak MiB) of a job that has run once."""
    seconds = []
    for repeat in range(repeats + 1):
        gc.collect()
        if device.type == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        began = time.perf_counter()
        job()
        if device.type == "cuda":
            torch.cuda.synchronize()
        if repeat:
            seconds.append(time.perf_counter() - began)
    peak = torch.cuda.max_memory_allocated() / 2**20 if device.type == "cuda" else 0.0
    return statistics.median(seconds), peak


def layouts(shape: Shape, device: torch.device, repeats: int, name: str) -> None:
    """Score pass and update by layout and image:response ratio."""
    dtype = "bfloat16" if device.type == "cuda" else "float32"
    peak = next((value for chip, value in PEAK.items() if chip in name), None)
    print(
        f"\n## Throughput\n\nQwen2.5-VL, hidden {shape.hidden}, {shape.layers} layers, random weights, {dtype}, tower "
        f"frozen, gradient checkpointing, {shape.prompts} prompts, G = 8, {shape.response} response tokens, AdamW with "
        "float32 masters, micro-batches of 16,384 tokens. `repeated`: the image once per response. MFU: FLOPs that the "
        "layout computes, by 2 x parameters x tokens, over the chip's dense peak.\n"
    )
    print("image:response | layout | score s | update s | repeated/this (score, update) | MFU of the update | peak MiB")
    print("---|---|---|---|---|---|---")
    torch.manual_seed(0)
    parts = workload.model(shape, getattr(torch, dtype), device)
    for ratio in (1, 4, 16):
        rows: dict[str, tuple[float, float, float, float]] = {}
        for layout in ("repeated", "padded", "shared"):
            owner = workload.policy(parts, "shared" if layout == "shared" else "padded", dtype, checkpointing=True)
            asked = workload.prompts(owner, shape.prompts, ratio * shape.response)
            batch = workload.rollouts(owner, asked, 8, shape.response, device)
            credit = assign_credit(batch, ["grpo"])
            if layout == "repeated":
                asked = [
                    replace(asked[g], media_keys=(f"{asked[g].media_keys[0]}-{i}",))
                    for i, g in enumerate(batch.group.tolist())
                ]
                batch = batch.replace(group=torch.arange(len(batch), device=device))
            score, update = jobs(owner, asked, batch, ["grpo"], [], credit)
            taken, _ = timed(score, repeats, device)
            owner.costs.reset()
            spent, memory = timed(update, repeats, device)
            flops = owner.costs.total().flops / (repeats + 1)
            rows[layout] = (taken, spent, flops, memory)
            del score, update, owner
            gc.collect()
        for layout, (taken, spent, flops, memory) in rows.items():
            faster = f"{rows['repeated'][0] / taken:.2f}, {rows['repeated'][1] / spent:.2f}"
            used = "" if peak is None else f"{flops / spent / peak:.0%}"
            print(f"{ratio}:1 | {layout} | {taken:.3f} | {spent:.3f} | {faster} | {used} | {memory:.0f}", flush=True)
    del parts
    gc.collect()


METHODS: dict[str, tuple[list[Any], list[Any]]] = {
    "grpo": (["grpo"], []),
    "pgpo": (["grpo", "pgpo"], []),
    "vppo": (["grpo", "vppo"], []),
    "roma": (["grpo"], [{"roma": {"views": 2}}]),
    "papo": (["grpo"], ["papo"]),
}


def jobs(
    owner: Any, asked: list[Any], batch: Any, credit: list[Any], regularizers: list[Any], given: Any = None
) -> Any:
    """The score passes, and credit with update, of a step. `given`: credit that was computed elsewhere."""
    pipeline, objective = Pipeline(credit), Objective(regularizers=regularizers)
    needs = pipeline.needs() | objective.needs()
    needs = needs | Needs(signals=signals_for_update(objective.needs()))
    views = furnish_views(owner, needs.views, 0)
    views.begin(0)
    plan = plan_scores(needs, True)
    passes = list(plan.passes) or [Pass(CLEAN, frozenset({"logprobs"}))]
    engine = LocalEngine(owner.trainable_parameters(), TrainBlock(learning_rate=1e-6), 100)
    update = Updater(
        owner, engine, pipeline, objective, mini_batches=1, epochs=1, token_budget=16384, temperature=1.0, seed=0
    )
    state: dict[str, Any] = {"rollouts": batch}

    def score() -> None:
        results = owner.score(asked, batch, passes, temperature=1.0)
        if plan.passes:
            state["rollouts"] = batch.with_signals(plan.read(results))
            if plan.old_logprobs:
                state["rollouts"] = state["rollouts"].replace(old_logprobs=results[CLEAN]["logprobs"])

    def step() -> None:
        scored = state["rollouts"]
        update(asked, scored, given or pipeline(scored, 0, 10), 0, 0.0)

    if plan.passes:
        score()
    return score, step


def methods(shape: Shape, device: torch.device, repeats: int) -> None:
    """Score passes, credit and update of vision methods on the same rollouts."""
    dtype = "bfloat16" if device.type == "cuda" else "float32"
    print(
        print("\n## Methods\n\nThe same model, image:response 4:1, shared layout; score passes, credit and update.\n")
    )
    print("method | score s | credit + update s | both, over GRPO's update | peak MiB")
    print("---|---|---|---|---")
    torch.manual_seed(0)
    parts = workload.model(shape, getattr(torch, dtype), device)
    owner = workload.policy(parts, "shared", dtype, checkpointing=True)
    asked = workload.prompts(owner, shape.prompts, 4 * shape.response)
    batch = workload.rollouts(owner, asked, 8, shape.response, device)
    base = 0.0
    for name, (credit, regularizers) in METHODS.items():
        owner.view_prompts.clear()
        score, update = jobs(owner, asked, batch, credit, regularizers)
        taken = 0.0 if name == "grpo" else timed(score, repeats, device)[0]  # on-policy GRPO needs no pass
        spent, memory = timed(update, repeats, device)
        base = base or spent
        print(f"{name} | {taken:.3f} | {spent:.3f} | {(taken + spent) / base:.2f} | {memory:.0f}", flush=True)
        del score, update
        gc.collect()


if __name__ == "__main__":
    main()
