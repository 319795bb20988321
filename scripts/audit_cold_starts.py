"""Cold starts for the audit's further text tasks, from the shipped tiny Qwen3: `mmcredit sft` on worked responses.

    python scripts/audit_cold_starts.py steps      # model in runs/audit_steps/model, for configs/audits/steps.yaml
    python scripts/audit_cold_starts.py letters    # model in runs/audit_letters/model, for configs/audits/letters.yaml

Brief on purpose: the model has the form and makes mistakes, so that tokens of both kinds are there to be credited.
`steps` are sums of four one-digit numbers (reasoning-gym), one partial sum after the other; `letters` asks how
often a letter occurs in a word of three or four and counts along it, in responses short enough to be listed.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from mmcredit.cli import main as mmcredit
from mmcredit.config import load
from mmcredit.data.sources.char_tasks import CharTasks
from mmcredit.data.sources.reasoning_gym import ReasoningGym

sys.path.insert(0, str(Path(__file__).resolve().parent))

from tiny.arithmetic import response as worked_sum

CONFIGS = Path(__file__).resolve().parent.parent / "configs" / "audits"
STEPS = {"steps": 110, "letters": 350}


def counted(word: str, letter: str) -> str:
    """Along the word, how many there were so far."""
    return f"<think>{' '.join(f'{c}{word[: i + 1].count(letter)}' for i, c in enumerate(word))}</think>"


def rows(task: str, source: dict[str, object]) -> list[dict[str, str]]:
    """Questions of the train split with the response that is taught."""
    name, fields = next(iter(source.items()))
    assert isinstance(fields, dict)
    kind = {"reasoning_gym": ReasoningGym, "char_tasks": CharTasks}[name]
    table = kind(**{**fields, "seed": 1}).rows()
    found = [table.read(i) for i in range(len(table))]
    if task == "steps":
        return [{"question": r["question"], "response": worked_sum(r["question"])} for r in found]
    return [
        {"question": r["question"], "response": f"{counted(r['word'], r['letter'])}<answer>{r['answer']}</answer>"}
        for r in found
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", choices=sorted(STEPS))
    parser.add_argument("--steps", type=int, help="optimizer steps, default as in STEPS")
    arguments = parser.parse_args()
    task: str = arguments.task
    config = load(CONFIGS / f"{task}.yaml")
    assert isinstance(config.data.train, dict)
    folder = Path(config.model.path).parent
    folder.parent.mkdir(parents=True, exist_ok=True)
    taught = folder.with_name(f"{folder.name}_rows.jsonl")
    taught.write_text("".join(json.dumps(row) + "\n" for row in rows(task, config.data.train)), encoding="utf-8")
    settings = folder.with_name(f"{folder.name}_sft.yaml")
    settings.write_text(
        f"run: {{name: cold-start-{task}, dir: {folder}}}\nmodel: {{path: 'builtin:tiny-qwen3'}}\n"
        f"data: {{train: {{jsonl: {{path: {taught}}}}}, target: response}}\n"
        f"train: {{batch: 64, learning_rate: 1.0e-3, warmup_steps: 20, epochs: 100, "
        f"steps: {arguments.steps or STEPS[task]}}}\n",
        encoding="utf-8",
    )
    return mmcredit(["sft", str(settings)])


if __name__ == "__main__":
    raise SystemExit(main())
