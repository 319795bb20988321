"""What one decode step of the engine `hf` costs, beside reading the weights once, and which operators the rest is.

    python scripts/bench_decode.py --model models/SmolLM2-135M-Instruct --rows 1,8,16,48

Rows are responses sampled side by side, up to 8 of a prompt. A step's CPU seconds are the difference of two calls that
sample a few and many tokens. The weights are read once a step: their bytes over the rate of reading a large tensor.
"""

from __future__ import annotations

import argparse
import os
import statistics
from typing import Any

import torch
from bench_common import GROUPS, OTHER, Operators, best_rate, fastest, machine
from torch.profiler import ProfilerActivity, profile

from mmcredit.components import build
from mmcredit.data.sample import Sample
from mmcredit.policy.config import ModelConfig
from mmcredit.policy.policy import Policy
from mmcredit.rollout.engine import Request, Sampling

FEW = 4


def bandwidth() -> tuple[float, float]:
    """Bytes a second of reading and of copying (read and written) 1 GiB, by CPU time."""
    big = torch.ones(2**28)
    other = torch.empty_like(big)
    return 4 * 2**28 / fastest(big.sum, 3), 8 * 2**28 / fastest(lambda: other.copy_(big), 3)


def requests(policy: Policy, rows: int) -> list[Request]:
    """`rows` responses, 8 of a prompt at most."""
    prompts = [
        policy.encode(Sample(str(i), ({"role": "user", "content": f"What is {i} + 3? Reply with the number only."},)))
        for i in range(-(-rows // 8))
    ]
    return [Request(p, tuple(range(100 * i, 100 * i + min(8, rows))), tag=i) for i, p in enumerate(prompts)]


def step(policy: Policy, engine: Any, rows: int, steps: int, repeats: int) -> dict[str, Any]:
    """CPU seconds of a decode step, and its operators."""
    asked = requests(policy, rows)

    def sample(count: int) -> None:
        engine.generate(asked, Sampling(max_new_tokens=count, min_new_tokens=count))

    sample(FEW)
    few = fastest(lambda: sample(FEW), repeats)
    many = fastest(lambda: sample(FEW + steps), repeats)
    found: dict[str, Any] = {"seconds": (many - few) / steps, "prefill": few}
    tables = {}
    for count in (FEW, FEW + 8):
        ops = Operators()
        for _ in range(repeats):
            with profile(activities=[ProfilerActivity.CPU]) as recorder:
                sample(count)
            ops.add(recorder)
        tables[count] = ops
    most, least = tables[FEW + 8], tables[FEW]
    names = most.by_name()
    names.subtract(least.by_name())
    found["names"] = {name: seconds / 8 for name, seconds in names.most_common(10)}
    groups = most.groups()
    groups.subtract(least.groups())
    found["groups"] = {name: seconds / 8 for name, seconds in groups.items()}
    found["calls"] = (most.count() - least.count()) / 8
    return found


def main() -> None:
    """Measure and print Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="models/SmolLM2-135M-Instruct", help="folder of the model")
    parser.add_argument("--rows", default="1,8,16,48", help="responses side by side")
    parser.add_argument("--steps", type=int, default=24, help="decode steps that are measured")
    parser.add_argument("--repeats", type=int, default=3, help="the fastest counts")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    policy = Policy.load(ModelConfig(path=options.model))
    engine: Any = build("engine", "hf").open(policy)  # type: ignore[attr-defined]
    rows = [int(n) for n in options.rows.split(",")]
    load = os.getloadavg()[0]
    read, copied = bandwidth()
    rate = best_rate()
    found = [step(policy, engine, n, options.steps, options.repeats) for n in rows]
    load = statistics.mean([load, os.getloadavg()[0]])
    body, head = policy.body.size, policy.body.head_size
    size = policy.body.embed.weight.element_size()
    weights = (body + head) * size
    print(machine())
    print(
        f"\nweights that a step reads {weights / 1e6:.0f} MB ({head * size / 1e6:.0f} of them the head); reading "
        f"{read / 1e9:.1f} GB/s, copying {copied / 1e9:.1f} GB/s; 1024 x 1024 product {rate / 1e9:.0f} GFLOP/s; "
        f"{options.threads} thread, CPU time, load {load:.1f}\n"
    )
    print("a decode step | " + " | ".join(f"{n} rows" for n in rows))
    print("---|" + "---|" * len(rows))

    def line(name: str, cells: list[str]) -> None:
        print(f"{name} | " + " | ".join(cells))

    line("CPU ms", [f"{1000 * f['seconds']:.1f}" for f in found])
    line("tokens a CPU second", [f"{n / f['seconds']:.0f}" for n, f in zip(rows, found, strict=True)])
    line("reading the weights once, ms", [f"{1000 * weights / read:.1f}"] * len(rows))
    line("their products at the rate above, ms", [f"{2000.0 * (body + head) * n / rate:.1f}" for n in rows])
    for name in (*GROUPS, OTHER):
        line(name + ", ms", [f"{1000 * f['groups'].get(name, 0.0):.1f}" for f in found])
    line(
        "between operators, ms",
        [f"{1000 * (f['seconds'] - sum(f['groups'].values())):.1f}" for f in found],
    )
    line("operator calls", [f"{f['calls']:.0f}" for f in found])
    for n, f in zip(rows, found, strict=True):
        print(
            f"\n{n} rows, ms: " + ", ".join(f"{k.removeprefix('aten::')} {1000 * v:.2f}" for k, v in f["names"].items())
        )


if __name__ == "__main__":
    main()
