"""The training loop: rollout, rewards, signals, credit, update, and everything written down on the way."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mmcredit import warned
from mmcredit.components import build
from mmcredit.config import RunConfig, dump
from mmcredit.evaluate.accuracy import Evaluation
from mmcredit.frozen import FOLDER, freeze
from mmcredit.intervals import Interval
from mmcredit.report.records import NoRecords, Records
from mmcredit.rollouts import Credit, Rollouts
from mmcredit.seeds import derive
from mmcredit.train.agreement import check_batch
from mmcredit.train.alarms import Alarms
from mmcredit.train.begin import begin
from mmcredit.train.checkpoint import CheckpointError, Checkpoints
from mmcredit.train.costs import Costs, summed
from mmcredit.train.first_step import score
from mmcredit.train.held_out import Before, HeldOut
from mmcredit.train.metrics import batch_metrics, credit_metrics, mismatch_metrics
from mmcredit.train.progress import Progress
from mmcredit.train.prompts import PromptStream
from mmcredit.train.sample_table import sample_rows
from mmcredit.train.sampling import SamplingStage
from mmcredit.train.setup import Parts, furnish, rng_state, set_rng_state, versions
from mmcredit.world import World

if TYPE_CHECKING:
    from torch import Tensor

    from mmcredit.data.sample import Sample
    from mmcredit.policy.prompt import Prompt
    from mmcredit.rollout.batch import Batch


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    run_dir: Path
    steps: int
    before: Evaluation | Before | None  # of a resumed run what its checkpoint knows
    after: Evaluation | None
    gain: Interval | None  # paired, over the same questions
    seconds: float  # of training proper: rollout, rewards, scores, credit, update


class Trainer:
    """One training run. `Trainer(config).run()` does all of it; `resume=True` goes on from the newest checkpoint.

    Raises ValueError if the run directory holds another run, RuntimeError if a check stops the run.
    """

    def __init__(self, config: RunConfig, *, resume: bool = False, progress: Progress | None = None) -> None:
        self.config = config
        self.world: World = build("train_engine", config.train.engine).world()  # type: ignore[attr-defined]
        self.run_dir = Path(config.run.dir)
        self.progress = progress if progress is not None and self.world.writes else Progress(quiet=True)
        self.checkpoints = Checkpoints(self.run_dir / "checkpoints", config.checkpoint.keep)
        found = begin(self.world, self.run_dir, self.checkpoints, resume, config)
        checkpoint = None if found.checkpoint is None else self.checkpoints.folder / found.checkpoint
        self.parts: Parts = furnish(config, self.world)
        self.costs = Costs()
        self.alarms = Alarms(config.check, dict(zip(self.parts.pool.names, self.parts.pool.rewards, strict=True)))
        order = derive(config.run.seed, "order")
        self.stream = PromptStream(self.parts.samples, self._encode, order, self._refused, self._note)
        if left_out := getattr(self.parts.samples, "dropped", None):  # rows a source refused while reading
            self.stream.dropped.update(left_out)
        self.stage = SamplingStage(config, self.parts, self.stream, self.costs, self.progress, self._event)
        self.step = 0  # the next step to run
        self._passes: dict[str, dict[str, float]] = {}  # forwards of all ranks, by view
        self._passes_before: dict[str, dict[str, float]] = {}  # of the run that is resumed
        saved: dict[str, Any] = {}
        if checkpoint is not None:
            self.step, saved = self.checkpoints.load(checkpoint)
        self.records: Any = (
            Records(
                self.run_dir,
                self.step,
                tensorboard=config.log.tensorboard,
                wandb=config.log.wandb,
                wandb_config=config.model_dump(mode="json"),
            )
            if self.world.writes
            else NoRecords()
        )
        self.held_out = HeldOut(
            config, self.parts, self.costs, self.progress, self.records, self._encode, self._refused
        )
        self.records.write_config(dump(config))
        self.records.write_versions(versions())
        for path, why in self.checkpoints.broken().items():
            self._event(f"checkpoint {path.name} is not complete ({why}) and is not used", "checkpoint", "warning")
        if saved:
            self._restore(saved)
            self._event(f"resumed from {checkpoint.name if checkpoint else ''}", "checkpoint")
        for note in found.notes:
            self._event(note, "note", "warning")

        self._stop_listening = warned.listen(
            lambda text: self.records.events.write(self.step, text, kind="note", level="warning")
        )

    # -- the run ------------------------------------------------------------------------------------------------

    def run(self) -> Outcome:
        """Train until `run.steps`, evaluate before and after, save, and close every file."""
        config, parts = self.config, self.parts
        try:
            before: Evaluation | Before | None = self.held_out.before()
            if self.held_out and self.step == 0:
                before = self.held_out(0)
            self.progress.start(config.run.steps, self.step)
            while self.step < config.run.steps:
                self._one_step(self.step)
                self.step += 1
                every = config.evaluate.interval(config.run.steps)
                if self.held_out and every and self.step % every == 0 and self.step < config.run.steps:
                    self.stage.ahead.land()  # the engine is about to be given weights
                    self.held_out(self.step)
                last = config.checkpoint.final and self.step == config.run.steps  # it is saved below, beside the model
                if config.checkpoint.every and self.step % config.checkpoint.every == 0 and not last:
                    self.save()
            after = self.held_out(self.step) if self.held_out else None
            if config.checkpoint.final:
                with parts.trainer.whole():
                    if self.world.writes:
                        parts.policy.save(self.run_dir / "model")
                self.save(self.run_dir / "model")
            self._count_passes()
            gain = None if after is None else self.held_out.gain()
            training = ("prompts", "rollout", "rewards", "score", "verify", "credit", "update")
            seconds = sum(self.costs.stages[name]["seconds"] for name in training if name in self.costs.stages)
            return Outcome(self.run_dir, self.step, before, after, gain, seconds)
        finally:
            self.progress.stop()
            self.close()

    def close(self) -> None:
        """End worker processes and close files."""
        self._stop_listening()
        self.parts.pool.close()
        self.parts.verifying.close()
        self.parts.engine.close()
        self.records.write_cost(self.costs.as_dict(self._passes))
        self.records.close()
        self.world.close()

    def _one_step(self, step: int) -> None:
        config, parts, costs = self.config, self.parts, self.costs
        costs.new_step()
        if self.world.size > 1:  # dropout differs between ranks, and a resumed run draws the same
            torch.manual_seed(derive(config.run.seed, "rank", step, self.world.rank))
        began = time.perf_counter()
        parts.views.begin(step)
        batch = self.stage.run(step)
        with costs.stage("score"):
            self.progress.stage("score")
            rollouts, scores = self._score(batch, step)
        rollouts = self.stage.verified(batch, rollouts)
        self.stage.observe(rollouts)
        with costs.stage("credit"):
            self.progress.stage("credit")
            credit = parts.pipeline(rollouts, step, config.run.steps)
        check_batch(self.world, rollouts, credit)
        for trace in credit.trace:
            costs.methods[trace.name]["seconds"] += trace.seconds
        with costs.stage("update"):
            self.progress.stage("update", len(rollouts))
            metrics, seen = parts.updater(
                batch.prompts, rollouts, credit, step, step / config.run.steps, self.progress.advance
            )
        metrics |= batch_metrics(rollouts, batch.texts, parts.policy.tokenizer, batch.prompts)
        metrics |= credit_metrics(credit, rollouts)
        metrics |= mismatch_metrics(rollouts, scores, seen)
        metrics |= self._spent(rollouts, time.perf_counter() - began)
        self._raise_alarms(metrics)
        self.records.metrics.write(step, metrics)
        self.progress.step(step, metrics)
        self._write_down(step, batch, rollouts, credit, seen)

    def _score(self, batch: Batch, step: int) -> tuple[Rollouts, Tensor | None]:
        return score(self.parts, self.config, batch, step == 0, self._event)

    # -- what is written down -----------------------------------------------------------------------------------

    def _write_down(self, step: int, batch: Batch, rollouts: Rollouts, credit: Credit, seen: Tensor) -> None:
        """Sample table, frozen rollouts and costs, at the steps that have them. `seen` [B,T]: first log-probs."""
        config, parts = self.config, self.parts
        if self.world.writes and self._wants_samples(step):
            logprobs = seen if rollouts.old_logprobs is None else rollouts.old_logprobs
            rows = sample_rows(
                rollouts, credit, logprobs, batch.samples, batch.texts, parts.policy.tokenizer,
                self.records.media, config.data.media, config.log.samples_groups, self.stage.verdicts,
                batch.prompts, None if parts.policy.processor is None else parts.views.pixels,
                parts.strategies,
            )  # fmt: skip
            self.records.samples.write(step, rows)
        if self.world.writes and config.log.rollouts_every and step % config.log.rollouts_every == 0:
            self._freeze(rollouts, step)
        if step % 10 == 0 or step == config.run.steps - 1:
            self._count_passes()
            self.records.write_cost(self.costs.as_dict(self._passes))

    def _wants_samples(self, step: int) -> bool:
        every = self.config.log.samples_every
        return bool(every) and (step % every == 0 or step == self.config.run.steps - 1)

    def _count_passes(self) -> None:
        """The forwards of all ranks. Not at the end of a run that failed: the others may not answer."""
        self._passes = summed([self._passes_before, *self.world.gather(self.parts.policy.costs.read())])

    def _spent(self, rollouts: Rollouts, seconds: float) -> dict[str, float]:
        metrics = {f"cost/{name}_seconds": value for name, value in self.costs.last.items()}
        metrics["cost/step_seconds"] = seconds
        metrics["cost/tokens_per_second"] = float(rollouts.mask.sum()) / seconds
        metrics["data/epochs"] = self.stream.order.epochs
        metrics["data/dropped"] = float(self.stream.dropped.total)
        return metrics | self.stage.reward_counts | self.stage.notes | self.stage.verify_metrics

    def _raise_alarms(self, metrics: dict[str, float]) -> None:
        for message in self.alarms.look(metrics):
            self._event(message, "alarm", "warning")
        if metrics.get("policy/skipped_updates"):
            norm = metrics["policy/grad_norm"]
            self._event(f"an update was skipped: the gradient norm was {norm}", "alarm", "warning")

    # -- state --------------------------------------------------------------------------------------------------

    def save(self, model: Path | None = None) -> None:
        """Write a checkpoint; what the folder `model` holds is linked and not copied.

        A full disk is an alarm, not the end: the last good checkpoint stays.
        """
        with self.costs.stage("save"):
            self.progress.stage("save")
            # A resumed run starts with empty caches; with the same caches this one goes on bit for bit like it.
            self.parts.policy.drop_caches()
            self._count_passes()
            state = self._state()
            if not self.world.writes:
                self.world.barrier()
                return
            try:
                path = self.checkpoints.save(self.step, state, self._saved_part, model)
                self._event(f"saved {path.name}", "checkpoint")
            except CheckpointError as error:
                self._event(str(error), "checkpoint", "error")
            self.world.barrier()

    def _saved_part(self, name: str) -> None:
        """Called after each part of a checkpoint is on its way to disk."""

    def _state(self) -> dict[str, Any]:
        parts = self.parts
        return {
            "training": parts.trainer.state_dict(),
            "run": {
                "data": self.stage.ahead.stream_state(),
                "alarms": self.alarms.state_dict(),
                "costs": self.costs.state_dict(),
                "passes": self._passes,
                "baseline": self.held_out.baseline,
                "rng": rng_state(),
            },
            "credit": parts.pipeline.state_dict(),
            "strategies": self.stage.state_dict(),
            **({"ahead": self.stage.ahead.state_dict()} if self.config.rollout.ahead else {}),
        }

    def _restore(self, saved: dict[str, Any]) -> None:
        parts = self.parts
        parts.trainer.load_state_dict(saved["training"])
        parts.pipeline.load_state_dict(saved["credit"])
        self.stage.load_state_dict(saved["strategies"])
        run = saved["run"]
        self.stream.load_state_dict(run["data"])
        self.alarms.load_state_dict(run["alarms"])
        self.costs.load_state_dict(run["costs"])
        self._passes = self._passes_before = run.get("passes", {})
        self.held_out.baseline = run["baseline"]
        self.stage.ahead.load_state_dict(saved.get("ahead", {}))
        set_rng_state(run["rng"])
        parts.policy.weights_changed()

    def _freeze(self, rollouts: Rollouts, step: int) -> None:
        """Keep the batch for `mmcredit replay`. A full disk is an alarm, not the end: the run goes on without it."""
        config = self.config
        try:
            plain = config.model_dump(mode="json")
            freeze(self.run_dir / FOLDER, rollouts, step, config.run.steps, plain, self.parts.policy.tokenizer)
        except (OSError, ValueError) as error:  # ValueError: a media file has gone since it was read
            self._event(f"the rollouts of step {step} were not frozen: {error}", "alarm", "error")

    # -- small things -------------------------------------------------------------------------------------------

    def _encode(self, sample: Sample) -> Prompt:
        return self.parts.policy.encode(sample, self.config.data.max_prompt_tokens)

    def _refused(self, reason: str, sample_id: str, message: str) -> None:
        data = {"reason": reason, "count": 1, "sample": sample_id}
        self.records.events.write(self.step, message, kind="drop", data=data)

    def _note(self, text: str) -> None:
        self._event(text)
        self.progress.say(f"note: {text}")

    def _event(self, message: str, kind: Any = "note", level: Any = "info") -> None:
        self.records.events.write(self.step, message, kind=kind, level=level)
        if level != "info":
            self.progress.say(f"step {self.step}: {message}", "red" if level == "error" else "yellow")


def train(config: RunConfig, *, resume: bool = False, progress: Progress | None = None) -> Outcome:
    """Run `config` from start (or its newest checkpoint) to end."""
    return Trainer(config, resume=resume, progress=progress).run()


__all__ = ["Credit", "Outcome", "Trainer", "train"]
