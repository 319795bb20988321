"""Accuracy under image corruptions: the same questions on clean images and in every (operator, severity) cell.

In a script, for a policy in memory (a trained one: `trainer.parts.policy`, `trainer.parts.engine`):

    from mmcredit.corruptions import Suite
    from mmcredit.evaluate.judge.robustness import evaluate_cells, reward_judge, robustness_table
    from mmcredit.evaluate.held_out import evaluation_sampling, evaluation_seeds

    suite = Suite(eval_severities=(3,))
    with make_pool(config) as pool:
        found = evaluate_cells(
            policy, engine, samples, reward_judge(pool, pool.names[0]), [*suite.cells("seen"), *suite.cells("unseen")],
            sampling=evaluation_sampling(config), seeds=lambda id: evaluation_seeds(config, id),
            max_prompt_tokens=config.data.max_prompt_tokens,
        )
    found.correct["clean"], found.correct["jpeg:3"]        # per question of `found.ids`: share of right attempts
    for row in robustness_table(found.correct, found.cells, suite): ...
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from mmcredit.answers.extract import extract
from mmcredit.corruptions.suite import Suite
from mmcredit.data.dropped import Dropped
from mmcredit.evaluate.ask.cells import BATCH, CLEAN, Answer, Cell, Skipped, answer_cells
from mmcredit.evaluate.benchmarks.scoring import Score
from mmcredit.evaluate.pass_at_k import mean_interval
from mmcredit.intervals import Interval, paired_gain
from mmcredit.rollout.reward_item import reward_item

if TYPE_CHECKING:
    from mmcredit.corruptions.base import Corruption
    from mmcredit.data.sample import Sample
    from mmcredit.evaluate.benchmarks.base import Benchmark
    from mmcredit.evaluate.benchmarks.referee import Referee
    from mmcredit.policy.policy import Policy
    from mmcredit.rewards.pool import RewardPool
    from mmcredit.rollout.engine import RolloutEngine, Sampling

Judge = Callable[[Sequence[Answer]], Sequence[Score | None]]  # None: not applicable (no reference)
Kind = Literal["clean", "seen", "unseen", "other", "mean"]


def reward_judge(pool: RewardPool, part: str) -> Judge:
    """Right means that reward `part` of the pool is above 0.5. Raises ValueError for a part that the pool lacks."""
    if part not in pool.names:
        raise ValueError(f"{part!r} is not a reward part of this run: {', '.join(pool.names)}")
    reward = pool.rewards[pool.names.index(part)]
    how, tag = getattr(reward, "extract", None), getattr(reward, "tag", "answer")

    def judge(answers: Sequence[Answer]) -> list[Score | None]:
        result = pool.score([reward_item(a.sample, a.text, a.response) for a in answers])
        found = [a.text if how is None else extract(a.text, how, tag) for a in answers]
        return [
            Score(v > 0.5, text, part, "rule") if there else None
            for v, there, text in zip(result.parts[part], result.applies[part], found, strict=True)
        ]

    return judge


def judged(found: Sequence[Answer | Skipped], judge: Judge) -> list[tuple[Answer, Score] | Skipped]:
    """Answers with their scores, in order. A question with an answer that the judge does not apply to is skipped as not
    applicable, once per cell."""
    answers = [item for item in found if isinstance(item, Answer)]
    scores = dict(zip(map(id, answers), judge(answers) if answers else (), strict=True))
    without = {(a.number, a.cell.label) for a in answers if scores[id(a)] is None}
    out: list[tuple[Answer, Score] | Skipped] = []
    for item in found:
        if not isinstance(item, Answer):
            out.append(item)
        elif (item.number, item.cell.label) not in without:
            out.append((item, scores[id(item)]))  # type: ignore[arg-type]
        elif item.response.member == 0:
            why = "the reward that judges does not apply: the question has no reference answer"
            out.append(Skipped(item.number, item.sample.id, item.cell, "not applicable", why))
    return out


def benchmark_judge(benchmark: Benchmark, referee: Referee) -> Judge:
    """The scoring of a benchmark."""
    return lambda answers: benchmark.scores([(a.sample, a.text) for a in answers], referee)


@dataclass(frozen=True)
class CellResults:
    """Right and wrong per cell, over the questions that could be answered in all of them."""

    cells: Sequence[Cell]  # clean first
    ids: Sequence[str]  # questions, in the order of the samples
    correct: Mapping[str, Sequence[float]]  # by cell label, per question of `ids`: share of right attempts
    skipped: Dropped = field(default_factory=Dropped)  # questions that are not among `ids`, by reason


def evaluate_cells(
    policy: Policy,
    engine: RolloutEngine,
    samples: Sequence[Sample],
    judge: Judge,
    cells: Sequence[Cell | tuple[Corruption, int]],
    *,
    sampling: Sampling,
    seeds: Callable[[str], Sequence[int]],
    seed: int = 0,
    max_prompt_tokens: int | None = None,
    batch: int = BATCH,
    progress: Callable[[int], None] | None = None,
) -> CellResults:
    """Answer all questions on clean images and in every cell, and judge the answers.

    `cells` are (operator, severity), as `Suite.cells` lists them; the clean cell is put in front if it is not there.
    `judge` gives a Score per Answer (`reward_judge`, `benchmark_judge`). `seeds(sample id)` are the seeds of the
    attempts, `seed` that of the corruptions: with the same seed every model that is compared sees the same pixels.
    `samples` may read lazily; memory does not grow with their number but for the verdicts. See `answer_cells` for what
    is skipped and raised.
    """
    chosen = [c if isinstance(c, Cell) else Cell(*c) for c in cells]
    if all(c.operator is not None for c in chosen):
        chosen = [CLEAN, *chosen]
    right: dict[str, dict[int, list[bool]]] = {c.label: {} for c in chosen}
    ids: dict[int, str] = {}
    skipped: dict[int, tuple[str, str]] = {}
    for found in answer_cells(
        policy,
        engine,
        samples,
        chosen,
        sampling=sampling,
        seeds=seeds,
        seed=seed,
        max_prompt_tokens=max_prompt_tokens,
        batch=batch,
        progress=progress,
    ):
        for item in judged(found, judge):
            if isinstance(item, Skipped):
                skipped.setdefault(item.number, (item.reason, item.id))
                continue
            answer, score = item
            ids[answer.number] = answer.sample.id
            right[answer.cell.label].setdefault(answer.number, []).append(score.correct)
    whole = [n for n in sorted(ids) if n not in skipped]
    dropped = Dropped()
    for _, (reason, id) in sorted(skipped.items()):
        dropped.add(reason, id)
    correct = {label: [sum(by[n]) / len(by[n]) for n in whole] for label, by in right.items()}
    return CellResults(chosen, [ids[n] for n in whole], correct, dropped)


@dataclass(frozen=True)
class RobustnessRow:
    """A row of the robustness table. Values are shares of right answers."""

    name: str  # clean, an operator, or "mean of seen", ...
    kind: Kind
    accuracy: Interval  # mean over the severities (and operators) of each question, then over the questions
    drop: Interval | None  # clean minus this, paired over the questions; None for clean
    relative: float | None  # drop / clean; None for clean, and where the clean accuracy is 0
    severities: Mapping[int, float] = field(default_factory=dict)  # mean accuracy per severity
    operators: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "name": self.name,
            "kind": self.kind,
            "operators": self.operators,
            "accuracy": vars(self.accuracy),
            "drop": None if self.drop is None else vars(self.drop),
            "relative_drop": self.relative,
            "severities": {str(s): value for s, value in self.severities.items()},
        }


def robustness_table(
    correct: Mapping[str, Sequence[float]], cells: Sequence[Cell], suite: Suite | None = None, attempts: int = 1
) -> list[RobustnessRow]:
    """Clean, every operator (mean over its severities), and the means over seen, unseen and all operators.

    `correct` holds, by cell label, the share of right attempts per question, the same questions in every cell. `suite`
    (default: the built-in one) says which operators are seen and unseen; others are `other`; `attempts` is the number
    of answers behind a share. Means of severities and operators are taken per question, so that intervals over the
    questions are those of the mean. The drop's interval is that of the paired differences (`paired_gain`); a mean over
    operators weighs each operator the same. Raises ValueError without a clean cell, without questions, or if cells
    differ in their number.
    """
    if CLEAN.label not in correct:
        raise ValueError("a robustness table needs the clean cell")
    clean = list(correct[CLEAN.label])
    if not clean:
        raise ValueError("no question could be answered in every cell; see what was skipped")
    suite = suite or Suite()
    seen, unseen = ({c.title for c in suite.operators(split)} for split in ("seen", "unseen"))
    by_operator: dict[str, dict[int, Sequence[float]]] = {}
    for cell in cells:
        if cell.operator is not None:
            values = correct[cell.label]
            if len(values) != len(clean):
                raise ValueError(f"cell {cell.label} has {len(values)} questions, the clean one {len(clean)}")
            by_operator.setdefault(cell.operator.title, {})[cell.severity] = values
    kinds: dict[str, Kind] = {n: "seen" if n in seen else "unseen" if n in unseen else "other" for n in by_operator}
    rows = [RobustnessRow(CLEAN.label, "clean", _accuracy(clean, attempts), None, None)]
    means: dict[str, list[float]] = {}
    for kind in ("seen", "unseen", "other"):
        for name in [n for n in by_operator if kinds[n] == kind]:
            means[name] = _mean(list(by_operator[name].values()))
            rows.append(_row(name, kinds[name], means[name], clean, [by_operator[name]], attempts))
    several = len(set(kinds.values())) > 1
    for kind in ("seen", "unseen", "all"):
        names = [n for n in by_operator if kind in ("all", kinds[n])]
        if (names and several) or (len(names) > 1 and (kind != "all" or kinds[names[0]] == "other")):
            whole = _mean([means[n] for n in names])
            rows.append(_row(f"mean of {kind}", "mean", whole, clean, [by_operator[n] for n in names], attempts))
    return rows


def _row(
    name: str,
    kind: Kind,
    values: list[float],
    clean: list[float],
    operators: Sequence[Mapping[int, Sequence[float]]],
    attempts: int,
) -> RobustnessRow:
    answers = attempts * sum(len(o) for o in operators)  # behind each value
    drop = paired_gain(values, clean, answers)
    base = sum(clean) / len(clean)
    severities = {
        s: sum(sum(o[s]) / len(o[s]) for o in operators if s in o) / sum(s in o for o in operators)
        for s in sorted({s for o in operators for s in o})
    }
    relative = drop.value / base if base else None
    return RobustnessRow(name, kind, _accuracy(values, answers), drop, relative, severities, len(operators))


def _mean(columns: Sequence[Sequence[float]]) -> list[float]:
    return [sum(values) / len(values) for values in zip(*columns, strict=True)]


def _accuracy(values: Sequence[float], answers: int) -> Interval:
    """The score interval (Wilson's where every question is right or wrong)."""
    # A mean of sixths may end a hair above 1.
    return mean_interval([min(1.0, v) for v in values], 1 / answers)


__all__ = [
    "CellResults",
    "Judge",
    "RobustnessRow",
    "benchmark_judge",
    "evaluate_cells",
    "reward_judge",
    "robustness_table",
]
