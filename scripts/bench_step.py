"""How long a training step takes with the prompt shared by its group, and with it repeated.

    python scripts/bench_step.py layouts [--freeze]   # old-log-prob pass, update, whole step, by layout
    python scripts/bench_step.py memory               # peak memory of the score passes against B

`layouts` samples real rollouts on one model and scores and trains on them in every layout, in turn, in one process.
Whole steps beside TRL's GRPOTrainer: scripts/bench_trl.py.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import io
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from bench_common import machine, resident

OPPONENTS = Path(__file__).resolve().parent / "opponents"
sys.path.insert(0, str(OPPONENTS))
os.environ.setdefault("HF_HUB_OFFLINE", "1")

TOKEN_SIDE = 28  # pixels of an image side that become one visual token of Qwen2.5-VL (patch 14, merged 2 x 2)


# -- one process, all layouts ------------------------------------------------------------------------------------------


@dataclass
class Work:
    """One batch of real rollouts, and the policies that score it and train on it."""

    policies: dict[str, Any]  # by layout
    prompts: dict[str, list[Any]]
    rollouts: dict[str, Any]
    credit: Any
    rollout_seconds: float


def workload(options: argparse.Namespace, ratio: int, group: int, num_prompts: int) -> Work:
    """`ratio` image tokens per response token; responses sampled from the model itself.

    Layouts: `shared`; `padded`, the prompt repeated, the image encoded once per prompt; `repeated`, prompt and image
    once per response, which is what trainers without a shared prompt do.
    """
    import numpy as np
    import tiny
    import torch
    from PIL import Image

    from mmcredit import assign_credit
    from mmcredit.components import build
    from mmcredit.data.sample import Media, Sample
    from mmcredit.policy.config import ModelConfig
    from mmcredit.policy.policy import Policy
    from mmcredit.rollout.collate import collate
    from mmcredit.rollout.engine import Request, Sampling

    tokenizer = tiny.tokenizer()
    model = tiny.qwen25vl(tokenizer, options.hidden, options.layers, options.hidden, options.layers)
    model.model.visual.requires_grad_(not options.freeze)
    processor = tiny.processor(tokenizer, "qwen2_5_vl")
    processor.image_processor.size = {"shortest_edge": 56 * 56, "longest_edge": 4096 * 4096}
    policies = {
        name: Policy(model, tokenizer, processor, ModelConfig(path="in memory", layout=layout))
        for name, layout in (("repeated", "padded"), ("padded", "padded"), ("shared", "shared"))
    }
    side = TOKEN_SIDE * round((ratio * options.response) ** 0.5)
    prompts = []
    for i in range(num_prompts):
        file = io.BytesIO()
        pixels = np.random.RandomState(i).randint(0, 255, (side, side, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(file, "PNG")
        content = [{"type": "image"}, {"type": "text", "text": "how many red squares are there in the image"}]
        media = (Media("image", data=file.getvalue()),)
        prompts.append(policies["shared"].encode(Sample(f"image-{i}", ({"role": "user", "content": content},), media)))
    sampling = Sampling(max_new_tokens=options.response, min_new_tokens=options.response)
    engine = build("engine", "hf").open(policies["shared"])
    requests = [Request(p, list(range(i * group, (i + 1) * group)), tag=i) for i, p in enumerate(prompts)]
    began = time.perf_counter()
    responses = engine.generate(requests, sampling)
    seconds = time.perf_counter() - began
    rewards = torch.tensor([sum(t % 2 for t in r.tokens) / len(r.tokens) for r in responses])
    rollouts = collate(prompts, requests, responses, tokenizer.pad_token_id).replace(rewards=rewards)
    own = [
        replace(prompts[g], media_keys=(f"{prompts[g].media_keys[0]}-{i}",))
        for i, g in enumerate(rollouts.group.tolist())
    ]
    alone = rollouts.replace(group=torch.arange(len(rollouts)))
    return Work(
        policies,
        {"repeated": own, "padded": prompts, "shared": prompts},
        {"repeated": alone, "padded": rollouts, "shared": rollouts},
        assign_credit(rollouts, ["grpo"]),
        seconds,
    )


def jobs(options: argparse.Namespace, work: Work, name: str) -> dict[str, Callable[[], Any]]:
    """The two timed jobs of a layout. Before each one the caches are as in a training step: sampling has just encoded
    the images with the present weights, unless they are encoded per response."""
    from mmcredit import Objective
    from mmcredit.config import TrainBlock
    from mmcredit.credit import Pipeline
    from mmcredit.policy.passes import CLEAN, Pass
    from mmcredit.train.engines.local import LocalEngine
    from mmcredit.train.update import Updater

    policy, prompts, rollouts = work.policies[name], work.prompts[name], work.rollouts[name]
    engine = LocalEngine(policy.trainable_parameters(), TrainBlock(learning_rate=1e-6), 100)
    update = Updater(
        policy, engine, Pipeline(["grpo"]), Objective(),
        mini_batches=1, epochs=1, token_budget=options.budget, temperature=1.0, seed=0,
    )  # fmt: skip
    wanted = [Pass(CLEAN, frozenset({"logprobs"}))]
    policy.drop_caches()
    if name != "repeated":
        policy.embed(prompts)
    return {
        "old log-probs": lambda: policy.score(prompts, rollouts, wanted, temperature=1.0, budget=options.budget),
        "update": lambda: update(prompts, rollouts, work.credit, 0, 0.0),
    }


def layouts(options: argparse.Namespace) -> None:
    """Seconds and peak memory of the old-log-prob pass, the update and a whole step, by layout."""
    import torch

    torch.set_num_threads(options.threads)
    print(machine())
    print(
        f"tiny Qwen2.5-VL, hidden {options.hidden}, {options.layers} + {options.layers} layers, "
        f"{options.prompts} prompts, {options.response} response tokens, float32, "
        f"tower {'frozen' if options.freeze else 'trained'}, {options.threads} threads, "
        f"median of {options.repeats}; whole step = the same sampling + both jobs\n"
    )
    print(
        "image:response | G | job | repeated s | padded s | shared s | repeated/shared | padded/shared | peak MiB r/p/s"
    )
    print("---|---|---|---|---|---|---|---|---")
    names = ("repeated", "padded", "shared")
    for ratio in options.ratios:
        for group in options.groups:
            work = workload(options, ratio, group, options.prompts)
            seconds: dict[tuple[str, str], list[float]] = {}
            memory: dict[tuple[str, str], float] = {}
            for repeat in range(options.repeats + 1):  # the first one warms up
                for name in names if repeat % 2 else names[::-1]:
                    for job, run in jobs(options, work, name).items():
                        took, peak = measured(run)
                        if repeat:
                            seconds.setdefault((job, name), []).append(took)
                            memory[job, name] = max(peak, memory.get((job, name), 0.0))
            middle = {key: statistics.median(values) for key, values in seconds.items()}
            for name in names:
                both = middle["old log-probs", name] + middle["update", name]
                middle["whole step", name] = work.rollout_seconds + both
                memory["whole step", name] = max(memory["old log-probs", name], memory["update", name])
            for job in ("old log-probs", "update", "whole step"):
                repeated, padded, shared = (middle[job, name] for name in names)
                peaks = " / ".join(f"{memory[job, name]:.0f}" for name in names)
                print(
                    f"{ratio}:1 | {group} | {job} | {repeated:.3f} | {padded:.3f} | {shared:.3f} | "
                    f"{repeated / shared:.2f} | {padded / shared:.2f} | {peaks}",
                    flush=True,
                )


def memory(options: argparse.Namespace) -> None:
    """Peak memory of score passes (log-prob, entropy, exact KL seen/blind) above the resting process, for growing B."""
    import torch

    from mmcredit.policy.passes import BLIND, CLEAN, Pass

    torch.set_num_threads(options.threads)
    print(machine())
    print(
        f"passes clean + blind with log-prob, entropy and exact KL; G=8, image:response 4:1, {options.response} "
        f"response tokens, budget {options.budget} tokens, feature cache off\n"
    )
    print("prompts | B | layout | peak MiB above rest")
    print("---|---|---|---")
    wanted = [Pass(CLEAN, frozenset({"logprobs", "entropy", "kl_to:blind"})), Pass(BLIND, frozenset({"logprobs"}))]
    for num_prompts in (4, 16, 64):
        work = workload(options, 4, 8, num_prompts)
        for name in ("padded", "shared"):
            policy = work.policies[name]
            policy.body.vision.limit = 0  # the cache grows by design, up to model.vision_cache_mb
            policy.drop_caches()
            score = partial(policy.score, work.prompts[name], work.rollouts[name], wanted, temperature=1.0)
            _, peak = measured(partial(score, budget=options.budget))
            print(f"{num_prompts} | {len(work.rollouts[name])} | {name} | {peak:.0f}", flush=True)


def measured(job: Callable[[], Any]) -> tuple[float, float]:
    """(seconds, peak MiB of resident memory above what the process held before)."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # glibc: freed memory goes back, or it would hide the peak
    Path("/proc/self/clear_refs").write_text("5")  # Linux: the high-water mark starts again from the present size
    rest = resident("VmRSS")
    began = time.perf_counter()
    job()
    return time.perf_counter() - began, (resident("VmHWM") - rest) / 1024


def main() -> None:
    """Read the command line."""
    top = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    actions = top.add_subparsers(dest="command", required=True)
    numbers = {"hidden": 256, "layers": 4, "prompts": 2, "response": 64, "repeats": 3, "threads": 2, "budget": 16384}
    for name, job in (("layouts", layouts), ("memory", memory)):
        action = actions.add_parser(name, help=job.__doc__)
        for key, value in numbers.items():
            action.add_argument(f"--{key}", type=int, default=value)
        action.add_argument("--groups", type=_integers, default=[4, 8, 16])
        action.add_argument("--ratios", type=_integers, default=[1, 4, 16])
        action.add_argument("--freeze", action="store_true", help="do not train the vision tower")
        action.set_defaults(run=job)
    options = top.parse_args()
    options.run(options)


def _integers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


if __name__ == "__main__":
    main()
