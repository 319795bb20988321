"""Accuracy of a model outside of a training run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mmcredit.components import build, build_all
from mmcredit.evaluate import usable
from mmcredit.evaluate.accuracy import Evaluation, evaluate
from mmcredit.evaluate.pass_at_k import pass_at_k
from mmcredit.rollout.engine import Sampling
from mmcredit.rollout.strategies.base import reacting
from mmcredit.seeds import derive

if TYPE_CHECKING:
    from mmcredit.config import RunConfig
    from mmcredit.data.sample import Sample
    from mmcredit.policy.policy import Policy
    from mmcredit.rollout.strategies.base import Strategy


def evaluation_sampling(config: RunConfig) -> Sampling:
    """How answers are drawn in an evaluation: the run's limits, the evaluation's temperature."""
    run = config.rollout.sampling
    return Sampling(
        temperature=config.evaluate.temperature,
        max_new_tokens=run.max_new_tokens,
        stop=run.stop,
        stop_token_ids=run.stop_token_ids,
    )


def evaluation_seeds(config: RunConfig, sample_id: str) -> list[int]:
    """A seed per answer to this question. The first does not depend on `evaluate.samples`."""
    first = derive(config.run.seed, "evaluate", sample_id)
    rest = [derive(config.run.seed, "evaluate", sample_id, i) for i in range(1, config.evaluate.samples)]
    return [first, *rest]


def evaluate_model(
    config: RunConfig, progress: Callable[[int], None] | None = None
) -> tuple[Evaluation, list[dict[str, Any]]]:
    """Answer the held-out questions of `config` with its model: the result, and a row per question.

    A row holds ``id``, ``answer``, ``correct`` (share of right answers; None: not applicable) and ``response``; with
    `evaluate.samples` above 1 instead of the last ``responses``, ``right`` and ``pass@k`` for every k, lists in the
    order of the answers. Questions that cannot be used are in `Evaluation.dropped`. Raises ValueError as `usable.read`.
    """
    from mmcredit.policy.policy import Policy
    from mmcredit.prepare import held_out_samples, make_pool, seed_everything

    seed_everything(config.run.seed)
    samples = held_out_samples(config)
    policy = Policy.load(config.model, media_limits=config.data.media)
    engine = build("engine", config.rollout.engine).open(policy)  # type: ignore[attr-defined]
    asked = usable_questions(config, policy, samples)
    strategies: list[Strategy] = build_all("strategy", config.rollout.strategies)  # type: ignore[assignment]
    with make_pool(config) as pool, reacting(engine, strategies, policy) as answering:
        found = answered(config, policy, answering, pool, asked, progress)
    return found, answer_rows(asked.samples, found, config.evaluate.chosen_k)


def usable_questions(config: RunConfig, policy: Policy, samples: Sequence[Sample]) -> usable.Usable:
    """The held-out questions that the model can be asked, see `usable.read`."""
    return usable.read(
        samples, lambda s: policy.encode(s, config.data.max_prompt_tokens), config.check.max_unusable_held_out
    )


def answered(
    config: RunConfig,
    policy: Policy,
    engine: Any,
    pool: Any,
    asked: usable.Usable,
    progress: Callable[[int], None] | None = None,
) -> Evaluation:
    """The answers of an engine to these questions, scored as the config's evaluation says."""
    found = evaluate(
        engine,
        pool,
        asked.samples,
        asked.prompts,
        evaluation_sampling(config),
        [evaluation_seeds(config, s.id) for s in asked.samples],
        policy.decode,
        config.evaluate.reward or pool.names[0],
        progress,
        config.evaluate.chosen_k,
    )
    return replace(found, dropped=asked.dropped)


def answer_rows(samples: Sequence[Sample], found: Evaluation, ks: Sequence[int]) -> list[dict[str, Any]]:
    """A plain row per question, see `evaluate_model`."""
    rows = []
    n = len(found.responses) // max(1, len(samples))
    for i, (sample, attempts) in enumerate(zip(samples, found.attempts, strict=True)):
        texts = found.responses[i * n : (i + 1) * n]
        row: dict[str, Any] = {"id": sample.id, "answer": sample.answer, "correct": found.correct[i]}
        if n == 1:
            row["response"] = texts[0]
        else:
            right = None if attempts is None else list(attempts.right)
            row |= {"responses": texts, "right": right}
            row |= {f"pass@{k}": None if right is None else pass_at_k(n, sum(right), k) for k in ks}
        rows.append(row)
    return rows
