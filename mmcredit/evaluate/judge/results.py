"""From rows to tables: metrics of the clean answers, of every cell, robustness, and what was skipped."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mmcredit.answers.extract import normalise
from mmcredit.evaluate import pass_at_k
from mmcredit.evaluate.ask.answer_lines import cell_label
from mmcredit.evaluate.ask.cells import CLEAN, Cell
from mmcredit.evaluate.benchmarks.scoring import Score, Scored
from mmcredit.evaluate.benchmarks.summary import ACCURACY, Metric, Summary, summarise
from mmcredit.evaluate.judge.robustness import RobustnessRow, robustness_table
from mmcredit.evaluate.pass_at_k import Attempts
from mmcredit.evaluate.votes import RIGHT

if TYPE_CHECKING:
    from mmcredit.corruptions.suite import Suite
    from mmcredit.evaluate.ask.answer_lines import Rows
    from mmcredit.evaluate.ask.questions import Target
    from mmcredit.evaluate.benchmarks.base import Benchmark
    from mmcredit.intervals import Interval

SCORE_FIELDS = ("correct", "extracted", "rule", "scored_by", "flags")


@dataclass(frozen=True)
class _Overall:
    """A benchmark without its subgroup tables, or what stands for one where a reward judges."""

    name: str
    split: str
    scoring: str
    headline: str = "accuracy"
    measured: Sequence[Metric] = (ACCURACY,)

    @classmethod
    def of(cls, benchmark: Benchmark) -> _Overall:
        return cls(benchmark.name, benchmark.split, benchmark.scoring, benchmark.headline, benchmark.metrics())

    def metrics(self) -> Sequence[Metric]:
        return self.measured

    def axes(self) -> Mapping[str, Callable[[Scored], Iterable[str]]]:
        return {}


@dataclass
class Results:
    """Everything that is stated about one set of questions."""

    name: str
    questions: int
    attempts: int
    summary: Summary  # of the clean answers
    scores: Mapping[str, Interval]  # with several attempts: avg@n, pass@k, majority@k
    cells: Mapping[str, Mapping[str, Interval]]  # overall metrics by cell label
    correct: Mapping[str, Mapping[int, float]]  # by cell label and question: share of right attempts
    robustness: Sequence[RobustnessRow]  # empty without corruptions
    compared: int  # questions behind it: those answered in every cell
    skipped: Sequence[Mapping[str, Any]]  # rows of questions that could not be answered
    mean_tokens: float
    truncated: float
    seconds: float
    notes: list[str] = field(default_factory=list)

    @property
    def overall(self) -> dict[str, Interval]:
        """Metrics over all questions; with several attempts pass@k and majority@k as well."""
        return {**self.summary.overall, **{k: v for k, v in self.scores.items() if not k.startswith("avg@")}}

    def skipped_by_reason(self) -> dict[str, list[str]]:
        """Ids by reason; a question that is skipped in one cell only carries the cell's name."""
        found: dict[str, list[str]] = {}
        for row in self.skipped:
            where = "" if row.get("every_cell") else f" ({cell_label(row)})"
            found.setdefault(row["skipped"], []).append(f"{row['id']}{where}")
        return found

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        summary = vars(self.summary) | {
            "overall": {name: vars(value) for name, value in self.summary.overall.items()},
            "groups": {
                axis: {group: {m: vars(v) for m, v in found.items()} for group, found in groups.items()}
                for axis, groups in self.summary.groups.items()
            },
        }
        return {
            "questions": self.questions,
            "answered": self.summary.items,
            "attempts": self.attempts,
            "summary": summary,
            "scores": {name: vars(value) for name, value in self.scores.items()},
            "cells": {label: {m: vars(v) for m, v in found.items()} for label, found in self.cells.items()},
            "robustness": {"questions": self.compared, "rows": [row.as_dict() for row in self.robustness]},
            "skipped": [dict(row) for row in self.skipped],
            "mean_tokens": self.mean_tokens,
            "truncated": self.truncated,
            "seconds": self.seconds,
            "notes": self.notes,
        }


