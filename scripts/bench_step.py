"""How long a training step takes: prompt shared or repeated, and whole steps beside TRL's GRPOTrainer.

    python scripts/bench_step.py layouts                      # old-log-prob pass, update, whole step; shared / padded
    python scripts/bench_step.py memory                       # peak memory of the score passes against B
    python scripts/bench_step.py trl --python VENV/bin/python # whole GRPO steps, TRL and ours in turn

`layouts` samples real rollouts on one model and scores and trains on them in both layouts, in turn, in one process.
`trl` runs the scripts in scripts/opponents/ and the same work through ours in alternating processes: same model,
prompts, lengths, optimizer, learning rate and threads. TRL wants an environment of its own:
pip install torch==2.13.0, then torchvision==0.28.0 transformers==5.19.0 trl==1.16.0 peft datasets.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

OPPONENTS = Path(__file__).resolve().parent / "opponents"
sys.path.insert(0, str(OPPONENTS))
os.environ.setdefault("HF_HUB_OFFLINE", "1")

TOKEN_SIDE = 28  # pixels of an image side that become one visual token of Qwen2.5-VL (patch 14, merged 2 x 2)


# -- one process, both layouts -----------------------------------------------------------------------------------------


def workload(options: argparse.Namespace, ratio: int, group: int, prompts: int) -> tuple[Any, Any, Any]:
    """(policies by layout, prompts, rollouts): `ratio` image tokens per response token, real sampled responses."""
    import numpy as np
    import tiny
    import torch
    from PIL import Image

    from mmcredit.components import build
    from mmcredit.data.sample import Media, Sample
    from mmcredit.policy.load import ModelConfig
    from mmcredit.policy.policy import Policy
    from mmcredit.rollout.collate import collate
    from mmcredit.rollout.engine import Request, Sampling

    tokenizer = tiny.tokenizer()
    model = tiny.qwen25vl(tokenizer, options.hidden, options.layers, options.hidden, options.layers)
    processor = tiny.processor(tokenizer, "qwen2_5_vl")
    processor.image_processor.size = {"shortest_edge": 56 * 56, "longest_edge": 4096 * 4096}
    policies = {
        layout: Policy(model, tokenizer, processor, ModelConfig(path="in memory", layout=layout))
        for layout in ("padded", "shared")
    }
    side = TOKEN_SIDE * round((ratio * options.response) ** 0.5)
    samples = []
    with tempfile.TemporaryDirectory() as folder:
        for i in range(prompts):
            pixels = np.random.RandomState(i).randint(0, 255, (side, side, 3), dtype=np.uint8)
            path = Path(folder) / f"{i}.png"
            Image.fromarray(pixels).save(path)
            content = [{"type": "image"}, {"type": "text", "text": "how many red squares are there in the image"}]
            media = (Media("image", data=path.read_bytes()),)
            samples.append(Sample(f"image-{i}", ({"role": "user", "content": content},), media))
        encoded = [policies["shared"].encode(s) for s in samples]
    sampling = Sampling(max_new_tokens=options.response, min_new_tokens=options.response)
    engine = build("engine", "hf").open(policies["shared"])
    requests = [Request(p, list(range(i * group, (i + 1) * group)), tag=i) for i, p in enumerate(encoded)]
    began = time.perf_counter()
    responses = engine.generate(requests, sampling)
    rollout_seconds = time.perf_counter() - began
    rollouts = collate(encoded, requests, responses, tokenizer.pad_token_id)
    rewards = torch.tensor([sum(t % 2 for t in r.tokens) / len(r.tokens) for r in responses])
    return policies, encoded, (rollouts.replace(rewards=rewards), rollout_seconds)


def layouts(options: argparse.Namespace) -> None:
    """The table of ratios padded / shared."""
    import torch

    from mmcredit import Objective
    from mmcredit.config import TrainBlock
    from mmcredit.credit import Pipeline
    from mmcredit.policy.passes import CLEAN, Pass
    from mmcredit.train.local import LocalEngine
    from mmcredit.train.update import Updater

    torch.set_num_threads(options.threads)
    print(machine())
    print(
        f"tiny Qwen2.5-VL, hidden {options.hidden}, {options.layers} + {options.layers} layers, {options.prompts} prompts, "
        f"{options.response} response tokens, float32, tower trained, {options.threads} threads, "
        f"median of {options.repeats}\n"
    )
    print("image:response | G | pass | padded s | shared s | padded/shared | padded MiB | shared MiB")
    print("---|---|---|---|---|---|---|---")
    for ratio in options.ratios:
        for group in options.groups:
            policies, prompts, (rollouts, rollout_seconds) = workload(options, ratio, group, options.prompts)
            pipeline, objective = Pipeline(["grpo"]), Objective()
            credit = pipeline(rollouts)
            times: dict[tuple[str, str], list[float]] = {}
            memory: dict[tuple[str, str], float] = {}
            for repeat in range(options.repeats + 1):  # the first one warms up
                for layout in ("padded", "shared") if repeat % 2 else ("shared", "padded"):
                    policy = policies[layout]
                    policy.drop_caches()
                    parameters = list(policy.trainable_parameters().values())
                    engine = LocalEngine(parameters, TrainBlock(learning_rate=1e-6), 100)
                    update = Updater(
                        policy, engine, pipeline, objective,
                        mini_batches=1, epochs=1, token_budget=options.budget, temperature=1.0, seed=0,
                    )  # fmt: skip
                    wanted = [Pass(CLEAN, frozenset({"logprobs"}))]
                    jobs: dict[str, Callable[[], Any]] = {
                        "old log-probs": lambda p=policy: p.score(prompts, rollouts, wanted, temperature=1.0),
                        "update": lambda u=update: u(prompts, rollouts, credit, 0, 0.0),
                    }
                    for name, job in jobs.items():
                        seconds, peak = measured(job)
                        if repeat:
                            times.setdefault((name, layout), []).append(seconds)
                            memory[name, layout] = max(peak, memory.get((name, layout), 0.0))
            middle = {key: statistics.median(values) for key, values in times.items()}
            for layout in ("padded", "shared"):
                both = middle["old log-probs", layout] + middle["update", layout]
                middle["whole step", layout] = rollout_seconds + both
                memory["whole step", layout] = max(memory["old log-probs", layout], memory["update", layout])
            for name in ("old log-probs", "update", "whole step"):
                padded, shared = middle[name, "padded"], middle[name, "shared"]
                print(
                    f"{ratio}:1 | {group} | {name} | {padded:.3f} | {shared:.3f} | {padded / shared:.2f} | "
                    f"{memory[name, 'padded']:.0f} | {memory[name, 'shared']:.0f}",
                    flush=True,
                )


def memory(options: argparse.Namespace) -> None:
    """Peak memory of a score pass (log-prob, entropy, exact KL seen/blind) above the resting process, for growing B."""
    import torch

    from mmcredit.policy.passes import BLIND, CLEAN, Pass

    torch.set_num_threads(options.threads)
    print(machine())
    print(
        f"passes clean + blind with log-prob, entropy and exact KL; G=8, image:response 4:1, budget {options.budget}\n"
    )
    print("prompts | B | layout | peak MiB above rest")
    print("---|---|---|---")
    for prompts in (4, 16, 64):
        policies, encoded, (rollouts, _) = workload(options, 4, 8, prompts)
        wanted = [Pass(CLEAN, frozenset({"logprobs", "entropy", "kl_to:blind"})), Pass(BLIND, frozenset({"logprobs"}))]
        for layout, policy in policies.items():
            policy.drop_caches()
            _, peak = measured(
                lambda p=policy, e=encoded, r=rollouts: p.score(e, r, wanted, temperature=1.0, budget=options.budget)
            )
            print(f"{prompts} | {len(rollouts)} | {layout} | {peak:.0f}", flush=True)


def measured(job: Callable[[], Any]) -> tuple[float, float]:
    """(seconds, peak MiB of resident memory above what the process held before)."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # Linux: the high-water mark starts again from the present size
    rest = _resident("VmRSS")
    began = time.perf_counter()
    job()
    return time.perf_counter() - began, (_resident("VmHWM") - rest) / 1024


