"""Held-out accuracy: sample one or more answers per question, judge them, count."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mmcredit.evaluate.pass_at_k import Attempts, average, summary
from mmcredit.evaluate.votes import vote
from mmcredit.intervals import Interval, proportion
from mmcredit.rollout.engine import Request, RolloutEngine, Sampling
from mmcredit.rollout.reward_item import reward_item

if TYPE_CHECKING:
    from mmcredit.data.sample import Sample
    from mmcredit.policy.prompt import Prompt
    from mmcredit.rewards.pool import RewardPool


@dataclass(frozen=True)
class Evaluation:
    """Accuracy on a set of questions, and every item behind it. K answers per question."""

    accuracy: Interval  # the mean share of right answers per question (avg@K)
    parts: Mapping[str, float]  # mean of each reward part
    correct: list[float]  # share of right answers per question, in order; 1 or 0 with one answer each
    responses: list[str]  # K per question, in question order
    mean_length: float  # tokens
    truncated: float  # share stopped by the length limit
    attempts: Sequence[Attempts] = ()  # per question: what was answered, and whether it is right
    scores: Mapping[str, Interval] = field(default_factory=dict)  # with K > 1: avg@K, pass@k, majority@k


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
    one, `scores` holds avg@K, and pass@k and majority@k for every k of `ks`.

    Raises ValueError for an empty set, an uneven number of seeds, a k above it, or a part that the pool does not have.
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
    result = pool.score([reward_item(samples[r.tag], t, r) for r, t in zip(responses, texts, strict=True)])
    if part not in result.parts:
        raise ValueError(f"evaluate.reward {part!r} is not a reward part of this run: {', '.join(result.parts)}")
    right = [value > 0.5 for value in result.parts[part]]
    reward = pool.rewards[pool.names.index(part)]
    votes = [vote(text, hit, reward) for text, hit in zip(texts, right, strict=True)]
    n = len(responses)
    attempts = [Attempts(tuple(votes[i : i + k]), tuple(right[i : i + k])) for i in range(0, n, k)]
    return Evaluation(
        accuracy=proportion(sum(right), n) if k == 1 else average(attempts),
        parts={name: sum(values) / n for name, values in result.parts.items()},
        correct=[sum(a.right) / k for a in attempts],
        responses=texts,
        mean_length=sum(len(r.tokens) for r in responses) / n,
        truncated=sum(r.finish == "length" for r in responses) / n,
        attempts=attempts,
        scores=summary(attempts, ks) if k > 1 else {},
    )
