"""A table of held-out accuracy before and after, one row per run: `python scripts/seed_table.py RUN [RUN ...]`.

Runs: `mmcredit train configs/easy_vqa.yaml run.seed=N run.dir=runs/seed-N`. What it prints is benchmarks/quickstart.md.
"""

from __future__ import annotations

import sys
from pathlib import Path

from bench_common import machine

from mmcredit.report.records import load_run

TRAINING = ("prompts", "rollout", "rewards", "score", "credit", "update")


def row(folder: Path) -> str:
    """One run as a line of the table."""
    run = load_run(folder)
    first, last = run.evaluations[0], run.evaluations[-1]
    seconds = sum(run.cost["stages"][name]["seconds"] for name in TRAINING)

    def percent(value: float) -> str:
        return f"{100 * value:.1f}"

    def interval(found: dict, value: str, low: str, high: str) -> str:
        return f"{percent(found[value])} [{percent(found[low])}, {percent(found[high])}]"

    return " | ".join(
        [
            str(run.config["run"]["seed"]),
            str(run.config["run"]["steps"]),
            str(run.versions["threads"]),
            f"{seconds:.0f}",
            str(first["n"]),
            interval(first, "accuracy", "low", "high"),
            interval(last, "accuracy", "low", "high"),
            "+" + interval(last, "gain", "gain_low", "gain_high"),
            percent(last["part_format"]),
        ]
    )


def main() -> None:
    """Print the table."""
    print(machine())
    print("\nHeld-out accuracy in percent, greedy, with 95 % intervals; the gain is paired over the same questions.\n")
    print("seed | steps | threads | training s | questions | before | after | gain | in format after")
    print("---|---|---|---|---|---|---|---|---")
    for name in sys.argv[1:]:
        print(row(Path(name)))


if __name__ == "__main__":
    main()
