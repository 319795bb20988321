"""What a step of Perceval costs beside a step of GRPO: CPU seconds, arms in turns, on the same responses.

    python scripts/bench_perceval.py --rounds 6 --steps 6 --output runs/bench_perceval

The learning rate is next to nothing, so every arm samples the same responses (checked by their numbers of tokens), and
the arms differ by the verifier and the credit alone. CPU time of the process, all its threads included, does not grow
when other jobs share the machine; seconds of the verifier are wall-clock, and what the step waited for of them is what
did not overlap. The caches of answers are off. CPU time is also told by part of the step, and beside it how many rows
and prompts the update had to run: a row whose advantages are all zero is left out of it. Writes `cost.md`, `cost.json`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmcredit import config as run_config
from mmcredit.train import loop
from mmcredit.train.costs import Costs
from mmcredit.train.loop import Trainer

PAPER = "credit=[grpo, {perceval: {alpha: 0.1}}]"
FLOOR = "credit=[grpo, {perceval: {alpha: 1.0, a_min: 1.0}}]"
LEARNED = "model: 'builtin:tiny-prm-easy-vqa', max_new_tokens: 64, cache_mb: 0"
ARMS = {
    "GRPO": ("credit=[grpo]", "verifiers=[]"),
    "oracle, groups that differ": (PAPER, "verifiers=[easy_vqa_oracle]"),
    "oracle, all groups": (FLOOR, "verifiers=[{easy_vqa_oracle: {groups: all}}]"),
    "learned PRM, groups that differ": (PAPER, f"verifiers=[{{prm_local: {{{LEARNED}}}}}]"),
    "learned PRM, all groups": (FLOOR, f"verifiers=[{{prm_local: {{{LEARNED}, groups: all}}}}]"),
}


PARTS = ("rollout", "rewards", "verify", "credit", "update")


class CpuCosts(Costs):
    """The run's account, with the CPU seconds of every stage (all threads) beside those of the clock."""

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        began = time.process_time()
        with super().stage(name):
            yield
        self.stages[name]["cpu"] += time.process_time() - began


loop.Costs = CpuCosts  # type: ignore[misc]


def one(arm: str, steps: int, folder: Path) -> dict[str, float]:
    """One short run: CPU seconds of its steps, and what the verifier took of the wall clock."""
    shutil.rmtree(folder, ignore_errors=True)
    fixed = [f"run.steps={steps}", f"run.dir={folder}", "train.learning_rate=1e-12", "data.evaluate=null"]
    quiet = ["evaluate.every=0", "log.tensorboard=false", "log.samples_every=0"]
    trainer = Trainer(run_config.load("easy_vqa_perceval", None, [*fixed, *quiet, *ARMS[arm]]))
    began = time.process_time()
    trainer.run()
    cpu = time.process_time() - began
    stages = json.loads((folder / "cost.json").read_text())["stages"]
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    verify = stages.get("verify", {})
    busy, waited = verify.get("busy_seconds", 0.0), verify.get("seconds", 0.0)
    return {
        "cpu": cpu / steps,
        "busy": busy / steps,
        "waited": waited / steps,
        "responses": verify.get("responses", 0.0) / steps,
        "verifier_tokens": verify.get("tokens", 0.0) / steps,
        "tokens": stages["rollout"]["tokens"],
        "active": statistics.mean(row["policy/active_responses"] for row in rows),
        **{f"cpu_{name}": stages.get(name, {}).get("cpu", 0.0) / steps for name in PARTS},
    }


def table(seen: dict[str, list[dict[str, float]]]) -> str:
    """Medians over the rounds; ratios are within a round."""
    lines = [
        "| per step | CPU s | beside GRPO, median (least .. most) | verified | verifier's tokens | verifier s | "
        "overlapped | waited for |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for arm, rounds in seen.items():

        def middle(name: str, rounds: list[dict[str, float]] = rounds) -> float:
            return statistics.median(r[name] for r in rounds)

        ratios = [own["cpu"] / base["cpu"] for own, base in zip(rounds, seen["GRPO"], strict=True)]
        ratio = f"{statistics.median(ratios):.3f} ({min(ratios):.3f} .. {max(ratios):.3f})"
        overlapped = statistics.median(max(0.0, r["busy"] - r["waited"]) for r in rounds)
        lines.append(
            f"| {arm} | {middle('cpu'):.2f} | {'1' if arm == 'GRPO' else ratio} | {middle('responses'):.0f} | "
            f"{middle('verifier_tokens'):.0f} | {middle('busy'):.3f} | {overlapped:.3f} | {middle('waited'):.3f} |"
        )
    return "\n".join(lines)


def parts(seen: dict[str, list[dict[str, float]]]) -> str:
    """CPU seconds of a step by part, medians; their sum beside GRPO's; the share of the responses that the update runs.

    The rest of a run's CPU time (loading, writing files) is no part of a step that arms could differ in.
    """
    lines = [
        "| CPU s per step | " + " | ".join(PARTS) + " | together | beside GRPO | rows in the update |",
        "|---|" + "---|" * (len(PARTS) + 3),
    ]
    base = 0.0
    for arm, rounds in seen.items():
        own = {name: statistics.median(r[f"cpu_{name}"] for r in rounds) for name in PARTS}
        total = sum(own.values())
        base = base or total
        active = statistics.median(r["active"] for r in rounds)
        cells = " | ".join(f"{value:.3f}" for value in (*own.values(), total))
        lines.append(f"| {arm} | {cells} | {total / base:.3f} | {active:.0%} |")
    return "\n".join(lines)


def main() -> None:
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("--rounds", type=int, default=6)
    parse.add_argument("--steps", type=int, default=6)
    parse.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parse.add_argument("--output", type=Path, default=Path("runs/bench_perceval"))
    options = parse.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    names = list(dict.fromkeys(["GRPO", *options.arms]))
    seen: dict[str, list[dict[str, float]]] = {arm: [] for arm in names}
    one("GRPO", 1, options.output / "run")  # what is loaded once is no arm's own
    for number in range(options.rounds):
        for arm in names if number % 2 == 0 else reversed(names):
            seen[arm].append(one(arm, options.steps, options.output / "run"))
            print(arm, json.dumps(seen[arm][-1]), flush=True)
    tokens: Any = {found["tokens"] for rounds in seen.values() for found in rounds}
    if len(tokens) > 1:
        raise SystemExit(f"the arms did not sample the same responses: {sorted(tokens)} tokens")
    (options.output / "cost.json").write_text(json.dumps(seen, indent=1))
    text = table(seen) + "\n\n" + parts(seen)
    (options.output / "cost.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
