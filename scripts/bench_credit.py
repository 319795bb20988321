"""Milliseconds of every credit method and aggregate on one group of 16 responses x 8,192 tokens.

    OMP_NUM_THREADS=1 python scripts/bench_credit.py > benchmarks/credit.md

The rollouts are random numbers of the right shapes: what is timed is the arithmetic of a method on tensors that are
there, not the passes that make its signals (those are in benchmarks/methods.md). Two groups: responses that differ
from the first token on, and responses that share half of their tokens (TEMPO's tree is deep there).
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from bench_common import machine

from mmcredit import Rollouts
from mmcredit.components import build, names
from mmcredit.credit import Pipeline
from mmcredit.rollouts import Credit

RESPONSES, TOKENS, WIDTH = 16, 8192, 256
STEPS = 32  # reasoning steps, boundaries


def rollouts(shared: int, seed: int = 0) -> Rollouts:
    """A group of ragged responses, the first `shared` tokens the same, with every signal of the contract."""
    torch.manual_seed(seed)
    b, t = RESPONSES, TOKENS
    lengths = torch.randint(t // 2, t + 1, (b,))
    lengths[0] = t
    mask = torch.arange(t) < lengths[:, None]
    tokens = torch.randint(0, 32_000, (b, t))
    tokens[:, :shared] = tokens[0, :shared]
    rewards = (torch.arange(b) % 3 == 0).float()
    logprobs = -torch.rand(b, t) * 2
    entropy = torch.rand(b, t) * 2
    return Rollouts(
        tokens=tokens, mask=mask, group=torch.zeros(b, dtype=torch.int64), rewards=rewards,
        reward_parts={"retrieval": torch.rand(b), "reasoning": rewards},
        sampler_logprobs=logprobs, old_logprobs=logprobs, segments=(torch.arange(t) > t // 4).long().expand(b, t) + 1,
        signals={
            "entropy": entropy, "blind_logprobs": logprobs - torch.rand(b, t), "visual_kl": torch.rand(b, t),
            "masked_logprobs": logprobs - torch.rand(b, t), "ref_logprobs": logprobs + 0.1 * torch.randn(b, t),
            "teacher_logprobs": logprobs + 0.1 * torch.randn(b, t), "self_certainty": torch.rand(b, t) * 20,
            "sampled_logit": torch.randn(b, t) * 8, "attention_entropy": torch.rand(b, t),
            "head_input": torch.randn(b, t, WIDTH), "divergence": torch.rand(b, t),
            "replayed": torch.zeros(b, dtype=torch.bool),
            "step_id": (torch.arange(t) * STEPS // t).expand(b, t).contiguous(),
            "step_accuracy": torch.rand(b, STEPS), "step_confidence": torch.rand(b, STEPS),
            "boundary_index": (torch.arange(STEPS) * (t // 2 // STEPS) - 1).expand(b, STEPS).contiguous(),
            "boundary_value": torch.rand(b, STEPS),
            "parent_value": torch.rand(b), "child_value": torch.rand(b), "sibling_std": torch.rand(b),
        },
    )  # fmt: skip


def pipelines() -> dict[str, Pipeline]:
    """Every method, behind GRPO where it cannot stand first."""
    found = {}
    for name in names("credit"):
        try:
            found[name] = Pipeline([name])
        except ValueError:
            found[name] = Pipeline(["grpo", name])
    return found


def milliseconds(call, repeats: int) -> float:  # type: ignore[no-untyped-def]
    """Median of `repeats` calls after one to warm up."""
    call()
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return 1000 * statistics.median(seconds)


def main() -> None:
    """Print the Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)
    early, late = rollouts(shared=0), rollouts(shared=TOKENS // 2)
    print(f"# Credit of one group of {RESPONSES} x {TOKENS:,} tokens\n")
    print(f"{machine()}, one thread; median of {options.repeats}.\n")
    print(
        "Rollouts and signals are random numbers in memory: the arithmetic alone is timed, in milliseconds. `shared`:"
    )
    print(
        "the responses have their first 4,096 tokens in common. `grpo` alone is the floor of every method behind it.\n"
    )
    print("`update`: what a method revises at every optimizer mini-batch. `delta` reads head inputs of width 256.\n")
    print("| credit method | ms | shared, ms | update, ms |\n|---|---|---|---|")
    logprobs, entropy = early.old_logprobs, early.signal("entropy")
    assert logprobs is not None
    for name, pipeline in pipelines().items():
        times = [milliseconds(lambda p=pipeline, r=r: p(r, 5, 100), options.repeats) for r in (early, late)]
        update = ""
        if pipeline.updates_at_update:
            first = pipeline(early, 5, 100)
            taken = milliseconds(lambda p=pipeline, c=first: p.at_update(c, early, logprobs, entropy), options.repeats)
            update = f"{taken:.1f}"
        print(f"| {name} | {times[0]:.1f} | {times[1]:.1f} | {update} |", flush=True)
    print("\n| aggregate | ms |\n|---|---|")
    credit: Credit = Pipeline(["grpo"])(early, 5, 100)
    for name in names("aggregate"):
        aggregate = build("aggregate", {name: {"max_length": TOKENS}} if name == "dr_grpo" else name)
        taken = milliseconds(lambda a=aggregate: a.weights(early, credit), options.repeats)  # type: ignore[attr-defined]
        print(f"| {name} | {taken:.1f} |", flush=True)


if __name__ == "__main__":
    main()
