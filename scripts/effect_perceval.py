"""What Perceval does on easy-VQA: accuracy, and how often the reasoning says something false about the picture.

    python scripts/effect_perceval.py --seeds 0 1 2 3 4 --output runs/effect_perceval

Trains `configs/easy_vqa_perceval.yaml` under every arm, seed by seed; answers the held-out questions greedily and at
temperature 1; writes `perceval.md`, `perceval.json`, `perceval.svg` after each cell (an arm with a seed). A cell whose
result is there is not repeated, so the command goes on after a kill; one that was broken off begins again.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

from mmcredit import config as run_config
from mmcredit.answers.extract import last_tag
from mmcredit.data.sources.easy_vqa import SHAPES
from mmcredit.evaluate.held_out import evaluate_model
from mmcredit.train.loop import Trainer
from prm.oracles import COLORS, EasyVqaOracle
from prm.spans import think_zone
from prm.verifier import Query

CONFIG = "easy_vqa_perceval"
LEARNED = "{model: 'builtin:tiny-prm-easy-vqa', max_new_tokens: 64"
# The first four are the study; the others are what was tried on the way to the config's settings.
ARMS: dict[str, tuple[str, ...]] = {
    "GRPO": ("credit=[grpo]", "verifiers=[]"),
    "Perceval, oracle": (),
    "Perceval, learned PRM": (f"verifiers=[{{prm_local: {LEARNED}, groups: all}}}}]",),
    "random spans": ("verifiers=[{random_spans: {like: {easy_vqa_oracle: {}}, zone: think, groups: all}}]",),
    "alpha 0.1 (paper)": ("credit=[grpo, {perceval: {alpha: 0.1}}]", "verifiers=[easy_vqa_oracle]"),
    "alpha 1": ("credit=[grpo, {perceval: {alpha: 1.0}}]", "verifiers=[easy_vqa_oracle]"),
}
STUDY = tuple(ARMS)[:4]
MEASURES = {
    "accuracy": "accuracy",
    "false_claim": "responses with a false claim",
    "false_but_right": "right answers with a false claim",
    "true_description": "colour and shape named, both true",
    "described": "colour and shape named",
    "agreement": "answer named in the reasoning",
}
T95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}  # Student's t, n - 1 degrees of freedom
_COLOR, _SHAPE = (re.compile(rf"\b(?:{'|'.join(words)})\b", re.IGNORECASE) for words in (COLORS, SHAPES))


def measure(rows: list[dict[str, Any]], meta: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Shares over the held-out questions, one response each. A policy that says nothing says nothing false: what it
    names is measured beside."""
    oracle = EasyVqaOracle()
    texts = [row.get("response") or row["responses"][0] for row in rows]
    queries = [Query("", text, meta=meta[row["id"]]) for row, text in zip(rows, texts, strict=True)]
    false = [said.status == "flagged" for said in oracle.verify(queries)]
    right = [row["correct"] > 0.5 for row in rows]
    agree, named = [], []
    for text in texts:
        answer, (start, end) = last_tag(text) or "", think_zone(text)
        thought = text[start:end]
        agree.append(bool(answer) and re.search(rf"\b{re.escape(answer)}\b", thought) is not None)
        named.append(bool(_COLOR.search(thought) and _SHAPE.search(thought)))
    n = len(rows)
    return {
        "accuracy": sum(right) / n,
        "false_claim": sum(false) / n,
        "false_but_right": sum(f and r for f, r in zip(false, right, strict=True)) / n,
        "true_description": sum(d and not f for d, f in zip(named, false, strict=True)) / n,
        "described": sum(named) / n,
        "agreement": sum(agree) / n,
        "questions": n,
    }


def evaluate(model: str, overrides: tuple[str, ...], temperature: float) -> dict[str, float]:
    """Measures of a model on the config's held-out questions."""
    from mmcredit.prepare import held_out_samples

    run = run_config.load(
        CONFIG,
        None,
        [*overrides, f"model.path={model}", f"evaluate.temperature={temperature}", "verifiers=[]", "credit=[grpo]"],
    )
    _, rows = evaluate_model(run)
    return measure(rows, {s.id: dict(s.meta) for s in held_out_samples(run)})


def one(arm: str, seed: int, folder: Path, overrides: tuple[str, ...]) -> dict[str, Any]:
    """Train and measure one arm with one seed; the result lies in `folder` when it is there already."""
    where = folder / re.sub(r"\W+", "_", arm) / f"seed-{seed}"
    done = where / "result.json"
    if done.is_file():
        return json.loads(done.read_text())
    if (where / "run").exists():
        shutil.rmtree(where / "run")  # a run that was broken off
    changes = [*overrides, *ARMS[arm], f"run.seed={seed}", f"run.dir={where / 'run'}", "log.tensorboard=false"]
    run = run_config.load(CONFIG, None, [*changes, "data.evaluate=null", "evaluate.every=0"])
    outcome = Trainer(run).run()
    model = str(where / "run" / "model")
    found: dict[str, Any] = {"arm": arm, "seed": seed, "seconds": outcome.seconds, "steps": outcome.steps}
    seeded = (*overrides, f"run.seed={seed}")
    found["greedy"] = evaluate(model, seeded, 0.0)
    found["sampled"] = evaluate(model, seeded, 1.0)
    costs = json.loads((where / "run" / "cost.json").read_text())
    found["verify"] = costs["stages"].get("verify", {})
    done.write_text(json.dumps(found, indent=1))
    return found


