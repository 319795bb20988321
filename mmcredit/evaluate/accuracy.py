"""Held-out accuracy: sample one or more answers per question, judge them, count."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mmcredit.data.dropped import Dropped
from mmcredit.evaluate.pass_at_k import Attempts, average, summary
from mmcredit.evaluate.votes import vote
from mmcredit.intervals import Interval, proportion
from mmcredit.rollout.engine import Request, RolloutEngine, Sampling
from mmcredit.rollout.reward_item import reward_item

if TYPE_CHECKING:
    from mmcredit.data.sample import Sample
    from mmcredit.policy.prompt import Prompt
    from mmcredit.rewards.pool import RewardPool, RewardResult


@dataclass(frozen=True)
class Evaluation:
    """Accuracy on a set of questions, and every item behind it. K answers per question.

    A question that the judging reward does not apply to (no reference answer) is in no number: None in `correct` and
    `attempts`, named in `not_applicable`. An answer on which the reward failed has its declared value (`errors`).
    """

    accuracy: Interval  # the mean share of right answers per question (avg@K)
    parts: Mapping[str, float]  # mean of each reward part over the answers that it applies to
    correct: list[float | None]  # share of right answers per question, in order; 1 or 0 with one answer each
    responses: list[str]  # K per question, in question order
    mean_length: float  # tokens
    truncated: float  # share stopped by the length limit
    attempts: Sequence[Attempts | None] = ()  # per question: what was answered, and whether it is right
    scores: Mapping[str, Interval] = field(default_factory=dict)  # with K > 1: avg@K, pass@k, majority@k
    not_applicable: Sequence[str] = ()  # ids of questions that cannot be judged
    errors: int = 0  # answers on which the judging reward failed
    dropped: Dropped = field(default_factory=Dropped)  # questions that could not be asked

    def __str__(self) -> str:
        return f"{self.accuracy}{left_out(len(self.not_applicable), self.dropped.total, self.errors)}"


def left_out(not_applicable: int, unusable: int = 0, errors: int = 0) -> str:
    """``, 4 not applicable, 1 unusable, 2 judged by on_error``: what stands behind a number of questions."""
    found = ((not_applicable, "not applicable"), (unusable, "unusable"), (errors, "answers with a reward error"))
    return "".join(f", {count} {what}" for count, what in found if count)


def evaluate(
    engine: RolloutEngine,
    pool: RewardPool,
    samples: Sequence[Sample],
    prompts: Sequence[Prompt],
    sampling: Sampling,
    seeds: Sequence[Sequence[int]],
    decode: Callable[[Sequence[int]], str],
    part: str,
    progress: Callable[[int], None] | None = None,
    ks: Sequence[int] = (),
) -> Evaluation:
    """Answer every question once per seed and judge each answer by reward `part` (right means a value above 0.5).

    ``seeds[i]`` are those of question i, equally many for every question; its answers share the prompt. With more than
    one, `scores` holds avg@K, and pass@k and majority@k for every k of `ks`. A question with an answer that the part
    does not apply to is not applicable: it is answered, and counts in no accuracy.

    Raises ValueError for an empty set, an uneven number of seeds, a k above it, a part that the pool does not have, or
    one that applies to no question.
    """
    if not samples:
        raise ValueError("the evaluation set is empty; check data.evaluate and evaluate.limit")
    counts = sorted({len(s) for s in seeds})
    if len(counts) != 1 or counts[0] < 1:
        raise ValueError(f"every question needs equally many seeds, at least one, got {counts}")
    (k,) = counts
    if too_many := [each for each in ks if not 1 <= each <= k]:
        raise ValueError(f"k must be between 1 and the {k} answers per question, got {too_many[0]}")
    requests = [Request(p, tuple(s), tag=i) for i, (p, s) in enumerate(zip(prompts, seeds, strict=True))]
    responses = engine.generate(requests, sampling, progress)
    texts = [decode(r.tokens) for r in responses]
    result = pool.score(
        [reward_item(samples[r.tag], t, r, prompts[r.tag]) for r, t in zip(responses, texts, strict=True)]
    )
    if part not in result.parts:
        raise ValueError(f"evaluate.reward {part!r} is not a reward part of this run: {', '.join(result.parts)}")
    right = [value > 0.5 for value in result.parts[part]]
    reward = pool.rewards[pool.names.index(part)]
    votes = [vote(text, hit, reward) for text, hit in zip(texts, right, strict=True)]
    n = len(responses)
    attempts = [
        Attempts(tuple(votes[i : i + k]), tuple(right[i : i + k])) if all(result.applies[part][i : i + k]) else None
        for i in range(0, n, k)
    ]
    judged = [each for each in attempts if each is not None]
    missing = [sample.id for sample, each in zip(samples, attempts, strict=True) if each is None]
    if not judged:
        raise ValueError(
            f"the reward {part!r}, which judges held-out answers, applies to none of the {len(samples)} questions "
            f"({', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}): they have no reference answer; name the "
            "column that holds it in data.evaluate, or another part in evaluate.reward"
        )
    return Evaluation(
        accuracy=proportion(sum(a.right[0] for a in judged), len(judged)) if k == 1 else average(judged),
        parts={name: mean for name in result.parts if (mean := _mean(result, name)) is not None},
        correct=[None if a is None else sum(a.right) / k for a in attempts],
        responses=texts,
        mean_length=sum(r.sampled for r in responses) / n,
        truncated=sum(r.finish == "length" for r in responses) / n,
        attempts=attempts,
        scores=summary(judged, ks) if k > 1 else {},
        not_applicable=missing,
        errors=sum(result.counts.get(f"{part}/{kind}", 0) for kind in ("error", "timeout")),
    )


def _mean(result: RewardResult, name: str) -> float | None:
    """Mean of a part over the answers that it applies to; None if there are none."""
    values = [v for v, there in zip(result.parts[name], result.applies[name], strict=True) if there]
    return sum(values) / len(values) if values else None
