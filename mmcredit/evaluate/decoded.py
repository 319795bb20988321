"""Held-out accuracy under a way of decoding, beside what it is compared with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mmcredit.components import build
from mmcredit.data.sample import last_text
from mmcredit.evaluate.accuracy import Evaluation
from mmcredit.evaluate.frugal import frugal, rarity
from mmcredit.evaluate.held_out import answer_rows, answered, usable_questions
from mmcredit.intervals import Interval, paired_gain
from mmcredit.yaml_values import read

if TYPE_CHECKING:
    from mmcredit.config import RunConfig
    from mmcredit.data.sample import Sample
    from mmcredit.evaluate.usable import Usable
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
    asked = usable_questions(config, policy, samples)
    name = entry if isinstance(entry, str) else next(iter(entry))
    found: list[Decoded] = []
    with make_pool(config) as pool:
        for label, one in (*engine.alone().items(), (name, engine)):
            result = _answered(config, policy, one, pool, asked, label, bar)
            found.append(_entered(config, label, result, asked.samples, one.report(), found))
    return found


def stress(config: RunConfig, keeps: Sequence[float], bar: Bar) -> list[Decoded]:
    """Answers to the questions as they are, and with a share of their words left out (`mmcredit.evaluate.frugal`).

    Words that stand in few of the questions are kept longest; protected ones always. `report` has the share of words
    that was left.
    """
    from mmcredit.policy.policy import Policy
    from mmcredit.prepare import held_out_samples, make_pool, seed_everything

    seed_everything(config.run.seed)
    samples = held_out_samples(config)
    policy = Policy.load(config.model, media_limits=config.data.media)
    engine = open_engine(config, policy)
    whole = usable_questions(config, policy, samples)
    salience = rarity(last_text(sample) for sample in whole.samples)
    words = sum(len(last_text(sample).split()) for sample in whole.samples)
    found: list[Decoded] = []
    with make_pool(config) as pool:
        for keep in dict.fromkeys([1.0, *keeps]):
            own = [frugal(sample, keep, salience) for sample in whole.samples]
            asked = replace(whole, samples=own, prompts=[policy.encode(s, config.data.max_prompt_tokens) for s in own])
            label = f"{keep:.0%}"
            result = _answered(config, policy, engine, pool, asked, label, bar)
            report = {"words_left": sum(len(last_text(sample).split()) for sample in own) / max(1, words)}
            found.append(_entered(config, label, result, own, report, found))
    return found


def read_keeps(text: str) -> list[float]:
    """The shares of --frugal. Raises ValueError."""
    try:
        keeps = [float(word) for word in text.split(",")]
    except ValueError:
        keeps = []
    if not keeps or not all(0 < keep <= 1 for keep in keeps):
        raise ValueError(f"--frugal takes shares in (0, 1] with commas between, such as 0.9,0.7,0.5, got {text!r}")
    return keeps


def _answered(
    config: RunConfig, policy: Policy, engine: Any, pool: Any, asked: Usable, label: str, bar: Bar
) -> Evaluation:
    with bar(f"answers: {label}", len(asked.samples) * config.evaluate.samples) as advance:
        return answered(config, policy, engine, pool, asked, advance)


def _entered(
    config: RunConfig,
    label: str,
    result: Evaluation,
    samples: Sequence[Sample],
    report: dict[str, float],
    before: Sequence[Decoded],
) -> Decoded:
    gain = paired_gain(before[0].found.correct, result.correct, config.evaluate.samples) if before else None
    return Decoded(label, result, report, gain, answer_rows(samples, result, config.evaluate.chosen_k))