def interval(values: list[float]) -> str:
    """Mean and half width of the 95 % interval over seeds, in percent; of fewer than three seeds the values."""
    mean = sum(values) / len(values)
    if len(values) < 3:
        return " / ".join(f"{100 * value:.1f}" for value in values)
    sd = math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))
    return f"{100 * mean:.1f} ± {100 * T95.get(len(values), 1.96) * sd / math.sqrt(len(values)):.1f}"


def table(results: list[dict[str, Any]], before: dict[str, Any], mode: str) -> str:
    """A Markdown table over seeds."""
    lines = [f"| {mode} | seeds | " + " | ".join(MEASURES.values()) + " |", "|---|---|" + "---|" * len(MEASURES)]
    row = " | ".join(f"{100 * before[mode][name]:.1f}" for name in MEASURES)
    lines.append(f"| before training | - | {row} |")
    for arm in ARMS:
        found = [r for r in results if r["arm"] == arm]
        if found:
            cells = " | ".join(interval([r[mode][name] for r in found]) for name in MEASURES)
            lines.append(f"| {arm} | {len(found)} | {cells} |")
    return "\n".join(lines)


def paired(results: list[dict[str, Any]], mode: str) -> str:
    """Differences to GRPO with the same seed."""
    base = {r["seed"]: r for r in results if r["arm"] == "GRPO"}
    head = f"| {mode}, minus GRPO | seeds | " + " | ".join(MEASURES.values()) + " |"
    lines = [head, "|---|---|" + "---|" * len(MEASURES)]
    for arm in ARMS:
        found = [r for r in results if r["arm"] == arm and r["seed"] in base and arm != "GRPO"]
        if found:
            cells = " | ".join(
                interval([r[mode][name] - base[r["seed"]][mode][name] for r in found]) for name in MEASURES
            )
            lines.append(f"| {arm} | {len(found)} | {cells} |")
    return "\n".join(lines)


def plot(results: list[dict[str, Any]], before: dict[str, Any], path: Path) -> None:
    """True descriptions and accuracy of every arm at temperature 1: a point per seed, a bar at the mean."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "perceval"
    import matplotlib.pyplot as plt

    arms = [arm for arm in ARMS if any(r["arm"] == arm for r in results)]
    shown = ("accuracy", "true_description", "false_claim")
    figure, axes = plt.subplots(1, len(shown), figsize=(11, 3.6), sharey=True)
    for axis, name in zip(axes, shown, strict=True):
        for place, arm in enumerate(reversed(arms)):
            values = [100 * r["sampled"][name] for r in results if r["arm"] == arm]
            axis.plot(values, [place] * len(values), "o", alpha=0.6)
            axis.plot([sum(values) / len(values)] * 2, [place - 0.3, place + 0.3], "k-")
        axis.axvline(100 * before["sampled"][name], color="0.7", linestyle=":")
        axis.set(xlabel=f"{MEASURES[name]}, %")
    axes[0].set_yticks(range(len(arms)), list(reversed(arms)))
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def write(output: Path, before: dict[str, Any]) -> str:
    """Tables and plot of the cells that are there."""
    results = [json.loads(path.read_text()) for path in sorted(output.glob("*/seed-*/result.json"))]
    parts = [table(results, before, mode) + "\n\n" + paired(results, mode) for mode in ("greedy", "sampled")]
    (output / "perceval.md").write_text("\n\n".join(parts) + "\n")
    (output / "perceval.json").write_text(json.dumps({"before": before, "runs": results}, indent=1))
    plot(results, before, output / "perceval.svg")
    return "\n\n".join(parts)


def main() -> None:
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parse.add_argument("--arms", nargs="+", default=list(STUDY), choices=list(ARMS))
    parse.add_argument("--output", type=Path, default=Path("runs/effect_perceval"))
    parse.add_argument("--tables-only", action="store_true", help="write the tables of what is there")
    parse.add_argument("overrides", nargs="*", metavar="key=value", help="changes to the config")
    options = parse.parse_args()
    overrides = tuple(options.overrides)
    options.output.mkdir(parents=True, exist_ok=True)
    start = options.output / "before.json"
    if not start.is_file():
        model = "builtin:tiny-qwen2_5-vl"
        found = {"greedy": evaluate(model, overrides, 0.0), "sampled": evaluate(model, overrides, 1.0)}
        start.write_text(json.dumps({"overrides": overrides, **found}, indent=1))
    before = json.loads(start.read_text())
    if before["overrides"] != list(overrides):
        raise SystemExit(
            f"{options.output} holds cells with the overrides {before['overrides']}; give another --output"
        )
    for seed in options.seeds if not options.tables_only else ():
        for arm in options.arms:
            print(json.dumps(one(arm, seed, options.output, overrides)), flush=True)
            write(options.output, before)
    print(write(options.output, before))


if __name__ == "__main__":
    main()
