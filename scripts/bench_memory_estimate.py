"""Memory that `mmcredit check` expects against the peak of a run; writes benchmarks/memory_estimate.md.

    python scripts/bench_memory_estimate.py [--steps 3] [--only NAME] [--smollm2 models/SmolLM2-135M-Instruct]

Estimate and run are fresh processes each, with one thread; the peak is that of the resident set (ru_maxrss) of the
process that trains, its reward workers aside. SmolLM2 needs `bash scripts/fetch_smollm2.sh` first and is left out, with
a word, where its folder is missing.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from bench_common import machine

ROOT = Path(__file__).resolve().parent.parent
SHORT = ("evaluate.limit=64", "log.tensorboard=false", "log.samples_every=1", "run.threads=1")

# An untrained answer differs in it from any other: every group has a signal, and every response is in the update.
REWARD = """
def vowels(item):
    return sum(c in "aeiou" for c in item.response) / max(1, len(item.response))
"""
LIMIT = "at its limit"  # every response as long as it may be: what the estimate is made for

# name: (config, overrides)
RUNS: dict[str, tuple[str, tuple[str, ...]]] = {
    "tiny-qwen2_5-vl, easy_vqa": ("easy_vqa", ()),
    f"tiny-qwen2_5-vl, easy_vqa, {LIMIT}": ("easy_vqa", ("rollout.sampling.min_new_tokens=48",)),
    "tiny-qwen3, text_math": ("text_math", ()),
    f"tiny-qwen3, text_math, {LIMIT}": ("text_math", ("rollout.sampling.min_new_tokens=48",)),
    "SmolLM2-135M, sums": ("smollm2_sums", ()),
    f"SmolLM2-135M, sums, {LIMIT}": ("smollm2_sums", ("rollout.sampling.min_new_tokens=20",)),
    f"SmolLM2-135M, sums, {LIMIT}, token_budget 512": (
        "smollm2_sums",
        ("rollout.sampling.min_new_tokens=20", "train.token_budget=512"),
    ),
    f"SmolLM2-135M, sums, {LIMIT}, checkpointing": (
        "smollm2_sums",
        ("rollout.sampling.min_new_tokens=20", "model.gradient_checkpointing=true"),
    ),
    f"SmolLM2-135M, sums, {LIMIT}, LoRA": (
        "smollm2_sums",
        ("rollout.sampling.min_new_tokens=20", "model.lora={rank: 16}"),
    ),
}

ESTIMATE = """
import json, sys
from mmcredit import config
from mmcredit.policy.policy import Policy
from mmcredit.train.preflight.look import look
run = config.load(sys.argv[1], None, sys.argv[2:])
found = look(run, Policy.load(run.model, media_limits=run.data.media), 100)
print(json.dumps({"total": found.memory.total, "phase": found.memory.phase, "rows": dict(found.memory.rows),
                  "errors": found.errors}))
"""
PEAK = """
import json, sys
from mmcredit import config
from mmcredit.train.costs import peak_memory_mb
from mmcredit.train.loop import Trainer
run = config.load(sys.argv[1], None, sys.argv[2:])
Trainer(run).run()
print(json.dumps({"peak": peak_memory_mb()}))
"""


def fresh(program: str, *arguments: str) -> dict[str, object]:
    """What a fresh interpreter prints last, as JSON."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False, env=env, cwd=ROOT
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--only", default="", help="runs whose name holds this text")
    parser.add_argument("--smollm2", type=Path, default=Path("models/SmolLM2-135M-Instruct"))
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "benchmarks" / "memory_estimate.md")
    options = parser.parse_args()
    lines = []
    for name, (config, overrides) in RUNS.items():
        if options.only not in name:
            continue
        words = [*SHORT, f"run.steps={options.steps}", *overrides]
        if config == "smollm2_sums":
            if not options.smollm2.is_dir():
                print(f"{name}: left out, {options.smollm2} is not there (bash scripts/fetch_smollm2.sh)")
                continue
            words.append(f"model.path={options.smollm2.resolve()}")
        with tempfile.TemporaryDirectory() as folder:
            words.append(f"run.dir={folder}/run")
            if LIMIT in name:
                reward = Path(folder) / "reward.py"
                reward.write_text(REWARD, encoding="utf-8")
                words += [f"rewards=[{{function: {{path: {reward}:vowels}}}}]", "evaluate.reward=null"]
            expected = fresh(ESTIMATE, config, *words)
            peak = float(fresh(PEAK, config, *words)["peak"])  # type: ignore[arg-type]
        total = float(expected["total"])  # type: ignore[arg-type]
        rows = ", ".join(f"{k} {v:,.0f}" for k, v in expected["rows"].items())  # type: ignore[attr-defined]
        lines.append(
            f"| {name} | {total:,.0f} | {peak:,.0f} | {100 * (total / peak - 1):+.0f} % | {expected['phase']}: {rows} |"
        )
        print(lines[-1], flush=True)
    options.output.write_text(
        "# Memory: what `mmcredit check` expects, and the peak of the run\n\n"
        f"{machine()}\n\n"
        f"MiB. {options.steps} steps of the named config, 64 held-out questions before and after, the model saved at "
        "the end; fresh processes, one thread. The estimate is an upper bound by intent: it takes every response at "
        "its length limit and every prompt as long as the longest.\n\n"
        "| run | estimate | peak of the resident set | estimate / peak - 1 | largest moment, of what |\n"
        "|---|---|---|---|---|\n" + "\n".join(lines) + "\n",
        encoding="utf-8",
    )
    print(f"wrote {options.output}")


if __name__ == "__main__":
    main()
