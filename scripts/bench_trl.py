"""GRPO steps beside TRL's GRPOTrainer, on the same work, in one process.

    python scripts/bench_trl.py rows                          # the names of the rows
    python scripts/bench_trl.py measure --rows 'text-*-g8'    # rows that are there are left out
    python scripts/bench_trl.py table                         # Markdown of what has been measured
    python scripts/bench_trl.py profile --rows text-64-g8     # operators of our side

It wants an environment that has both: scripts/test_integrations.sh trl makes one (.venv-integrations/trl). In a row TRL
and ours take steps in turn: same model, prompts, images, number and length of responses, updates, optimizer, threads.
Rows are kept as JSON, one file each, so that they can be measured in pieces. Other work on the machine lengthens wall
time, so CPU time stands beside it.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench_common import machine


def rows() -> dict[str, dict[str, Any]]:
    """Every row by name. Lengths in tokens; `ratio` is image tokens to response tokens."""
    found: dict[str, dict[str, Any]] = {}
    for group in (8, 4, 16):
        for length in (64, 512, 2048):
            found[f"text-{length}-g{group}"] = {"family": "text", "prompt": length, "new": 64, "group": group}
        for ratio in (1, 4, 16):
            found[f"vlm-{ratio}to1-g{group}"] = {"family": "qwen2_5_vl", "ratio": ratio, "new": 32, "group": group}
    common = {"prompts": 2, "hidden": 128, "layers": 4}
    found = {name: {**common, **row} for name, row in found.items()}
    found["vlm-4to1-g8-qwen3"] = {**found["vlm-4to1-g8"], "family": "qwen3_vl"}
    found["smollm2-lora"] = {"family": "smollm2", "prompts": 6, "group": 8, "new": 20, "lora": 16}
    return found


def title(name: str, row: dict[str, Any]) -> str:
    """How the table calls a row."""
    if row["family"] == "smollm2":
        return f"SmolLM2-135M, LoRA, sums, {row['prompts']} x {row['group']}"
    if row["family"] == "text":
        return f"Qwen2 text, prompt {row['prompt']:,}, G = {row['group']}"
    family = "Qwen3-VL" if row["family"] == "qwen3_vl" else "Qwen2.5-VL"
    return f"{family}, image : response {row['ratio']} : 1, G = {row['group']}"


def measure(options: argparse.Namespace) -> None:
    """Measure rows that are not there yet, one after the other in one process."""
    options.out.mkdir(parents=True, exist_ok=True)
    chosen = [name for name in rows() if any(fnmatch.fnmatch(name, p) for p in options.rows.split(","))]
    if not chosen:
        raise SystemExit(f"no row is called {options.rows}; known: {', '.join(rows())}")
    words: list[str] = []
    for name in chosen:
        path = options.out / f"{name}.json"
        if options.again or not path.exists():
            spec = {**rows()[name], "steps": options.steps, "threads": options.threads, "model": options.model}
            words += [str(path), json.dumps(spec)]
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(options.threads)}
    program = Path(__file__).with_name("bench_trl_row.py")
    sys.exit(subprocess.run([sys.executable, str(program), *words], env=env).returncode)


def profile(options: argparse.Namespace) -> None:
    """Print which operators our training side spends its time on."""
    chosen = [name for name in rows() if any(fnmatch.fnmatch(name, p) for p in options.rows.split(","))]
    words = [word for name in chosen for word in (name, json.dumps({**rows()[name], "threads": options.threads}))]
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(options.threads)}
    program = Path(__file__).with_name("bench_trl_profile.py")
    sys.exit(subprocess.run([sys.executable, str(program), *words], env=env).returncode)


def _ratio(found: dict[str, Any], part: str, clock: str) -> float:
    return found["trl"][part][clock] / found["ours"][part][clock]


def table(options: argparse.Namespace) -> None:
    """Print the table of the measured rows."""
    print(machine())
    known = rows()
    print(
        "\nrow | training side, CPU s: TRL | ours | TRL/ours (wall) | bound | whole step, CPU s: TRL | ours | "
        "TRL/ours (wall) | bound | floor, GFLOP | ours, GFLOP/s | steps | load"
    )
    print("---|---|---|---|---|---|---|---|---|---|---|---|---")
    for name, row in known.items():
        path = options.out / f"{name}.json"
        if not path.exists():
            continue
        found = json.loads(path.read_text(encoding="utf-8"))
        floor, cells = found["floor"], [title(name, row)]
        for part in ("training", "whole"):
            theirs, ours = (found[side][part]["cpu"] for side in ("trl", "ours"))
            bound = floor[part]["repeated"] / floor[part]["shared"]
            cells += [f"{theirs:.2f}", f"{ours:.2f}"]
            cells += [f"**{theirs / ours:.2f}** ({_ratio(found, part, 'wall'):.2f})", f"{bound:.2f}"]
        rate = floor["training"]["shared"] / found["ours"]["training"]["cpu"] / 1e9
        cells += [f"{floor['training']['shared'] / 1e9:.1f}", f"{rate:.1f}", str(found["steps"]), found["load"]]
        print(" | ".join(cells))


def main() -> None:
    """Read the command line."""
    top = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    actions = top.add_subparsers(dest="command", required=True)
    actions.add_parser("rows", help="names of the rows").set_defaults(run=lambda options: print(*rows(), sep="\n"))
    for name, run in (("measure", measure), ("table", table), ("profile", profile)):
        action = actions.add_parser(name, help=run.__doc__)
        action.set_defaults(run=run)
        if name != "profile":
            action.add_argument("--out", type=Path, default=Path("runs/bench_trl"), help="folder of the rows")
        if name != "table":
            action.add_argument("--rows", default="*", help="names, with wildcards, separated by commas")
            action.add_argument("--threads", type=int, default=1)
        if name == "measure":
            action.add_argument("--steps", type=int, default=3, help="measured steps, after one that is not")
            action.add_argument("--again", action="store_true", help="measure rows that are there, too")
            action.add_argument(
                "--model", default="models/SmolLM2-135M-Instruct", help="folder of the row smollm2-lora"
            )
    options = top.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