def collect(target: Target, rows: Rows, cells: Sequence[Cell], suite: Suite, ks: Sequence[int] = ()) -> Results:
    """Read the rows of a finished target and add them up.

    Metrics of a cell are over the questions answered in it; robustness over those answered in every cell, so that a
    drop compares like with like. Raises ValueError if a cell has no answered question.
    """
    labels = [cell.label for cell in cells]
    wanted = set(labels)
    by_cell: dict[str, dict[int, list[Score]]] = {label: {} for label in labels}
    skipped: list[dict[str, Any]] = []
    tokens = cut = answers = 0
    seconds = 0.0
    imageless: set[int] = set()
    for row in rows.read():
        label = cell_label(row)
        if "skipped" in row:
            if label in wanted or row.get("every_cell"):
                skipped.append(row)
            continue
        if label not in wanted:
            continue
        by_cell[label].setdefault(row["number"], []).append(Score.from_dict({k: row[k] for k in SCORE_FIELDS}))
        answers += 1
        if not row["media"]:
            imageless.add(row["number"])
        tokens += row["tokens"]
        cut += row["finish"] == "length"
        seconds += row["seconds"]
    for label, found in by_cell.items():
        if not found:
            first = next((f"; {row['id']}: {row['message']}" for row in skipped), "")
            raise ValueError(f"{target.name}: no question could be answered in cell {label}{first}")
    benchmark = target.benchmark
    whole: Any = benchmark or _Overall(target.name, "", "reward")
    plain: Any = _Overall.of(benchmark) if benchmark is not None else whole
    metas: dict[int, Mapping[str, Any]] = {}
    if benchmark is not None:
        meta_of = target.samples.meta  # type: ignore[attr-defined]
        metas = {n: meta_of(n) for found in by_cell.values() for n in found}

    def scored(label: str) -> list[Scored]:
        return [
            Scored(rows.ids[n], score, metas.get(n, {}), attempt)
            for n, scores in sorted(by_cell[label].items())
            for attempt, score in enumerate(scores)
        ]

    summary = summarise(whole, scored(CLEAN.label))
    measured = {
        label: summary.overall if label == CLEAN.label else summarise(plain, scored(label)).overall for label in labels
    }
    correct = {
        label: {n: sum(s.correct for s in scores) / len(scores) for n, scores in found.items()}
        for label, found in by_cell.items()
    }
    complete = sorted(set.intersection(*(set(found) for found in correct.values())))
    table: list[RobustnessRow] = []
    if len(cells) > 1:
        table = robustness_table(
            {label: [found[n] for n in complete] for label, found in correct.items()}, cells, suite, rows.attempts
        )
    notes = []
    if table and imageless:
        notes.append(
            f"{len(imageless)} of {len(target.samples)} questions have no image: no corruption changes them, which "
            "draws every drop towards 0"
        )
    several = [_attempts(scores) for _, scores in sorted(by_cell[CLEAN.label].items())] if rows.attempts > 1 else []
    return Results(
        name=target.name,
        questions=len(target.samples),
        attempts=rows.attempts,
        summary=summary,
        scores=pass_at_k.summary(several, ks) if several else {},
        cells=measured,
        correct=correct,
        robustness=table,
        compared=len(complete),
        skipped=skipped,
        mean_tokens=tokens / answers,
        truncated=cut / answers,
        seconds=seconds,
        notes=notes,
    )


def _attempts(scores: Sequence[Score]) -> Attempts:
    """Right answers vote together however they are written; wrong ones by the answer that was compared."""
    votes = [
        RIGHT if s.correct else ("wrong", normalise(s.extracted)) if s.extracted and s.extracted.strip() else None
        for s in scores
    ]
    return Attempts(tuple(votes), tuple(s.correct for s in scores))


def scoring_note(results: Results) -> str | None:
    """What to know about a benchmark's numbers before comparing them: who decided."""
    by = results.summary.scored_by
    if by.get("rule") and results.summary.scoring == "official":
        return (
            f"{by['rule']} of {sum(by.values())} clean answers were scored by a rule where the official way asks a "
            "judge model (--judge-url, --judge-model); compare with other rule-scored numbers only"
        )
    return None