def _children() -> list[int]:
    return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


def _resident(field: str, pid: int | str = "self") -> float:
    """KiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field):
            return float(line.split()[1])
    raise RuntimeError(f"{field} is not in /proc/{pid}/status")


# -- whole steps beside TRL --------------------------------------------------------------------------------------------

ROWS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("Qwen2 text, hidden 64, 2 layers", {"fam": "text", "hidden": 64, "layers": 2}),
    ("Qwen2 text, hidden 256, 4 layers", {"fam": "text", "hidden": 256, "layers": 4}),
    ("Qwen2.5-VL, hidden 64, 2+2 layers, 112 px", {"fam": "qwen2_5_vl", "hidden": 64, "layers": 2, "side": 112}),
    ("Qwen3-VL, hidden 64, 2+2 layers, 112 px", {"fam": "qwen3_vl", "hidden": 64, "layers": 2, "side": 112}),
    ("Qwen2.5-VL, hidden 256, 4+4 layers, 224 px", {"fam": "qwen2_5_vl", "hidden": 256, "layers": 4, "side": 224}),
    ("Qwen3-VL, hidden 256, 4+4 layers, 224 px", {"fam": "qwen3_vl", "hidden": 256, "layers": 4, "side": 224}),
)


def trl(options: argparse.Namespace) -> None:
    """Whole GRPO steps: TRL and ours in alternating processes, rounds of each row."""
    print(machine())
    versions = subprocess.run(
        [options.python, "-c", "import trl, torch, transformers as t; print(trl.__version__, torch.__version__, t.__version__)"],
        capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    print(
        f"TRL {versions[0]}, torch {versions[1]}, transformers {versions[2]}; 4 prompts x 8, exactly 64 new tokens, beta 0, "
        f"lr 1e-3, one inner step, {options.threads} threads, float32; {options.rounds} processes of {options.steps} steps "
        "each in turn; per process the median of all but the first step; below the median over processes\n"
    )
    print("model | TRL s/step | ours s/step | TRL/ours | TRL MB | ours MB (+ reward worker)")
    print("---|---|---|---|---|---")
    for title, row in ROWS:
        if options.only and options.only not in title:
            continue
        flags = [f"--{k}={v}" for k, v in row.items() if k != "fam"]
        flags += [f"--steps={options.steps}", f"--threads={options.threads}"]
        script = OPPONENTS / ("trl_baseline_text.py" if row["fam"] == "text" else "trl_baseline_vlm.py")
        family = [] if row["fam"] == "text" else [f"--fam={row['fam']}"]
        theirs, ours = [], []
        for _ in range(options.rounds):
            theirs.append(last_json([options.python, "-c", _SHIM, str(script), *flags, *family]))
            ours.append(last_json([sys.executable, __file__, "ours", f"--fam={row['fam']}", *flags]))
        a = statistics.median(r["median_step_s"] for r in theirs)
        b = statistics.median(r["median_step_s"] for r in ours)
        their_memory = max(r["max_rss_mb"] for r in theirs)
        our_memory, worker = max(r["max_rss_mb"] for r in ours), max(r["worker_rss_mb"] for r in ours)
        print(f"{title} | {a:.3f} | {b:.3f} | {a / b:.2f} | {their_memory} | {our_memory} (+{worker})", flush=True)


# torchvision beside a CPU build of torch needs two operator schemas (see mmcredit/compat.py); TRL's environment too.
_SHIM = f"""
import runpy, sys
sys.path.insert(0, {str(OPPONENTS.parent.parent)!r})
import mmcredit.compat
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def last_json(command: list[str]) -> dict[str, Any]:
    """The last JSON line a command prints. Raises RuntimeError with its error output if it fails."""
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [line for line in result.stdout.splitlines() if line.startswith("{")]
    if result.returncode or not lines:
        raise RuntimeError(f"{' '.join(command[:4])} ... failed:\n{result.stderr[-3000:]}")
    return json.loads(lines[-1])


