"""What Perceval does on easy-VQA: accuracy, and how often the reasoning says something false about the picture.

    python scripts/effect_perceval.py --seeds 0 1 2 --output runs/effect_perceval

Trains `configs/easy_vqa_perceval.yaml` under every variant and seed (a run whose results are there is not repeated),
answers the held-out questions greedily and at temperature 1, and writes `perceval.md`, `perceval.json`, `perceval.svg`.
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
from mmcredit.evaluate.held_out import evaluate_model
from mmcredit.train.loop import Trainer
from prm.oracles import EasyVqaOracle
from prm.spans import think_zone
from prm.verifier import Query

ORACLE = "[easy_vqa_oracle]"
VARIANTS: dict[str, tuple[str, ...]] = {
    "grpo": ("credit=[grpo]", "verifiers=[]"),
    "perceval, alpha 0.1": ("credit=[grpo, {perceval: {alpha: 0.1}}]", f"verifiers={ORACLE}"),
    "perceval, alpha 0.3": ("credit=[grpo, {perceval: {alpha: 0.3}}]", f"verifiers={ORACLE}"),
    "perceval, alpha 1": ("credit=[grpo, {perceval: {alpha: 1.0}}]", f"verifiers={ORACLE}"),
    "perceval, a_min 1": (
        "credit=[grpo, {perceval: {alpha: 1.0, a_min: 1.0}}]",
        "verifiers=[{easy_vqa_oracle: {groups: all}}]",
    ),
    "random spans, a_min 1": (
        "credit=[grpo, {perceval: {alpha: 1.0, a_min: 1.0}}]",
        "verifiers=[{random_spans: {like: {easy_vqa_oracle: {}}, zone: think, groups: all}}]",
    ),
    "random spans, alpha 0.1": (
        "credit=[grpo, {perceval: {alpha: 0.1}}]",
        "verifiers=[{random_spans: {like: {easy_vqa_oracle: {}}, zone: think}}]",
    ),
    "random spans, alpha 1": (
        "credit=[grpo, {perceval: {alpha: 1.0}}]",
        "verifiers=[{random_spans: {like: {easy_vqa_oracle: {}}, zone: think}}]",
    ),
}
MEASURES = {
    "accuracy": "accuracy",
    "false_claim": "responses with a false claim",
    "false_but_right": "right answers with a false claim",
    "agreement": "answer named in the reasoning",
}
T95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}  # Student's t, n - 1 degrees of freedom


def measure(rows: list[dict[str, Any]], meta: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Shares over the held-out questions, one response each."""
    oracle = EasyVqaOracle()
    texts = [row.get("response") or row["responses"][0] for row in rows]
    queries = [Query("", text, meta=meta[row["id"]]) for row, text in zip(rows, texts, strict=True)]
    false = [said.status == "flagged" for said in oracle.verify(queries)]
    right = [row["correct"] > 0.5 for row in rows]
    agree = []
    for text in texts:
        answer, (start, end) = last_tag(text) or "", think_zone(text)
        agree.append(bool(answer) and re.search(rf"\b{re.escape(answer)}\b", text[start:end]) is not None)
    n = len(rows)
    return {
        "accuracy": sum(right) / n,
        "false_claim": sum(false) / n,
        "false_but_right": sum(f and r for f, r in zip(false, right, strict=True)) / n,
        "agreement": sum(agree) / n,
        "questions": n,
    }


def evaluate(model: str, overrides: tuple[str, ...], temperature: float) -> dict[str, float]:
    """Measures of a model on the config's held-out questions."""
    from mmcredit.prepare import held_out_samples

    run = run_config.load(
        "easy_vqa_perceval",
        None,
        [*overrides, f"model.path={model}", f"evaluate.temperature={temperature}", "verifiers=[]", "credit=[grpo]"],
    )
    _, rows = evaluate_model(run)
    return measure(rows, {s.id: dict(s.meta) for s in held_out_samples(run)})


