"""Held-out accuracy of a run: asked before, between and after its steps, and written down."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from mmcredit.evaluate.accuracy import Evaluation, evaluate
from mmcredit.evaluate.held_out import evaluation_sampling, evaluation_seeds
from mmcredit.intervals import paired_gain

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mmcredit.config import RunConfig
    from mmcredit.data.sample import Sample
    from mmcredit.policy.prompt import Prompt
    from mmcredit.train.costs import Costs
    from mmcredit.train.progress import Progress
    from mmcredit.train.setup import Parts


class HeldOut:
    """The held-out questions of a run. `baseline`: right or wrong per question before training, None until then."""

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
        self.baseline: list[float] | None = None

    def __bool__(self) -> bool:
        return bool(self.parts.held_out)

    def __call__(self, step: int) -> Evaluation:
        """Accuracy with the present weights."""
        config, parts = self.config, self.parts
        pairs = []
        for sample in parts.held_out:
            try:
                pairs.append((sample, self.encode(sample)))
            except ValueError as error:
                self.refused("held-out: not usable", sample.id, str(error))
        sampling = evaluation_sampling(config)
        began = time.perf_counter()
        with self.costs.stage("evaluate"):
            self.progress.evaluation(step, len(pairs) * config.evaluate.samples)
            parts.engine.sync()
            found = evaluate(
                parts.engine,
                parts.pool,
                [s for s, _ in pairs],
                [p for _, p in pairs],
                sampling,
                [evaluation_seeds(config, s.id) for s, _ in pairs],
                self._decode,
                config.evaluate.reward or parts.pool.names[0],
                self.progress.advance,
                config.evaluate.chosen_k,
            )
        self._write(step, found, sampling.temperature, time.perf_counter() - began)
        self.progress.evaluated(step, found)
        return found

    def _write(self, step: int, found: Evaluation, temperature: float, seconds: float) -> None:
        more: dict[str, float] = {f"part_{name}": value for name, value in found.parts.items()}
        for name, score in found.scores.items():
            more |= {name: score.value, f"{name}_low": score.low, f"{name}_high": score.high}
        if self.baseline is not None and len(self.baseline) == len(found.correct):
            gain = paired_gain(self.baseline, found.correct)
            more |= {"gain": gain.value, "gain_low": gain.low, "gain_high": gain.high}
        self.records.evaluations.write(
            step,
            "held-out",
            n=found.accuracy.n,
            accuracy=found.accuracy.value,
            low=found.accuracy.low,
            high=found.accuracy.high,
            mode="greedy" if temperature == 0 else f"T={temperature:g}",
            seconds=seconds,
            length=found.mean_length,
            truncated=found.truncated,
            **more,
        )

    def _decode(self, tokens: Sequence[int]) -> str:
        return self.parts.policy.decode(tokens)
