"""What a training engine is: gradients of micro-batches in, optimizer steps out, on one process or several.

The loop, the updater and the checkpoints know only this. What is global: `World` (who runs), the gradient of a step
(the sum over the micro-batches of all ranks, as if one process had run them), its norm, the learning rate, the
counters, and the state. What is computed from a batch (statistics, normalisers, alarms) is computed on whole batches,
which every rank holds; files are written by rank 0 alone (`world.writes`).
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from mmcredit.config import OptimizerBlock
    from mmcredit.policy.policy import Policy
    from mmcredit.world import World


@dataclass(frozen=True)
class StepResult:
    """What one optimizer step did."""

    grad_norm: float  # before clipping
    learning_rate: float
    skipped: bool  # the gradient was not finite; nothing was changed


class TrainingEngine(Protocol):
    """A training engine, opened on a policy."""

    loss_scale: int  # what `backward` multiplies a loss by (the ranks, where a backend averages over them)
    in_step: bool  # ranks must call `backward` equally often: one that has run out repeats a micro-batch at weight 0

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of one micro-batch. Losses are weighted so that those of all ranks add up to the loss."""
        ...

    def step(self) -> StepResult:
        """Clip by the global norm, step, and clear the gradients. Called by all ranks.

        Raises RuntimeError after `train.max_skipped_updates` gradients in a row that are not finite.
        """
        ...

    def whole(self) -> AbstractContextManager[None]:
        """Around whatever reads the weights outside of a forward with gradient: sampling, scoring, saving."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Float32 weights and optimizer state by parameter name, and the counters: whole, on rank 0, whatever the
        engine and the number of ranks (elsewhere it may be empty). Called by all ranks."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` of any engine gave. Called by all ranks with the same state."""
        ...


class EngineSettings(Protocol):
    """A component of the kind ``train_engine``."""

    def world(self) -> World:
        """Join the other processes, before anything else is built. Raises ValueError where they do not fit."""
        ...

    def open(self, policy: Policy, config: OptimizerBlock, total_updates: int, world: World) -> TrainingEngine:
        """The engine over the policy's trainable parameters. Raises ValueError if there is none."""
        ...


def learning_rate(config: OptimizerBlock, update: int, total_updates: int) -> float:
    """The rate of optimizer step `update` (from 0): linear warm-up, then the schedule down to its minimum."""
    if update < config.warmup_steps:
        return config.learning_rate * (update + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.learning_rate
    done = (update - config.warmup_steps) / max(1, total_updates - config.warmup_steps)
    done = min(1.0, done)
    left = 1 - done if config.schedule == "linear" else (1 + math.cos(math.pi * done)) / 2
    return config.min_learning_rate + (config.learning_rate - config.min_learning_rate) * left


@dataclass
class Counters:
    """Optimizer steps taken (skipped ones included), and how many of them changed nothing."""

    updates: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0

    def count(self, norm: float, config: OptimizerBlock) -> bool:
        """Count a step with this gradient norm; True if it is to be skipped. Raises RuntimeError for too many."""
        self.updates += 1
        if math.isfinite(norm):
            self.skipped_in_a_row = 0
            return False
        self.skipped += 1
        self.skipped_in_a_row += 1
        if self.skipped_in_a_row >= config.max_skipped_updates:
            raise RuntimeError(
                f"{self.skipped_in_a_row} optimizer steps in a row had a gradient norm of {norm}; lower "
                "train.learning_rate, or use model.dtype=float32 (train.max_skipped_updates sets how many are borne)"
            )
        return True


def named_parameters(policy: Policy) -> dict[str, Any]:
    """The trainable parameters by name. Raises ValueError if there is none."""
    found = policy.trainable_parameters()
    if not found:
        raise ValueError("the model has no trainable parameter; check model.lora and model.freeze_vision")
    return found


__all__ = [
    "Counters", "EngineSettings", "StepResult", "TrainingEngine", "learning_rate", "named_parameters",
]  # fmt: skip
