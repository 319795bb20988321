"""Whole GRPO steps beside TRL's GRPOTrainer, on the same work.

    python scripts/bench_trl.py trl --python VENV/bin/python   # the table, TRL and ours in alternating processes
    python scripts/bench_trl.py ours --fam qwen2_5_vl          # our side of one row, one JSON line

The opponents are scripts/opponents/trl_baseline_{text,vlm}.py. Same model, prompts, lengths, optimizer, learning rate
and threads; every part of a step is timed on both sides. TRL wants an environment of its own:
pip install torch==2.13.0, then torchvision==0.28.0 transformers==5.19.0 trl==1.16.0 peft datasets.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench_common import children, machine, resident

OPPONENTS = Path(__file__).resolve().parent / "opponents"
sys.path.insert(0, str(OPPONENTS))
os.environ.setdefault("HF_HUB_OFFLINE", "1")

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
    program = "import trl, torch, transformers as t; print(trl.__version__, torch.__version__, t.__version__)"
    found = subprocess.run([options.python, "-c", program], capture_output=True, text=True, check=True)
    versions = found.stdout.split()
    print(
        f"TRL {versions[0]}, torch {versions[1]}, transformers {versions[2]}; 4 prompts x 8, exactly 64 new tokens, "
        f"beta 0, lr 1e-3, one inner step, {options.threads} threads, float32; {options.rounds} processes of "
        f"{options.steps} steps each in turn; per process the median of all but the first step; "
        "below the median over processes\n"
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
            worker = sum(resident("VmHWM", pid) for pid in children()) / 1024
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


def main() -> None:
    """Read the command line."""
    top = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    actions = top.add_subparsers(dest="command", required=True)
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
    for action in actions.choices.values():
        action.add_argument("--steps", type=int, default=8)
        action.add_argument("--threads", type=int, default=2)
    options = top.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
