"""The training loop: rollout, rewards, signals, credit, update, and everything written down on the way."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mmcredit.config import RunConfig, dump
from mmcredit.evaluate.accuracy import Evaluation, evaluate
from mmcredit.evaluate.held_out import evaluation_sampling, evaluation_seeds
from mmcredit.frozen import FOLDER, freeze
from mmcredit.intervals import Interval, paired_gain
from mmcredit.policy.passes import BLIND, CLEAN, Pass
from mmcredit.report.records import Records
from mmcredit.rollouts import Credit, Rollouts
from mmcredit.seeds import derive
from mmcredit.train import checks
from mmcredit.train.checkpoint import CheckpointError, Checkpoints
from mmcredit.train.costs import Costs
from mmcredit.train.metrics import batch_metrics, credit_metrics
from mmcredit.train.progress import Progress
from mmcredit.train.prompts import PromptStream
from mmcredit.train.sample_table import sample_rows
from mmcredit.train.sampling import SamplingStage
from mmcredit.train.setup import Parts, furnish, rng_state, set_rng_state, versions

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
    before: Evaluation | None
    after: Evaluation | None
    gain: Interval | None  # paired, over the same questions
    seconds: float  # of training proper: rollout, rewards, scores, credit, update


class Trainer:
    """One training run. `Trainer(config).run()` does all of it; `resume=True` goes on from the newest checkpoint.

    Raises ValueError if the run directory holds another run, RuntimeError if a check stops the run.
    """

    def __init__(self, config: RunConfig, *, resume: bool = False, progress: Progress | None = None) -> None:
        self.config = config
        self.run_dir = Path(config.run.dir)
        self.progress = progress or Progress(quiet=True)
        self.checkpoints = Checkpoints(self.run_dir / "checkpoints", config.checkpoint.keep)
        checkpoint = self.checkpoints.latest() if resume else None
        if not resume and (self.run_dir / "metrics.jsonl").exists():
            raise ValueError(
                f"run.dir {self.run_dir} holds a run already; go on with --resume, or give run.dir a new folder"
            )
        self.parts: Parts = furnish(config)
        self.costs = Costs()
        self.alarms = checks.Alarms(config.check)
        self.stream = PromptStream(self.parts.samples, self._encode, derive(config.run.seed, "order"), self._refused)
        if left_out := getattr(self.parts.samples, "dropped", None):  # rows a source refused while reading
            self.stream.dropped.update(left_out)
        self.stage = SamplingStage(config, self.parts, self.stream, self.costs, self.progress, self._event)
        self.step = 0  # the next step to run
        self.baseline: list[float] | None = None  # right/wrong per held-out question before training
        saved: dict[str, Any] = {}
        if checkpoint is not None:
            self.step, saved = self.checkpoints.load(checkpoint)
        self.records = Records(
            self.run_dir,
            self.step,
            tensorboard=config.log.tensorboard,
            wandb=config.log.wandb,
            wandb_config=config.model_dump(mode="json"),
        )
        self.records.write_config(dump(config))
        self.records.write_versions(versions())
        for path, why in self.checkpoints.broken().items():
            self._event(f"checkpoint {path.name} is not complete ({why}) and is not used", "checkpoint", "warning")
        if saved:
            self._restore(saved)
            self._event(f"resumed from {checkpoint.name if checkpoint else ''}", "checkpoint")

    # -- the run ------------------------------------------------------------------------------------------------

    def run(self) -> Outcome:
        """Train until `run.steps`, evaluate before and after, save, and close every file."""
        config, parts = self.config, self.parts
        try:
            before = None
            if parts.held_out and self.step == 0:
                before = self._evaluate(0)
                self.baseline = before.correct
            self.progress.start(config.run.steps, self.step)
            while self.step < config.run.steps:
                self._one_step(self.step)
                self.step += 1
                every = config.evaluate.every
                if parts.held_out and every and self.step % every == 0 and self.step < config.run.steps:
                    self._evaluate(self.step)
                if config.checkpoint.every and self.step % config.checkpoint.every == 0:
                    self.save()
            after = self._evaluate(self.step) if parts.held_out else None
            if config.checkpoint.final:
                if not config.checkpoint.every or self.step % config.checkpoint.every:
                    self.save()
                parts.policy.save(self.run_dir / "model")
            gain = paired_gain(self.baseline, after.correct) if after is not None and self.baseline else None
            training = ("prompts", "rollout", "rewards", "score", "credit", "update")
            seconds = sum(self.costs.stages[name]["seconds"] for name in training)
            return Outcome(self.run_dir, self.step, before, after, gain, seconds)
        finally:
            self.progress.stop()
            self.close()

    def close(self) -> None:
        """End worker processes and close files."""
        self.parts.pool.close()
        self.parts.engine.close()
        self.records.write_cost(self.costs.as_dict(self.parts.policy.costs.read()))
        self.records.close()

    def _one_step(self, step: int) -> None:
        config, parts, costs = self.config, self.parts, self.costs
        costs.new_step()
        began = time.perf_counter()
        parts.views.begin(step)
        batch = self.stage.run(step)
        with costs.stage("score"):
            self.progress.stage("score")
            rollouts, scores = self._score(batch, step)
            self.stage.observe(rollouts)
        with costs.stage("credit"):
            self.progress.stage("credit")
            credit = parts.pipeline(rollouts, step, config.run.steps)
        for trace in credit.trace:
            costs.methods[trace.name]["seconds"] += trace.seconds
        with costs.stage("update"):
            self.progress.stage("update", len(rollouts))
            metrics, seen = parts.updater(
                batch.prompts, rollouts, credit, step, step / config.run.steps, self.progress.advance
            )
        metrics |= batch_metrics(rollouts, batch.texts, parts.policy.tokenizer, batch.prompts)
        metrics |= credit_metrics(credit, rollouts)
        metrics |= self._mismatch(rollouts, scores, seen)
        metrics |= self._cost_metrics(rollouts, time.perf_counter() - began)
        self._watch(step, metrics)
        self.records.metrics.write(step, metrics)
        self.progress.step(step, metrics)
        if config.log.samples_every and (step % config.log.samples_every == 0 or step == config.run.steps - 1):
            logprobs = seen if rollouts.old_logprobs is None else rollouts.old_logprobs
            rows = sample_rows(
                rollouts, credit, logprobs, batch.samples, batch.texts, parts.policy.tokenizer,
                self.records.media, config.data.media, config.log.samples_groups,
            )  # fmt: skip
            self.records.samples.write(step, rows)
        if config.log.rollouts_every and step % config.log.rollouts_every == 0:
            self._freeze(rollouts, step)
        if step % 10 == 0:
            self.records.write_cost(costs.as_dict(parts.policy.costs.read()))

    def _score(self, batch: Batch, step: int) -> tuple[Rollouts, Tensor | None]:
        """The passes before the update; at the first step, the checks."""
        parts, config = self.parts, self.config
        first = step == 0
        plan = parts.first_plan if first else parts.plan
        if not plan.passes:
            return batch.rollouts, None
        passes = list(plan.passes)
        has_media = torch.tensor([bool(batch.prompts[g].visual.any()) for g in batch.rollouts.group.tolist()])
        has_media = has_media.to(parts.policy.device)
        probe = first and config.check.image_probe and bool(has_media.any())
        if probe:
            passes.append(Pass(BLIND, frozenset({"logprobs"})))
        temperature = config.rollout.sampling.temperature
        results = parts.policy.score(batch.prompts, batch.rollouts, passes, temperature=temperature)
        clean = results[CLEAN].get("logprobs") if CLEAN in results else None
        rollouts = batch.rollouts.with_signals(plan.read(results))
        if plan.old_logprobs and clean is not None:
            known = batch.rollouts.old_logprobs  # of replayed responses: those of the policy that sampled them
            old = clean if known is None else torch.where(torch.isfinite(known), known, clean)
            rollouts = rollouts.replace(old_logprobs=old)
        if first and clean is not None and not bool(rollouts.mask.any()):
            self._event(
                "no token of the first step bears credit: sampler and trainer were not compared", "alarm", "warning"
            )
        elif first and clean is not None:
            found = checks.mismatch(rollouts, clean)
            if found is not None and config.check.parity:
                self._event(
                    f"parity: KL(sampler || trainer) {found.kl:.3g} nats per token, largest {found.largest:.3g}"
                )
                checks.parity_gate(found, config.check)
            if probe and bool((rollouts.mask & has_media[:, None]).any()):
                moved = checks.image_sensitivity(clean, results[BLIND]["logprobs"], has_media, rollouts.mask)
                self._event(f"image probe: hiding the image moves a log-prob by {moved:.3g} nats on average")
                checks.image_gate(moved, config.check)
        return rollouts, clean

    # -- numbers ------------------------------------------------------------------------------------------------

    def _mismatch(self, rollouts: Rollouts, clean: Tensor | None, seen: Tensor) -> dict[str, float]:
        """Sampler against trainer, from whichever clean log-probs this step has (before its first update)."""
        logprobs = clean if clean is not None else seen
        known = rollouts.mask & torch.isfinite(logprobs)
        if not bool(known.any()):
            return {}
        found = checks.mismatch(rollouts.replace(mask=known), logprobs)
        if found is None:
            return {}
        return {"mismatch/kl": found.kl, "mismatch/max": found.largest, "mismatch/not_finite": float(found.not_finite)}

    def _cost_metrics(self, rollouts: Rollouts, seconds: float) -> dict[str, float]:
        metrics = {f"cost/{name}_seconds": value for name, value in self.costs.last.items()}
        metrics["cost/step_seconds"] = seconds
        metrics["cost/tokens_per_second"] = float(rollouts.mask.sum()) / seconds
        metrics["data/epochs"] = self.stream.order.epochs
        metrics["data/dropped"] = float(self.stream.dropped.total)
        return metrics | self.stage.reward_counts | self.stage.notes

    def _watch(self, step: int, metrics: dict[str, float]) -> None:
        for message in self.alarms.look(metrics):
            self._event(message, "alarm", "warning")
        if metrics.get("policy/skipped_updates"):
            norm = metrics["policy/grad_norm"]
            self._event(f"an update was skipped: the gradient norm was {norm}", "alarm", "warning")

    def _evaluate(self, step: int) -> Evaluation:
        """Held-out accuracy with the present weights."""
        config, parts = self.config, self.parts
        pairs = []
        for sample in parts.held_out:
            try:
                pairs.append((sample, self._encode(sample)))
            except ValueError as error:
                self._refused("held-out: not usable", sample.id, str(error))
        sampling = evaluation_sampling(config)
        part = config.evaluate.reward or parts.pool.names[0]
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
                part,
                self.progress.advance,
                config.evaluate.chosen_k,
            )
        mode = "greedy" if sampling.temperature == 0 else f"T={sampling.temperature:g}"
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
            mode=mode,
            seconds=time.perf_counter() - began,
            length=found.mean_length,
            truncated=found.truncated,
            **more,
        )
        self.progress.evaluated(step, found)
        return found

    # -- state --------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write a checkpoint. A full disk is an alarm, not the end: the last good checkpoint stays."""
        with self.costs.stage("save"):
            self.progress.stage("save")
            # A resumed run starts with empty caches; with the same caches this one goes on bit for bit like it.
            self.parts.policy.drop_caches()
            try:
                path = self.checkpoints.save(self.step, self._state(), self._saved_part)
                self._event(f"saved {path.name}", "checkpoint")
            except CheckpointError as error:
                self._event(str(error), "checkpoint", "error")
                self.progress.say(f"[red]{error}[/red]")

    def _saved_part(self, name: str) -> None:
        """Called after each part of a checkpoint is on its way to disk."""

    def _state(self) -> dict[str, Any]:
        parts = self.parts
        return {
            "weights": parts.policy.state_dict(),
            "optimizer": parts.trainer.state_dict(),
            "run": {
                "data": self.stream.state_dict(),
                "alarms": self.alarms.state_dict(),
                "costs": self.costs.state_dict(),
                "baseline": self.baseline,
                "rng": rng_state(),
            },
            "credit": parts.pipeline.state_dict(),
            "strategies": self.stage.state_dict(),
        }

    def _restore(self, saved: dict[str, Any]) -> None:
        parts = self.parts
        parts.policy.load_state_dict(saved["weights"])
        parts.trainer.load_state_dict(saved["optimizer"])
        parts.pipeline.load_state_dict(saved["credit"])
        self.stage.load_state_dict(saved["strategies"])
        run = saved["run"]
        self.stream.load_state_dict(run["data"])
        self.alarms.load_state_dict(run["alarms"])
        self.costs.load_state_dict(run["costs"])
        self.baseline = run["baseline"]
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

    def _decode(self, tokens: Sequence[int]) -> str:
        return self.parts.policy.decode(tokens)

    def _refused(self, reason: str, sample_id: str, message: str) -> None:
        data = {"reason": reason, "count": 1, "sample": sample_id}
        self.records.events.write(self.step, message, kind="drop", data=data)

    def _event(self, message: str, kind: Any = "note", level: Any = "info") -> None:
        self.records.events.write(self.step, message, kind=kind, level=level)
        if level != "info":
            self.progress.say(f"[yellow]step {self.step}: {message}[/yellow]")


def train(config: RunConfig, *, resume: bool = False, progress: Progress | None = None) -> Outcome:
    """Run `config` from start (or its newest checkpoint) to end."""
    return Trainer(config, resume=resume, progress=progress).run()


__all__ = ["Credit", "Outcome", "Trainer", "train"]
