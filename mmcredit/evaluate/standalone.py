"""Accuracy of a model outside of a training run."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mmcredit.components import build
from mmcredit.evaluate.accuracy import Evaluation, evaluate
from mmcredit.rollout.engine import Sampling
from mmcredit.seeds import derive

if TYPE_CHECKING:
    from mmcredit.config import RunConfig


def evaluation_sampling(config: RunConfig) -> Sampling:
    """How answers are drawn in an evaluation: the run's limits, the evaluation's temperature."""
    run = config.rollout.sampling
    return Sampling(
        temperature=config.evaluate.temperature,
        max_new_tokens=run.max_new_tokens,
        stop=run.stop,
        stop_token_ids=run.stop_token_ids,
    )


def evaluate_model(
    config: RunConfig, progress: Callable[[int], None] | None = None
) -> tuple[Evaluation, list[dict[str, Any]]]:
    """Answer the held-out questions of `config` with its model: the result, and a row per question."""
    from mmcredit.policy.policy import Policy
    from mmcredit.train.setup import held_out_samples, make_pool, seed_everything

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
            [derive(config.run.seed, "evaluate", s.id) for s in samples],
            lambda tokens: policy.tokenizer.decode(tokens, skip_special_tokens=True),
            config.evaluate.reward or pool.names[0],
            progress,
        )
    rows = [
        {"id": s.id, "answer": s.answer, "response": text, "correct": right}
        for s, text, right in zip(samples, found.responses, found.correct, strict=True)
    ]
    return found, rows
