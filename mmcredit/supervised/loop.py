"""The loop of supervised training: batches in seeded order, optimizer steps, held-out measures, checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch

from mmcredit import warned, yaml_values
from mmcredit.report.files import Lines
from mmcredit.report.records import NoRecords, Records
from mmcredit.supervised.held_out import Measured
from mmcredit.train.begin import begin
from mmcredit.train.checkpoint import CheckpointError, Checkpoints
from mmcredit.train.costs import summed
from mmcredit.train.progress import Progress
from mmcredit.train.setup import rng_state, set_rng_state, versions

if TYPE_CHECKING:
    from mmcredit.policy.policy import Policy
    from mmcredit.supervised.config import FitConfig
    from mmcredit.train.engine import TrainingEngine
    from mmcredit.train.prompts import PromptStream

HELD_OUT = "held_out.jsonl"
Advance = Callable[[int], None]


class Lesson(Protocol):
    """What is taught, and how: a batch of the stream turned into gradients."""

    stream: PromptStream

    def step(self, drawn: list[tuple[Any, Any]], engine: TrainingEngine) -> dict[str, float]:
        """Add the gradients of a batch through `engine.backward`; metrics, `loss` among them. Called by all ranks."""
        ...

    def held_out(self, advance: Advance) -> dict[str, Measured]:
        """Measures on the held-out examples; empty where there are none. Called by all ranks."""
        ...

    @property
    def held_out_size(self) -> int:
        """How many there are."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs besides weights and the position in the data."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        ...


@dataclass(frozen=True)
class Fitted:
    """How a run ended."""

    steps: int
    losses: list[float]  # of the steps that this process ran
    before: dict[str, Measured]
    after: dict[str, Measured]


class LossProgress(Progress):
    """Progress with the words of supervised training."""

    def words(self, metrics: Mapping[str, float]) -> str:
        """The loss, and what else a lesson puts first."""
        more = [f"{name.partition('/')[2]} {metrics[name]:.3f}" for name in metrics if name.startswith("lesson/")]
        return "  ".join([f"loss {metrics['loss']:.4f}", *more])


def total_steps(config: FitConfig, samples: int) -> int:
    """Optimizer steps of a run over this many samples."""
    every = math.ceil(samples * config.train.epochs / config.train.batch)
    return every if config.train.steps is None else min(every, config.train.steps)


