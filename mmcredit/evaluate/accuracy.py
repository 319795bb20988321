"""Held-out accuracy: sample one answer per question, judge it, count."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmcredit.evaluate.intervals import Interval, proportion
from mmcredit.rewards.base import RewardItem
from mmcredit.rollout.engine import Request, Response, RolloutEngine, Sampling

if TYPE_CHECKING:
    from mmcredit.data.sample import Sample
    from mmcredit.policy.prompt import Prompt
    from mmcredit.rewards.pool import RewardPool


@dataclass(frozen=True)
class Evaluation:
    """Accuracy on a set of questions, and every item behind it."""

    accuracy: Interval
    parts: Mapping[str, float]  # mean of each reward part
    correct: list[float]  # 1 or 0 per question, in order
    responses: list[str]
    mean_length: float  # tokens
    truncated: float  # share stopped by the length limit


def reward_item(sample: Sample, text: str, response: Response) -> RewardItem:
    """What a reward may see of one response."""
    return RewardItem(
        response=text,
        answer=sample.answer,
        prompt=last_text(sample),
        num_tokens=len(response.tokens),
        truncated=response.finish == "length",
        sample_id=sample.id,
        meta=dict(sample.meta),
    )


def last_text(sample: Sample) -> str:
    """Text of the last message, without its media."""
    content = sample.messages[-1]["content"]
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content if part["type"] == "text").strip()


def evaluate(
    engine: RolloutEngine,
    pool: RewardPool,
    samples: Sequence[Sample],
    prompts: Sequence[Prompt],
    sampling: Sampling,
    seeds: Sequence[int],
    decode: Callable[[Sequence[int]], str],
    part: str,
    progress: Callable[[int], None] | None = None,
) -> Evaluation:
    """Answer every question once and judge it by reward `part` (right means a value above 0.5).

    Raises ValueError for an empty set or a part that the pool does not have.
    """
    if not samples:
        raise ValueError("the evaluation set is empty; check data.evaluate and evaluate.limit")
    requests = [Request(p, (seed,), tag=i) for i, (p, seed) in enumerate(zip(prompts, seeds, strict=True))]
    responses = engine.generate(requests, sampling, progress)
    texts = [decode(r.tokens) for r in responses]
    result = pool.score([reward_item(samples[r.tag], t, r) for r, t in zip(responses, texts, strict=True)])
    if part not in result.parts:
        raise ValueError(f"evaluate.reward {part!r} is not a reward part of this run: {', '.join(result.parts)}")
    correct = [float(value > 0.5) for value in result.parts[part]]
    n = len(responses)
    return Evaluation(
        accuracy=proportion(int(sum(correct)), n),
        parts={name: sum(values) / n for name, values in result.parts.items()},
        correct=correct,
        responses=texts,
        mean_length=sum(len(r.tokens) for r in responses) / n,
        truncated=sum(r.finish == "length" for r in responses) / n,
    )
