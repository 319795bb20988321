"""Held-out accuracy under a way of decoding, beside what it is compared with."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mmcredit.components import build
from mmcredit.evaluate import usable
from mmcredit.evaluate.accuracy import Evaluation, evaluate
from mmcredit.evaluate.held_out import answer_rows, evaluation_sampling, evaluation_seeds
from mmcredit.intervals import Interval, paired_gain
from mmcredit.yaml_values import read

if TYPE_CHECKING:
    from mmcredit.config import RunConfig
    from mmcredit.policy.policy import Policy

Bar = Callable[..., AbstractContextManager[Callable[[int], None]]]


@dataclass(frozen=True)
class Decoded:
    """One engine's answers to the held-out questions."""

    name: str
    found: Evaluation
    report: dict[str, float]
    gain: Interval | None  # paired, over the first one
    rows: list[dict[str, Any]]


def entry_of(text: str) -> Any:
    """The entry of a decoding: a name, or {name: {field: value}} as YAML. Raises ValueError as `build`."""
    entry = read(text)
    build("decoding", entry)
    return entry


def open_engine(config: RunConfig, policy: Policy, decoding: Any = None) -> Any:
    """The engine that answers: the run's rollout engine, or a way of decoding."""
    if decoding is None:
        return build("engine", config.rollout.engine).open(policy)  # type: ignore[attr-defined]
    return build("decoding", decoding).open(policy)  # type: ignore[attr-defined]


def compare(config: RunConfig, entry: Any, bar: Bar) -> list[Decoded]:
    """Answers of the decoding, and before it of each model (or setting) alone, through the same loop.

    Raises ValueError as `usable.read` and for models that do not fit together.
    """
    from mmcredit.policy.policy import Policy
    from mmcredit.prepare import held_out_samples, make_pool, seed_everything

    seed_everything(config.run.seed)
    samples = held_out_samples(config)
    policy = Policy.load(config.model, media_limits=config.data.media)
    engine = open_engine(config, policy, entry)
    asked = usable.read(
        samples, lambda s: policy.encode(s, config.data.max_prompt_tokens), config.check.max_unusable_held_out
    )
    name = entry if isinstance(entry, str) else next(iter(entry))
    found: list[Decoded] = []
    with make_pool(config) as pool:
        for label, one in (*engine.alone().items(), (name, engine)):
            with bar(f"answers: {label}", len(asked.samples) * config.evaluate.samples) as advance:
                result = evaluate(
                    one,
                    pool,
                    asked.samples,
                    asked.prompts,
                    evaluation_sampling(config),
                    [evaluation_seeds(config, s.id) for s in asked.samples],
                    policy.decode,
                    config.evaluate.reward or pool.names[0],
                    advance,
                    config.evaluate.chosen_k,
                )
            result = replace(result, dropped=asked.dropped)
            gain = paired_gain(found[0].found.correct, result.correct, config.evaluate.samples) if found else None
            rows = answer_rows(asked.samples, result, config.evaluate.chosen_k)
            found.append(Decoded(label, result, one.report(), gain, rows))
    return found
