"""Our scorers of the benchmarks against the official code, on generated cases.

    python scripts/diff_scorers.py --official FOLDER --python REFERENCE/bin/python --markdown OUT.md

FOLDER holds checkouts under these names: VLMEvalKit (open-compass), lmms-eval (EvolvingLMMs-Lab), MATH-V (mathllm),
MathVista (lupantech), MathVerse (ZrrSkywalker), MMMU (MMMU-Benchmark), DynaMath, We-Math, HallusionBench (tianyi-lab),
POPE (RUCAIBox), MathRuler (hiyouga), PAPO-Eval (xhguo7). Nothing of theirs is in this repository. `--python` names an
interpreter with what they import: latex2sympy2 1.9.1, pylatexenc, Levenshtein, timeout-decorator, numpy, pandas, tqdm.
It runs `scripts/official_scorers.py`; their code runs there, so name only folders that you trust.

For every task: how many cases, on how many both agree, and the first ones where they do not.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scorer_cases import Case, cases

from mmcredit.components import build
from mmcredit.data.sample import Sample
from mmcredit.evaluate.benchmarks.base import Benchmark
from mmcredit.evaluate.benchmarks.referee import Referee
from mmcredit.evaluate.benchmarks.rules.options import lmms, mmmu, mmmu_pro, vlmeval
from mmcredit.evaluate.benchmarks.rules.short_answers import mmmu_open, mmmu_open_right, yes_no
from mmcredit.evaluate.benchmarks.scoring import Score, Scored
from mmcredit.evaluate.benchmarks.sets.mathvision import extracted
from mmcredit.evaluate.benchmarks.sets.mathvista import normalised
from mmcredit.evaluate.benchmarks.sets.wemath import answer_letter, four_dimensions
from mmcredit.rewards.latex_value import equal_values

# Which benchmarks a task stands for.
BENCHMARKS = {
    "mathvision": "mathvision", "mathvision_equal": "mathvision", "mathvista": "mathvista", "mathverse": "mathverse",
    "mathruler": "geometry3k, mmk12, virl39k; all with `scoring: rl`", "mmmu": "mmmu", "mmmu_open": "mmmu",
    "mmmu_pro": "mmmu_pro", "vlmeval": "mmstar", "lmms": "mmstar", "mmstar_mean": "mmstar",
    "yes_no": "hallusionbench, pope", "pope": "pope", "pope_exact": "pope", "chartqa": "chartqa",
    "dynamath": "dynamath", "dynamath_authors": "dynamath", "wemath": "wemath", "logicvista": "logicvista",
    "hallusionbench": "hallusionbench",
}  # fmt: skip


class Replies:
    """In place of a judge model: what each sample's case says it replies, in order."""

    def __init__(self) -> None:
        self.by_sample: dict[str, list[str]] = {}

    def ask(self, questions: Any) -> list[str | None]:
        return [self.by_sample[q.sample].pop(0) if self.by_sample.get(q.sample) else None for q in questions]


def sample(benchmark: Benchmark, number: int, answer: str, **meta: Any) -> Sample:
    """A sample as the loader makes it, without pictures."""
    kept = {"benchmark": benchmark.name, "answer": answer, "letter": None, "choices": None, **meta}
    kept["question"] = f"question {number}"  # equal questions to a judge are asked once
    return Sample(f"{benchmark.name}/{number}", ({"role": "user", "content": "?"},), answer=answer, meta=kept)


def judged(name: str, items: list[tuple[Case, dict[str, Any], list[str]]], **fields: Any) -> list[Score]:
    """The scores of (case with answer and response, meta, replies of a judge)."""
    benchmark = build("benchmark", {name: fields})
    assert isinstance(benchmark, Benchmark)
    replies = Replies()
    asked = []
    for number, (case, meta, said) in enumerate(items):
        each = sample(benchmark, number, case["answer"], **meta)
        replies.by_sample[each.id] = list(said)
        asked.append((each, case["response"]))
    with Referee(judge=replies) as referee:  # type: ignore[arg-type]
        return benchmark.scores(asked, referee)


# --- one function per task, as in official_scorers.py -----------------------------------------------------------------


