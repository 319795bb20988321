"""Accuracy of a model outside of a training run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from mmcredit.components import build
from mmcredit.evaluate.accuracy import Evaluation, evaluate
from mmcredit.evaluate.pass_at_k import pass_at_k
from mmcredit.rollout.engine import Sampling
from mmcredit.seeds import derive

if TYPE_CHECKING:
    from mmcredit.config import RunConfig
    from mmcredit.data.sample import Sample


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

    A row holds ``id``, ``answer``, ``correct`` (share of right answers) and ``response``; with `evaluate.samples` above
    1 instead of the last ``responses``, ``right`` and ``pass@k`` for every k, lists in the order of the answers.
    """
    from mmcredit.policy.policy import Policy
    from mmcredit.prepare import held_out_samples, make_pool, seed_everything

    seed_everything(config.run.seed)
    samples = held_out_samples(config)
    policy = Policy.load(config.model, media_limits=config.data.media)
    engine = build("engine", config.rollout.engine).open(policy)  # type: ignore[attr-defined]
    with make_pool(config) as pool:
        found = evaluate(
            engine,
            pool,
            samples,
            [policy.encode(s, config.data.max_prompt_tokens) for s in samples],
            evaluation_sampling(config),
            [evaluation_seeds(config, s.id) for s in samples],
            policy.decode,
            config.evaluate.reward or pool.names[0],
            progress,
            config.evaluate.chosen_k,
        )
    return found, answer_rows(samples, found, config.evaluate.chosen_k)


def answer_rows(samples: Sequence[Sample], found: Evaluation, ks: Sequence[int]) -> list[dict[str, Any]]:
    """A plain row per question, see `evaluate_model`."""
    rows = []
    for i, (sample, attempts) in enumerate(zip(samples, found.attempts, strict=True)):
        n = len(attempts.right)
        texts = found.responses[i * n : (i + 1) * n]
        row: dict[str, Any] = {"id": sample.id, "answer": sample.answer, "correct": found.correct[i]}
        if n == 1:
            row["response"] = texts[0]
        else:
            row |= {"responses": texts, "right": list(attempts.right)}
            row |= {f"pass@{k}": pass_at_k(n, sum(attempts.right), k) for k in ks}
        rows.append(row)
    return rows