class Fit:
    """One supervised run. `run()` does all of it; with `resume` it goes on from the newest checkpoint.

    Raises ValueError if the run directory holds another run, RuntimeError for a loss that is not finite.
    """

    def __init__(
        self,
        config: FitConfig,
        policy: Policy,
        engine: TrainingEngine,
        lesson: Lesson,
        steps: int,
        *,
        resume: bool = False,
        progress: Progress | None = None,
    ) -> None:
        self.config, self.policy, self.engine, self.lesson, self.steps = config, policy, engine, lesson, steps
        self.world = policy.world
        self.progress = progress if progress is not None and self.world.writes else LossProgress(quiet=True)
        self.run_dir = Path(config.run.dir)
        self.checkpoints = Checkpoints(self.run_dir / "checkpoints", config.checkpoint.keep)
        found = begin(self.world, self.run_dir, self.checkpoints, resume, config)
        chosen = found.checkpoint
        self.step, self.before, self.measured = 0, dict[str, Measured](), -1
        self._passes: dict[str, dict[str, float]] = {}  # forwards of all ranks, by view
        self._passes_before: dict[str, dict[str, float]] = {}  # of the run that is resumed
        if chosen is not None:
            self.step, saved = self.checkpoints.load(self.checkpoints.folder / chosen)
            self._restore(saved)
        log = config.log
        plain = config.model_dump(mode="json")
        self.records: Any = NoRecords()
        if self.world.writes:
            self.records = Records(
                self.run_dir, self.step, tensorboard=log.tensorboard, wandb=log.wandb, wandb_config=plain
            )
            keep = (lambda row: row.get("step", -1) <= self.step) if self.step else None
            self._lines: Lines | None = Lines(self.run_dir / HELD_OUT, keep)
        else:
            self._lines = None
        self.records.write_config(yaml_values.dump(plain))
        self.records.write_versions(versions())
        lesson.stream.report = self._refused
        lesson.stream.note = lambda text: self._event(text)
        if chosen is not None:
            self._event(f"resumed from {chosen}", "checkpoint")
        for note in found.notes:
            self._event(note, level="warning")

    def run(self) -> Fitted:
        """Measure, train, measure again, save."""
        config = self.config
        losses: list[float] = []
        stop = warned.listen(lambda text: self.records.events.write(self.step, text, kind="note", level="warning"))
        try:
            if self.step == 0:
                self.before = self._measure(0)
            self.progress.start(self.steps, self.step)
            while self.step < self.steps:
                losses.append(self._one_step())
                last = self.step == self.steps
                if config.evaluate.every and self.step % config.evaluate.every == 0 and not last:
                    self._measure(self.step)
                if config.checkpoint.every and self.step % config.checkpoint.every == 0 and not last:
                    self.save()
            after = self._measure(self.step)
            if config.checkpoint.final:
                with self.engine.whole():
                    if self.world.writes:
                        self.policy.save(self.run_dir / "model")
                self.save(self.run_dir / "model")
            self._count_passes()
            return Fitted(self.step, losses, self.before, after)
        finally:
            self.progress.stop()
            stop()
            self.records.write_cost({"stages": {}, "passes": self._passes, "methods": {}, "steps": self.step})
            self.records.close()
            if self._lines is not None:
                self._lines.close()

    def _count_passes(self) -> None:
        """The forwards of all ranks. Not at the end of a run that failed: the others may not answer."""
        self._passes = summed([self._passes_before, *self.world.gather(self.policy.costs.read())])

    def _one_step(self) -> float:
        began = time.perf_counter()
        if self.world.size > 1:  # dropout differs between ranks, and a resumed run draws the same
            torch.manual_seed(self.config.run.seed * 1_000_003 + self.step * self.world.size + self.world.rank)
        drawn = self.lesson.stream.take(self.config.train.batch)
        self.world.agree("samples", [sample.name for sample, _ in drawn])
        metrics = self.lesson.step(drawn, self.engine)
        loss = metrics["loss"]
        if not math.isfinite(loss):
            raise RuntimeError(f"the loss of step {self.step} is {loss}; lower train.learning_rate")
        result = self.engine.step()
        self.policy.weights_changed()
        stream = self.lesson.stream
        metrics |= {
            "policy/grad_norm": result.grad_norm,
            "policy/learning_rate": result.learning_rate,
            "policy/skipped_updates": float(result.skipped),
            "data/epochs": stream.order.epochs,
            "data/dropped": float(stream.dropped.total),
            "cost/step_seconds": time.perf_counter() - began,
        }
        self.records.metrics.write(self.step, metrics)
        self.progress.step(self.step, metrics)
        self.step += 1
        return loss

    def _measure(self, step: int) -> dict[str, Measured]:
        size = self.lesson.held_out_size
        if not size:
            return {}
        self.progress.evaluation(step, size)
        with self.engine.whole():
            found = self.lesson.held_out(self.progress.advance)
        for name, measured in found.items():
            own = measured.interval()
            row = {"step": step, "name": name, "n": own.n, "value": own.value, "low": own.low, "high": own.high}
            if self._lines is not None:
                self._lines.append(
                    {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
                )
            self.progress.say(f"held-out {name} after {step} steps: {own.value:.4f} [{own.low:.4f}, {own.high:.4f}]")
        if step == 0:
            self.progress.stop()
        return found

    # State ------------------------------------------------------------------------------------------------------------

    def save(self, model: Path | None = None) -> None:
        """Write a checkpoint. A full disk is an alarm, not the end: the last good checkpoint stays."""
        self.policy.drop_caches()
        self._count_passes()
        state = {
            "training": self.engine.state_dict(),
            "run": {
                "data": self.lesson.stream.state_dict(),
                "before": {n: [list(m.values), list(m.weights)] for n, m in self.before.items()},
                "passes": self._passes,
                "rng": rng_state(),
            },
            "lesson": self.lesson.state_dict(),
        }
        if self.world.writes:
            try:
                path = self.checkpoints.save(self.step, state, None, model)
                self._event(f"saved {path.name}", "checkpoint")
            except CheckpointError as error:
                self._event(str(error), "checkpoint", "error")
        self.world.barrier()

    def _restore(self, saved: Mapping[str, Any]) -> None:
        self.engine.load_state_dict(saved["training"])
        self.lesson.stream.load_state_dict(saved["run"]["data"])
        self.before = {n: Measured(tuple(v), tuple(w)) for n, (v, w) in saved["run"]["before"].items()}
        self._passes = self._passes_before = saved["run"].get("passes", {})
        self.lesson.load_state_dict(saved["lesson"])
        set_rng_state(saved["run"]["rng"])
        self.policy.weights_changed()

    def _refused(self, reason: str, sample_id: str, message: str) -> None:
        data = {"reason": reason, "count": 1}
        self.records.events.write(self.step, message, kind="drop", level="warning", data=data)

    def _event(self, text: str, kind: str = "note", level: str = "info") -> None:
        self.records.events.write(self.step, text, kind=kind, level=level)
        if level != "info":
            self.progress.say(f"step {self.step}: {text}", "red" if level == "error" else "yellow")