def _mathvision(found: list[Case]) -> list[Any]:
    items = []
    for case in found:
        choices = case["options"] or None
        items.append((case, {"choices": choices, "letter": case["answer"] if choices else None}, []))
    return [
        [score.correct, extracted(case["response"])]
        for case, score in zip(found, judged("mathvision", items), strict=True)
    ]


def _mathvista(found: list[Case]) -> list[Any]:
    items = []
    for case in found:
        problem = case["problem"]
        meta = {
            "kind": problem["answer_type"],
            "precision": problem["precision"],
            "choices": problem["choices"] or None,
        }
        items.append(({"answer": problem["answer"], "response": case["response"]}, meta, [case["reply"]]))
    scores = judged("mathvista", items)
    said = [(score.extracted or "", meta) for score, (_, meta, _) in zip(scores, items, strict=True)]
    return [[text, normalised(text, meta), score.correct] for (text, meta), score in zip(said, scores, strict=True)]


def _pope(found: list[Case], extraction: str) -> list[Any]:
    rows: list[Any] = []
    for case in found:
        items = [
            ({"answer": gold, "response": given}, {"gold": gold}, [])
            for gold, given in zip(case["gold"], case["responses"], strict=True)
        ]
        scores = judged("pope", items, extraction=extraction)
        benchmark = build("benchmark", {"pope": {"extraction": extraction}})
        scored = [Scored(str(i), s, meta) for i, (s, (_, meta, _)) in enumerate(zip(scores, items, strict=True))]
        summary = benchmark.summary(scored)  # type: ignore[attr-defined]
        values = {name: round(metric.value, 9) for name, metric in summary.overall.items()}
        if extraction == "exact":
            rows.append([values.get(name, 0.0) for name in ("accuracy", "precision", "recall", "f1")])
        elif {"precision", "recall"} <= values.keys() and values["f1"]:
            names = ("accuracy", "precision", "recall", "f1", "yes_ratio")
            rows.append([[score.extracted for score in scores], *(values[name] for name in names)])
        else:
            rows.append(None)  # the official script divides by 0
    return rows


def _wemath(found: list[Case]) -> list[Any]:
    rows = []
    for case in found:
        problems: dict[str, list[Scored]] = {}
        letters = []
        for row in case["rows"]:
            letter = answer_letter(row["response"])
            letters.append(letter)
            meta = {"key": row["key"], "steps": int(row["key"][0]), "ID": row["ID"]}
            score = Score(letter == row["answer"], letter, "")
            problems.setdefault(row["ID"], []).append(Scored(row["ID"], score, meta))
        counts = [four_dimensions(items) for items in problems.values()]
        totals = [int(sum(column)) for column in zip(*counts, strict=True)]
        rows.append([letters, totals[2], totals[1], *totals[3:]])
    return rows


def _hallusionbench(found: list[Case]) -> list[Any]:
    benchmark = build("benchmark", {"hallusionbench": {"split": "all"}})
    rows = []
    for case in found:
        items = [Scored(str(i), Score(bool(row["correct"]), "yes", ""), row) for i, row in enumerate(case["rows"])]
        overall = benchmark.summary(items).overall  # type: ignore[attr-defined]
        rows.append([round(overall[name].value, 9) for name in ("aAcc", "qAcc", "fAcc")])
    return rows


def _mmstar_mean(found: list[Case]) -> list[Any]:
    benchmark = build("benchmark", "mmstar")
    rows = []
    for case in found:
        items = [
            Scored(str(i), Score(row["score"] == 1, "A", ""), {"l2_category": row["l2_category"], "category": "x"})
            for i, row in enumerate(case["rows"])
        ]
        rows.append(round(benchmark.summary(items).overall["detailed_mean"].value, 9))  # type: ignore[attr-defined]
    return rows


def _dynamath(found: list[Case], variant: str) -> list[bool]:
    items = [(case, {"kind": case["kind"]}, [case["reply"]]) for case in found]
    return [score.correct for score in judged("dynamath", items, variant=variant)]


def _mathverse(found: list[Case]) -> list[bool]:
    meta = {"question_type": "free-form", "question_for_eval": None}
    items = [
        ({**case, "response": f"text {number}"}, meta, [case["extraction"], case["judgement"]])
        for number, case in enumerate(found)
    ]
    return [score.correct for score in judged("mathverse", items)]


