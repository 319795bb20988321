"""benchmarks/audit.md from the numbers of audits.

python scripts/audit_table.py runs/audit/text-math/audit.json runs/audit/easy-vqa/audit.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

TARGET = Path(__file__).resolve().parent.parent / "benchmarks" / "audit.md"
HEAD = """# Credit against the true advantages

What every method's credit is worth on small models before any RL: `mmcredit audit` measures the true advantage of each
sampled token by continuations of its prefix, or by listing all responses, and compares
([docs/audit.md](../docs/audit.md) says how, and what each column is). Written by `scripts/audit_table.py` from the
`audit.json` of

    mmcredit audit CONFIG --prompts N --batch 20 --dense 16 --continuations 8,16 --error 0.06 rollout.group=4

on one thread of a shared CPU; `letters` with `--exact` in place of continuations. `steps` and `letters` are
`configs/audits/*.yaml`, on models that `scripts/audit_cold_starts.py` makes from the shipped tiny Qwen3. `scenes` and
`easy-vqa` are asked about by their oracles (`verifiers=[{scene_oracle: {groups: all}}]`). Each section states its
number of prompts and the standard error of its truth. `--dense` is 8 in `steps`; `video-events` has `--batch 10
--regroup 1 --dense 4 --continuations 4,8 --error 0.08`, since a continuation there inserts frames anew. Of `scenes`,
the column `sampled` has its first 60 prompts as a share of what 80 cost. One of the pages that an audit writes:
[letters](audit/letters.html).

How to read it. Intervals are 95 %: bootstraps over prompts, of cosines jackknifes; an interval of the difference to
GRPO that holds 0 says that GRPO is as good *here*, not that the methods are equal. GRPO's credit is an unbiased
estimate: over very many responses its gradient points the true way, so its cosine is high already and what a method can
save is noise (column `noise`).
The correlations look at single tokens, where uniform credit says little. The row `spo_chain before every token` has its
own continuations, none of them shared with the truth; its distance to the row `truth` is noise of both sides, which
`corrected` takes out on the side of the truth only. `spo_tree` credits edges of trees of its own: other responses of
the same prompts, so nothing of its row is paired; trees were grown for `letters` only. Methods that read the image
equal GRPO on text. What a task has no signal for is not in its table: `perceval` without an oracle, `sd_grpo` without
clips, `step_wise` without a judge, SPO and SPAE where frames are inserted.
"""
COLUMNS = (
    ("gradient cosine", "gradient"), ("over GRPO", "gradient_over_grpo"), ("correlation", "correlation"),
    ("corrected", "correlation_corrected"), ("within", "within"),
    ("rank", "rank"), ("significant", "significant"),
    ("sign", "sign"), ("PR area", "precision"), ("noise", "noise"), ("extra passes", "passes"), ("sampled", "sampled"),
    ("s/batch", "seconds"),
)  # fmt: skip


def cell(row: dict[str, Any], key: str) -> str:
    value = row.get(key, row["agreement"].get(key))
    if key == "correlation_corrected" and "truth" in row["label"]:
        return "–"  # its noise is the truth's own
    if isinstance(value, dict):
        if value["value"] is None:
            return "–"
        around = "" if value["low"] is None else f" [{value['low']:.2f}, {value['high']:.2f}]"
        return f"{value['value']:.2f}{around}"
    if isinstance(value, list):
        return ", ".join(value) or "none"
    return "–" if value is None else f"{value:.2f}"


def section(found: dict[str, Any]) -> str:
    f, verdict = found["facts"], found["verdict"]

    def listed(kind: str) -> str:
        return ", ".join(verdict[kind]) or "none"

    drawn = f"{f['continuations']:,} continuations ({f['sampled_tokens']:,} tokens) from " if f["continuations"] else ""
    lines = [
        f"\n## {f['source']}: {f['prompts']} prompts, {f['responses']} responses, {f['tokens']:,} tokens\n",
        f"Model {', '.join(f['weights'])}. Truth by {f['mode']}: {drawn}{f['states']:,} distinct prefixes, "
        f"{f['seconds']:.0f} s. Standard "
        f"error of an advantage: mean {f['error_mean']:.3f}, 95th percentile {f['error_q95']:.3f}; spread of the "
        f"advantages {f['truth_sd']:.3f}; {100 * f['significant']:.1f} % of the tokens matter. Reliability of the "
        f"truth {f['reliability']:.2f} ({f['within_reliability']:.2f} within responses)."
        + (f" At most {100 * f['missing_mass']:.1f} % of the probability is not listed." if f["missing_mass"] else "")
        + "\n",
        f"By the gradient cosine, nearer to the truth than GRPO: {listed('better')}. GRPO is as good as: "
        f"{listed('as good')}. GRPO is nearer than: {listed('worse')}.\n",
        "| method | " + " | ".join(name for name, _ in COLUMNS) + " |",
        "|---" * (len(COLUMNS) + 1) + "|",
    ]
    for row in found["rows"]:
        lines.append(f"| {row['label']} | " + " | ".join(cell(row, key) for _, key in COLUMNS) + " |")
    left = [f"{name} ({why})" for name, why in found["not_audited"].items()]
    return "\n".join(lines) + (f"\n\nNot audited: {'; '.join(left)}.\n" if left else "\n")


def summary(found: list[dict[str, Any]]) -> str:
    """The sanity rows of all tasks: the truth, SPO-chain with many continuations, GRPO, random credit."""
    wanted = ("truth", "spo_chain before every token", "grpo", "random")
    lines = [
        "\nGradient cosine / correlation with the true advantages:\n",
        "| task | prompts | standard error | truth | SPO-chain, every token | GRPO | random |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in found:
        facts, cells = one["facts"], []
        for name in wanted:
            row = next((r for r in one["rows"] if r["label"] == name or r["label"].startswith(f"{name},")), None)
            pair = (None, None) if row is None else (row["gradient"]["value"], row["agreement"]["correlation"]["value"])
            cells.append(" / ".join("–" if value is None else f"{value:.2f}" for value in pair))
        error = "exact" if facts["mode"] == "enumeration" else f"{facts['error_mean']:.3f}"
        lines.append(f"| {facts['source']} | {facts['prompts']} | {error} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("numbers", type=Path, nargs="+", help="audit.json of each task")
    arguments = parser.parse_args()
    found = [json.loads(path.read_text(encoding="utf-8")) for path in arguments.numbers]
    text = HEAD + summary(found) + "".join(section(one) for one in found)
    TARGET.write_text(text, encoding="utf-8")
    print(TARGET)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