def ours(options: argparse.Namespace) -> None:
    """The same work as the opponents' scripts, through our trainer; prints one JSON line."""
    import resource

    import tiny
    from PIL import Image, ImageDraw

    from mmcredit import config
    from mmcredit.train.loop import Trainer

    tokenizer = tiny.tokenizer()
    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows: list[dict[str, Any]] = []
        if options.fam == "text":
            # The opponent's prompt has no system message: neither has ours.
            tokenizer.chat_template = (
                "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
                "<|im_start|>assistant\n"
            )
            model, keeper = tiny.qwen2(tokenizer, options.hidden, options.layers), tokenizer
            for x, y in ((rng.randrange(100), rng.randrange(100)) for _ in range(256)):
                rows.append({"prompt": [{"role": "user", "content": f"{x} + {y} ="}], "answer": str(x + y)})
        else:
            make = tiny.qwen25vl if options.fam == "qwen2_5_vl" else tiny.qwen3vl
            model = make(tokenizer, options.hidden, options.layers, options.hidden, options.layers)
            keeper = tiny.processor(tokenizer, options.fam)
            for i in range(128):
                image = Image.new("RGB", (options.side, options.side), "white")
                draw, count, cell = ImageDraw.Draw(image), rng.randint(1, 4), options.side // 4
                for x, y in rng.sample([(x, y) for x in range(4) for y in range(4)], count):
                    box = [x * cell + 2, y * cell + 2, x * cell + cell - 3, y * cell + cell - 3]
                    draw.rectangle(box, fill="red")
                image.save(folder / f"{i}.png")
                rows.append({"prompt": "how many red squares", "images": [f"{i}.png"], "answer": str(count)})
        model.generation_config.eos_token_id = tokenizer.eos_token_id
        model.save_pretrained(folder / "model")
        keeper.save_pretrained(folder / "model")
        (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (folder / "digits.py").write_text(
            "def digits(item):\n    return sum(c.isdigit() for c in item.response) / max(1, len(item.response))\n"
        )
        del model
        run = config.parse(
            {
                "run": {"dir": str(folder / "run"), "steps": options.steps, "threads": options.threads},
                "model": {"path": str(folder / "model")},
                "data": {"train": {"jsonl": {"path": str(folder / "train.jsonl")}}, "media": {"root": str(folder)}},
                "rollout": {"prompts": 4, "group": 8, "sampling": {"max_new_tokens": 64, "min_new_tokens": 64}},
                "rewards": [{"function": {"path": f"{folder / 'digits.py'}:digits"}}],
                "train": {"learning_rate": 1e-3, "schedule": "linear"},
                "log": {"tensorboard": False, "samples_every": 0},
                "checkpoint": {"every": 0, "final": False},
            }
        )
        trainer = Trainer(run)
        close = trainer.close

        def measure_and_close() -> None:
            nonlocal worker
            worker = sum(_resident("VmHWM", pid) for pid in _children()) / 1024
            close()

        worker = 0.0
        trainer.close = measure_and_close  # type: ignore[method-assign]  # the worker is gone after it
        trainer.run()
        lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
        seconds = [json.loads(line)["cost/step_seconds"] for line in lines]
        cost = trainer.parts.policy.costs.total()
        names = [key for key in json.loads(lines[-1]) if key.startswith("cost/") and key.endswith("_seconds")]
        stages = {n[5:-8]: round(statistics.median(json.loads(x)[n] for x in lines[1:]), 4) for n in names}
    print(
        json.dumps(
            {
                "kind": options.fam,
                "step_s": [round(s, 4) for s in seconds],
                "median_step_s": round(statistics.median(seconds[1:]), 4),
                "max_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
                "worker_rss_mb": round(worker),
                "tower_patches_per_step": cost.patches / options.steps,
                "stages": stages,
            }
        )
    )


def machine() -> str:
    """One line about where the figures come from."""
    import platform

    import torch
    import transformers

    model = next((x.split(":")[1].strip() for x in _cpuinfo() if x.startswith("model name")), platform.processor())
    return (
        f"{model}, {os.cpu_count()} cores; Python {platform.python_version()}, torch {torch.__version__}, "
        f"transformers {transformers.__version__}; command: {' '.join(['bench_step.py', *sys.argv[1:]])}"
    )


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


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
        action.set_defaults(run=job)
    action = actions.add_parser("trl", help=trl.__doc__)
    action.add_argument("--python", required=True, help="interpreter of the environment that has TRL")
    action.add_argument("--rounds", type=int, default=3)
    action.add_argument("--only", help="rows whose title contains this")
    action.set_defaults(run=trl)
    action = actions.add_parser("ours", help=ours.__doc__)
    action.add_argument("--fam", default="text")
    for key, value in {"hidden": 64, "layers": 2, "side": 112}.items():
        action.add_argument(f"--{key}", type=int, default=value)
    action.set_defaults(run=ours)
    for name in ("trl", "ours"):
        actions.choices[name].add_argument("--steps", type=int, default=8)
        actions.choices[name].add_argument("--threads", type=int, default=2)
    options = top.parse_args()
    options.run(options)


def _integers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


if __name__ == "__main__":
    main()
