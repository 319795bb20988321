"""Held-out accuracy of a run: asked before, between and after its steps, and written down."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mmcredit.evaluate import usable
from mmcredit.evaluate.accuracy import Evaluation, evaluate
from mmcredit.evaluate.held_out import evaluation_sampling, evaluation_seeds
from mmcredit.evaluate.pass_at_k import mean_interval
from mmcredit.intervals import Interval, paired_gain
from mmcredit.rollout.strategies.base import reacting
from mmcredit.train.agreement import check_prompts

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mmcredit.config import RunConfig
    from mmcredit.data.sample import Sample
    from mmcredit.policy.prompt import Prompt
    from mmcredit.train.costs import Costs
    from mmcredit.train.progress import Progress
    from mmcredit.train.setup import Parts


@dataclass(frozen=True)
class Before:
    """Held-out accuracy before training, as a checkpoint keeps it."""

    accuracy: Interval
    correct: list[float | None]
    not_applicable: Sequence[str] = ()


def mode(temperature: float) -> str:
    """How answers are drawn, as the records name it."""
    return "greedy" if temperature == 0 else f"T={temperature:g}"


class HeldOut:
    """The held-out questions of a run.

    `baseline`: share of right answers per question before training, None until then. A question that cannot be used or
    judged is None in it: it is left out of the accuracy, and a gain is over the questions that both sides could judge.
    """

    def __init__(
        self,
        config: RunConfig,
        parts: Parts,
        costs: Costs,
        progress: Progress,
        records: Any,
        encode: Callable[[Sample], Prompt],
        refused: Callable[[str, str, str], None],
    ) -> None:
        self.config, self.parts, self.costs, self.progress, self.records = config, parts, costs, progress, records
        self.encode, self.refused = encode, refused
        self.baseline: list[float | None] | None = None
        self._now: list[float | None] = []  # the same of the last evaluation
        self._said: set[tuple[str, str]] = set()  # refusals that are written down

    def __bool__(self) -> bool:
        return bool(self.parts.held_out)

    def __call__(self, step: int) -> Evaluation:
        """Accuracy with the present weights; the first one is the baseline. Raises ValueError as `usable.read`."""
        config, parts = self.config, self.parts
        asked = usable.read(parts.held_out, self.encode, config.check.max_unusable_held_out)
        for reason, name, message in asked.refusals:
            if (name, message) not in self._said:
                self._said.add((name, message))
                self.refused(f"held-out: {reason}", name, message)
        check_prompts(parts.world, "held-out questions", asked.samples, asked.prompts)
        sampling = evaluation_sampling(config)
        began = time.perf_counter()
        with (
            self.costs.stage("evaluate"),
            parts.policy.costs.sampling_for("evaluate"),
            reacting(parts.engine, parts.strategies, parts.policy) as engine,
        ):
            self.progress.evaluation(step, len(asked.samples) * config.evaluate.samples)
            parts.engine.sync()
            found = evaluate(
                engine,
                parts.pool,
                asked.samples,
                asked.prompts,
                sampling,
                [evaluation_seeds(config, s.id) for s in asked.samples],
                self._decode,
                config.evaluate.reward or parts.pool.names[0],
                self.progress.advance,
                config.evaluate.chosen_k,
            )
        found = replace(found, dropped=asked.dropped)
        self._now = [None] * asked.total
        for place, value in zip(asked.places, found.correct, strict=True):
            self._now[place] = value
        if self.baseline is None and step == 0:
            self.baseline = self._now
        self._write(step, found, sampling.temperature, time.perf_counter() - began)
        pairs = zip(asked.samples, found.correct, strict=True)
        right = {sample.id: value for sample, value in pairs if value is not None}
        self.records.evaluations.answers(step, "held-out", mode(sampling.temperature), right)
        self.progress.evaluated(step, found)
        return found

    def before(self) -> Before | None:
        """What a resumed run knows of the accuracy before training."""
        known = [value for value in self.baseline or () if value is not None]
        if not known or self.baseline is None:
            return None
        return Before(mean_interval(known, 1 / self.config.evaluate.samples), self.baseline)

    def gain(self) -> Interval | None:
        """The last evaluation against the baseline, over the questions that both could judge."""
        if self.baseline is None or len(self.baseline) != len(self._now):
            return None
        both = any(a is not None and b is not None for a, b in zip(self.baseline, self._now, strict=True))
        return paired_gain(self.baseline, self._now, self.config.evaluate.samples) if both else None

    def _write(self, step: int, found: Evaluation, temperature: float, seconds: float) -> None:
        more: dict[str, float] = {f"part_{name}": value for name, value in found.parts.items()}
        for name, score in found.scores.items():
            more |= {name: score.value, f"{name}_low": score.low, f"{name}_high": score.high}
        for name, count in (
            ("not_applicable", len(found.not_applicable)),
            ("unusable", found.dropped.total),
            ("errors", found.errors),
        ):
            more |= {name: float(count)} if count else {}
        gain = self.gain() if step else None
        if gain is not None:
            more |= {"gain": gain.value, "gain_low": gain.low, "gain_high": gain.high}
        self.records.evaluations.write(
            step,
            "held-out",
            n=found.accuracy.n,
            accuracy=found.accuracy.value,
            low=found.accuracy.low,
            high=found.accuracy.high,
            mode=mode(temperature),
            seconds=seconds,
            length=found.mean_length,
            truncated=found.truncated,
            **more,
        )

    def _decode(self, tokens: Sequence[int]) -> str:
        return self.parts.policy.decode(tokens)