def _mathruler(found: list[Case]) -> list[bool]:
    scores: dict[int, bool] = {}
    for at, name in enumerate(("geometry3k", "mmk12", "virl39k")):
        places = range(at, len(found), 3)
        split = {"geometry3k": "test", "mmk12": "test", "virl39k": "train"}[name]
        own = judged(name, [(found[i], {}, []) for i in places], split=split)
        scores.update(zip(places, (score.correct for score in own), strict=True))
    return [scores[i] for i in range(len(found))]


def _logicvista(found: list[Case]) -> list[bool]:
    items = [({**case, "response": "text"}, {}, [case["reply"]]) for case in found]
    return [score.correct for score in judged("logicvista", items)]


OURS: dict[str, Callable[[list[Case]], list[Any]]] = {
    "mathvision": _mathvision,
    "mathvision_equal": lambda found: [equal_values(c["given"], c["reference"]) for c in found],
    "mathvista": _mathvista,
    "mathverse": _mathverse,
    "mathruler": _mathruler,
    "mmmu": lambda found: [mmmu(c["response"], c["options"]) for c in found],
    "mmmu_open": lambda found: [mmmu_open_right(mmmu_open(c["response"]), c["answers"]) for c in found],
    "mmmu_pro": lambda found: [mmmu_pro(c["response"], c["options"]) for c in found],
    "vlmeval": lambda found: [vlmeval(c["response"], c["options"]) for c in found],
    "lmms": lambda found: [lmms(c["response"], c["letters"]) for c in found],
    "mmstar_mean": _mmstar_mean,
    "yes_no": lambda found: [yes_no(c["response"]) for c in found],
    "pope": lambda found: _pope(found, "pope"),
    "pope_exact": lambda found: _pope(found, "exact"),
    "chartqa": lambda found: [s.correct for s in judged("chartqa", [(c, {}, []) for c in found], unwrap=False)],
    "dynamath": lambda found: _dynamath(found, "vlmeval"),
    "dynamath_authors": lambda found: _dynamath(found, "authors"),
    "wemath": _wemath,
    "logicvista": _logicvista,
    "hallusionbench": _hallusionbench,
}


def main() -> None:
    """Generate, ask both sides, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--official", type=Path, required=True, help="folder of checkouts")
    parser.add_argument("--python", default=sys.executable, help="interpreter with the libraries of the official code")
    parser.add_argument("--cases", type=int, default=1000, help="cases of a task")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tasks", help="only these, with commas")
    parser.add_argument("--show", type=int, default=8, help="disagreements of a task that are printed")
    parser.add_argument("--markdown", type=Path, help="where the table goes")
    arguments = parser.parse_args()
    chosen = arguments.tasks.split(",") if arguments.tasks else list(OURS)
    found = {task: made for task, made in cases(arguments.seed, arguments.cases).items() if task in chosen}
    worker = [arguments.python, str(Path(__file__).with_name("official_scorers.py")), str(arguments.official)]
    reply = subprocess.run(worker, input=json.dumps(found), stdout=subprocess.PIPE, text=True, check=True)
    official = json.loads(reply.stdout)
    lines = ["| task | benchmarks | cases | agree | |", "|---|---|---|---|---|"]
    for task in found:
        verdicts = official[task]
        if isinstance(verdicts, dict):
            lines.append(f"| {task} | {BENCHMARKS[task]} | - | - | official code missing: {verdicts['missing']} |")
            continue
        ours = json.loads(json.dumps(OURS[task](found[task])))
        # Where the official code breaks off (None for a yes-or-no verdict) there is nothing to agree with.
        pairs = [
            (case, mine, theirs)
            for case, mine, theirs in zip(found[task], ours, verdicts, strict=True)
            if not (task == "dynamath" and theirs is None)
        ]
        apart = [pair for pair in pairs if pair[1] != pair[2]]
        lines.append(
            f"| {task} | {BENCHMARKS[task]} | {len(pairs):,} | {100 * (1 - len(apart) / len(pairs)):.2f} % | "
            + (f"{len(apart)} differ |" if apart else "|")
        )
        for case, mine, theirs in apart[: arguments.show]:
            print(f"{task}: {json.dumps(case, ensure_ascii=False)}\n    ours {mine!r}\n    official {theirs!r}")
    print("\n".join(lines))
    if arguments.markdown:
        arguments.markdown.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