def one(variant: str, seed: int, folder: Path, overrides: tuple[str, ...]) -> dict[str, Any]:
    """Train and measure one variant with one seed; the result lies in `folder` when it is there already."""
    where = folder / re.sub(r"\W+", "_", variant) / f"seed-{seed}"
    done = where / "result.json"
    if done.is_file():
        return json.loads(done.read_text())
    if (where / "run").exists():
        shutil.rmtree(where / "run")  # a run that was broken off
    changes = [*overrides, *VARIANTS[variant], f"run.seed={seed}", f"run.dir={where / 'run'}", "log.tensorboard=false"]
    run = run_config.load("easy_vqa_perceval", None, [*changes, "data.evaluate=null", "evaluate.every=0"])
    outcome = Trainer(run).run()
    model = str(where / "run" / "model")
    found: dict[str, Any] = {"variant": variant, "seed": seed, "seconds": outcome.seconds, "steps": outcome.steps}
    seeded = (*overrides, f"run.seed={seed}")
    found["greedy"] = evaluate(model, seeded, 0.0)
    found["sampled"] = evaluate(model, seeded, 1.0)
    costs = json.loads((where / "run" / "cost.json").read_text())
    found["verify"] = costs["stages"].get("verify", {})
    done.write_text(json.dumps(found, indent=1))
    return found


def interval(values: list[float]) -> str:
    """Mean and half width of the 95 % interval over seeds, in percent."""
    mean = sum(values) / len(values)
    if len(values) < 2:
        return f"{100 * mean:.1f}"
    sd = math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))
    return f"{100 * mean:.1f} ± {100 * T95.get(len(values), 1.96) * sd / math.sqrt(len(values)):.1f}"


def table(results: list[dict[str, Any]], before: dict[str, Any], mode: str) -> str:
    """A Markdown table over seeds."""
    lines = [f"| {mode} | seeds | " + " | ".join(MEASURES.values()) + " |", "|---|---|" + "---|" * len(MEASURES)]
    row = " | ".join(f"{100 * before[mode][name]:.1f}" for name in MEASURES)
    lines.append(f"| before training | - | {row} |")
    for variant in VARIANTS:
        found = [r for r in results if r["variant"] == variant]
        if found:
            cells = " | ".join(interval([r[mode][name] for r in found]) for name in MEASURES)
            lines.append(f"| {variant} | {len(found)} | {cells} |")
    return "\n".join(lines)


def paired(results: list[dict[str, Any]], mode: str) -> str:
    """Differences to GRPO with the same seed."""
    base = {r["seed"]: r for r in results if r["variant"] == "grpo"}
    lines = [f"| {mode}, minus GRPO | seeds | " + " | ".join(MEASURES.values()) + " |", "|---|---|" + "---|" * 4]
    for variant in VARIANTS:
        found = [r for r in results if r["variant"] == variant and r["seed"] in base and variant != "grpo"]
        if found:
            cells = " | ".join(
                interval([r[mode][name] - base[r["seed"]][mode][name] for r in found]) for name in MEASURES
            )
            lines.append(f"| {variant} | {len(found)} | {cells} |")
    return "\n".join(lines)


def plot(results: list[dict[str, Any]], path: Path) -> None:
    """Accuracy against the share of false claims, a point per run."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(7, 4.5))
    for variant in VARIANTS:
        found = [r for r in results if r["variant"] == variant]
        if found:
            axis.plot(
                [100 * r["sampled"]["false_claim"] for r in found],
                [100 * r["sampled"]["accuracy"] for r in found],
                "o",
                label=variant,
            )
    axis.set(xlabel="responses with a false claim, % (temperature 1)", ylabel="accuracy, %")
    axis.legend()
    figure.tight_layout()
    figure.savefig(path)


def main() -> None:
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parse.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
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
        start.write_text(json.dumps(found, indent=1))
    before = json.loads(start.read_text())
    if not options.tables_only:
        for seed in options.seeds:
            for variant in options.variants:
                found = one(variant, seed, options.output, overrides)
                print(json.dumps(found), flush=True)
    results = [json.loads(path.read_text()) for path in sorted(options.output.glob("*/seed-*/result.json"))]
    parts = [table(results, before, mode) + "\n\n" + paired(results, mode) for mode in ("greedy", "sampled")]
    (options.output / "perceval.md").write_text("\n\n".join(parts) + "\n")
    (options.output / "perceval.json").write_text(json.dumps({"before": before, "runs": results}, indent=1))
    plot(results, options.output / "perceval.svg")
    print("\n\n".join(parts))


if __name__ == "__main__":
    main()
