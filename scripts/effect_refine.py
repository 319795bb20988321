"""Test-time refinement with the shipped verifier beside greedy decoding, voting and best-of-N, at equal cost.

    python scripts/effect_refine.py --seeds 0,1,2 --limit 200 --output runs/effect_refine

Runs `mmcredit refine` on easy-VQA twice: with the verifier `builtin:tiny-prm-easy-vqa`, and with a control that flags
as many responses at random places and asks the same model (so it costs the same). Both go on after a kill. Writes
`refine.md`: accuracy by strategy and k, and what each strategy gives for at most B generated tokens per question, the
verifier's included, with its difference to voting on the same questions.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

from mmcredit import cli
from mmcredit.intervals import paired_gain
from prm.rows import ROWS, SUMMARY, read_rows

PRM = "{prm_local: {model: 'builtin:tiny-prm-easy-vqa', max_new_tokens: 64, cache: %s}}"
LABELS = {
    "greedy": "greedy",
    "vote": "majority voting",
    "best_of": "best-of-k, fewest flags",
    "regenerate": "truncate and regenerate",
    "reflect": "truncate and reflect",
    "regenerate_vote": "regenerate, 4 chains voted",
    "reflect_vote": "reflect, 4 chains voted",
}


def refine(options: argparse.Namespace, name: str, prm: str, strategies: str) -> Path:
    """One folder of results; what is there is not asked again."""
    folder: Path = options.output / name
    words = ["refine", "easy_vqa_perceval", "--policy", options.policy, "--prm", prm, "--strategies", strategies]
    words += ["--k", options.k, "--seeds", options.seeds, "--limit", str(options.limit), "-o", str(folder)]
    if cli.main(words) != 0:
        raise SystemExit(f"mmcredit {' '.join(words)} failed")
    return folder


def flag_rate(folder: Path) -> float:
    """Share of first texts that the verifier flagged, over all traces."""
    seen = Counter(row["cycles"][0]["status"] for row in read_rows(folder / "traces.jsonl") if row["cycles"])
    return seen["flagged"] / max(1, seen["flagged"] + seen["clean"])


def cell(row: dict[str, Any]) -> str:
    return f"{100 * row['accuracy']:.1f} [{100 * row['low']:.1f}, {100 * row['high']:.1f}]"


def by_k(summary: list[dict[str, Any]], extra: str = "") -> list[str]:
    """A line per strategy: accuracy at every k, and the tokens of the largest."""
    lines = []
    for name, label in LABELS.items():
        rows = {row["k"]: row for row in summary if row["strategy"] == name}
        if not rows:
            continue
        ks = sorted(rows)
        shown = [f"{100 * rows[k]['accuracy']:.1f}" for k in ks[:-1]] + [cell(rows[ks[-1]])]
        last = rows[ks[-1]]
        shown = shown if name != "greedy" else [cell(last)] + [""] * (len(KS) - 1)
        tokens = f"{last['generated_tokens']:.0f}, of them the verifier's {last['prm_new_tokens']:.0f}"
        lines.append(f"| {label}{extra} | " + " | ".join(shown) + f" | {tokens} |")
    return lines


def answers(folder: Path, strategy: str, k: int) -> dict[tuple[str, int], float]:
    """Right or wrong per question and seed."""
    return {
        (row["id"], row["seed"]): float(result["right"])
        for row in read_rows(folder / ROWS)
        for result in row["results"]
        if (result["strategy"], result["k"]) == (strategy, k)
    }


def mean_by_question(values: dict[tuple[str, int], float]) -> dict[str, float]:
    seen: dict[str, list[float]] = {}
    for (question, _), value in values.items():
        seen.setdefault(question, []).append(value)
    return {question: sum(each) / len(each) for question, each in seen.items()}


def at_equal_tokens(folders: dict[str, Path], budgets: list[int], seeds: int) -> list[str]:
    """For every budget the largest k whose mean cost keeps below it, and the paired difference to voting."""
    head = "| strategy | " + " | ".join(f"<= {b} tokens: k, accuracy | minus voting" for b in budgets) + " |"
    lines = [head, "|---|" + "---|---|" * len(budgets)]
    summaries = {name: json.loads((folder / SUMMARY).read_text())["strategies"] for name, folder in folders.items()}

    def best(name: str, strategy: str, budget: int) -> dict[str, Any] | None:
        rows = [r for r in summaries[name] if r["strategy"] == strategy and r["generated_tokens"] <= budget]
        return max(rows, key=lambda r: r["k"]) if rows else None

    for name, summary in summaries.items():
        for strategy in (s for s in LABELS if any(r["strategy"] == s for r in summary)):
            shown = []
            for budget in budgets:
                row, vote = best(name, strategy, budget), best("verifier", "vote", budget)
                if row is None:
                    shown += ["-", "-"]
                    continue
                shown.append(f"{row['k']}: {cell(row)}")
                if strategy == "vote" or vote is None:
                    shown.append("")
                    continue
                ours = mean_by_question(answers(folders[name], strategy, row["k"]))
                theirs = mean_by_question(answers(folders["verifier"], "vote", vote["k"]))
                order = sorted(ours.keys() & theirs.keys())
                gain = paired_gain([theirs[q] for q in order], [ours[q] for q in order], seeds)
                shown.append(f"{100 * gain.value:+.1f} [{100 * gain.low:+.1f}, {100 * gain.high:+.1f}]")
            label = LABELS[strategy] + (", flags at random" if name == "control" else "")
            lines.append(f"| {label} | " + " | ".join(shown) + " |")
    return lines


def main() -> None:
    global KS
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("--policy", default="builtin:tiny-qwen2_5-vl")
    parse.add_argument("--seeds", default="0,1,2")
    parse.add_argument("--limit", type=int, default=200)
    parse.add_argument("--k", default="1,2,4,8,16")
    parse.add_argument("--budgets", default="50,100,200,400")
    parse.add_argument("--output", type=Path, default=Path("runs/effect_refine"))
    options = parse.parse_args()
    KS = [int(k) for k in options.k.split(",")]
    options.output.mkdir(parents=True, exist_ok=True)
    prm = PRM % json.dumps(str(options.output / "prm-cache.sqlite"))
    folders = {"verifier": refine(options, "verifier", prm, "all")}
    rate = flag_rate(folders["verifier"])
    control = f"{{random_spans: {{like: {prm}, flagged: {rate:.2f}}}}}"
    folders["control"] = refine(options, "control", control, "best_of,regenerate,regenerate_vote")
    lines = ["| strategy | " + " | ".join(f"k = {k}" for k in KS) + f" | generated tokens at k = {KS[-1]} |"]
    lines.append("|---|" + "---|" * (len(KS) + 1))
    for name, folder in folders.items():
        summary = json.loads((folder / SUMMARY).read_text())["strategies"]
        lines += by_k(summary, ", flags at random" if name == "control" else "")
    seeds = len(options.seeds.split(","))
    lines += ["", *at_equal_tokens(folders, [int(b) for b in options.budgets.split(",")], seeds)]
    text = "\n".join([*lines, "", f"share of first texts that the verifier flags (and the control draws): {rate:.2f}"])
    (options.output / "refine.md").write_text(text + "\n")
    print(text)


KS: list[int] = []

if __name__ == "__main__":
    main()
