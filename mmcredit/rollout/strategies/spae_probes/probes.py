"""Asking for the answer at given points: how sure the policy is of what it says, and how likely the true answer is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from mmcredit.rollout.engine import Request, Sampling
from mmcredit.rollout.strategies.continuations import State, judged
from mmcredit.rollout.strategies.spae_probes.extended_prompt import extend
from mmcredit.rollouts import Rollouts

if TYPE_CHECKING:
    from torch import Tensor

    from mmcredit.rollout.batch import Batch
    from mmcredit.rollout.strategies.base import Stage

PASS = "probes"  # name of the scoring pass in cost.json


@dataclass(frozen=True)
class Probed:
    """What probing gave, per context, and what it took."""

    accuracy: list[float]
    confidence: list[float]
    responses: int = 0
    tokens: int = 0  # sampled
    scored: int = 0  # different probes that the pass scored
    forced: int = 0  # answers that the pass scored and no probe had said


def probe(
    contexts: Sequence[State],
    batch: Batch,
    answers: Mapping[int, tuple[int, ...]] | None,
    count: int,
    sampling: Sampling,
    name: str,
    stage: Stage,
) -> Probed:
    """`count` probes from each context, and one no-gradient pass over them.

    Confidence: mean over probes of exp(-mean entropy of the probe's tokens). Accuracy: mean probability of the answer's
    tokens (`answers`: ids by number of the prompt), forced in behind the context; without `answers` the mean reward of
    context + probe, kept within [0, 1]. Both from the policy at the run's temperature. Seeds as in `monte_carlo`.
    """
    if not contexts:
        return Probed([], [])
    requests = [
        Request(
            batch.prompts[c.prompt],
            stage.seeds(name, batch.samples[c.prompt].id, c.digest, count=count),
            c.prefix,
            tag=i,
        )
        for i, c in enumerate(contexts)
    ]
    responses = stage.generate(requests, sampling)
    # One row per different text behind a context, forced answers included.
    rows: dict[tuple[int, tuple[int, ...]], int] = {}
    probes = [rows.setdefault((r.tag, tuple(r.tokens)), len(rows)) for r in responses]
    drawn = len(rows)
    right = []
    if answers is not None:
        right = [rows.setdefault((i, answers[c.prompt]), len(rows)) for i, c in enumerate(contexts)]
    logprobs, entropy = _score(list(rows), contexts, batch, stage)
    confidence = [0.0] * len(contexts)
    for response, row in zip(responses, probes, strict=True):
        confidence[response.tag] += math.exp(-_mean(entropy[row])) / count
    if answers is not None:
        accuracy = [_mean([math.exp(p) for p in logprobs[row]]) for row in right]
    else:
        items = [judged(batch.samples[contexts[r.tag].prompt], contexts[r.tag].prefix, r, stage) for r in responses]
        accuracy = [0.0] * len(contexts)
        for response, reward in zip(responses, stage.score(items), strict=True):
            accuracy[response.tag] += min(1.0, max(0.0, reward)) / count
    tokens = sum(len(r.tokens) for r in responses)
    return Probed(accuracy, confidence, len(responses), tokens, drawn, len(rows) - drawn)


def _score(
    rows: Sequence[tuple[int, tuple[int, ...]]], contexts: Sequence[State], batch: Batch, stage: Stage
) -> tuple[list[list[float]], list[list[float]]]:
    """Log-probs and entropies of the tokens of each row (context, tokens), in one pass."""
    prompts = [extend(batch.prompts[c.prompt], c.prefix) for c in contexts]
    width = max(len(tokens) for _, tokens in rows)
    ids = torch.tensor([[*tokens, *[0] * (width - len(tokens))] for _, tokens in rows], dtype=torch.int64)
    lengths = torch.tensor([len(tokens) for _, tokens in rows])
    texts = Rollouts(
        tokens=ids,
        mask=torch.arange(width) < lengths[:, None],
        group=torch.tensor([context for context, _ in rows], dtype=torch.int64),
        rewards=torch.zeros(len(rows)),
    ).to(stage.policy.device)
    found = stage.measure(PASS, prompts, texts, ("logprobs", "entropy"), stage.sampling.temperature)
    return _cut(found["logprobs"], lengths), _cut(found["entropy"], lengths)


def _cut(values: Tensor, lengths: Tensor) -> list[list[float]]:
    return [row[:length] for row, length in zip(values.double().tolist(), lengths.tolist(), strict=True)]


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
