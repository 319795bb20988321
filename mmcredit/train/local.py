"""The local training engine: one process, CPU or one GPU."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from mmcredit.config import TrainBlock

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class StepResult:
    """What one optimizer step did."""

    grad_norm: float  # before clipping
    learning_rate: float
    skipped: bool  # the gradient was not finite; nothing was changed


class LocalEngine:
    """AdamW over the trainable parameters, with warm-up, a schedule and gradient clipping.

    Parameters held in bfloat16 get a float32 master copy: at the learning rates of RL an update is smaller than the
    spacing of bfloat16 and would be lost. A gradient that is not finite changes nothing and is counted; too many in a
    row raise RuntimeError.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], config: TrainBlock, total_updates: int) -> None:
        if not parameters:
            raise ValueError("the model has no trainable parameter; check model.lora and model.freeze_vision")
        self.parameters = list(parameters)
        self.config = config
        self.total_updates = total_updates
        self.masters = [p if p.dtype == torch.float32 else _master(p) for p in self.parameters]
        self.optimizer = torch.optim.AdamW(
            self.masters, lr=config.learning_rate, betas=config.betas, weight_decay=config.weight_decay
        )
        self.updates = 0  # optimizer steps taken, skipped ones included
        self.skipped = 0
        self.skipped_in_a_row = 0

    def learning_rate(self, update: int) -> float:
        """The rate of optimizer step `update` (from 0): linear warm-up, then the schedule down to its minimum."""
        config = self.config
        if update < config.warmup_steps:
            return config.learning_rate * (update + 1) / config.warmup_steps
        if config.schedule == "constant":
            return config.learning_rate
        done = (update - config.warmup_steps) / max(1, self.total_updates - config.warmup_steps)
        done = min(1.0, done)
        left = 1 - done if config.schedule == "linear" else (1 + math.cos(math.pi * done)) / 2
        return config.min_learning_rate + (config.learning_rate - config.min_learning_rate) * left

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of one micro-batch; losses of a mini-batch are already weighted to add up."""
        loss.backward()

    def step(self) -> StepResult:
        """Clip, step, and clear the gradients."""
        rate = self.learning_rate(self.updates)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        for parameter, master in zip(self.parameters, self.masters, strict=True):
            if master is not parameter:
                master.grad = None if parameter.grad is None else parameter.grad.float()
        limit = self.config.max_grad_norm if self.config.max_grad_norm is not None else math.inf
        norm = float(nn.utils.clip_grad_norm_(self.masters, limit))
        self.updates += 1
        skipped = not math.isfinite(norm)
        if skipped:
            self._skip(norm)
        else:
            self.skipped_in_a_row = 0
            self.optimizer.step()
            for parameter, master in zip(self.parameters, self.masters, strict=True):
                if master is not parameter:
                    parameter.data.copy_(master.data)
        self.zero_grad()
        return StepResult(norm, rate, skipped)

    def _skip(self, norm: float) -> None:
        self.skipped += 1
        self.skipped_in_a_row += 1
        if self.skipped_in_a_row >= self.config.max_skipped_updates:
            raise RuntimeError(
                f"{self.skipped_in_a_row} optimizer steps in a row had a gradient norm of {norm}; lower "
                "train.learning_rate, or use model.dtype=float32 (train.max_skipped_updates sets how many are borne)"
            )

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for parameter, master in zip(self.parameters, self.masters, strict=True):
            parameter.grad = None
            master.grad = None

    def state_dict(self) -> dict[str, Any]:
        """Optimizer state, master weights, counters."""
        masters = [m.data for p, m in zip(self.parameters, self.masters, strict=True) if m is not p]
        return {
            "optimizer": self.optimizer.state_dict()["state"],
            "masters": masters,
            "updates": self.updates,
            "skipped": self.skipped,
            "skipped_in_a_row": self.skipped_in_a_row,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state["optimizer"], "param_groups": groups})
        masters = iter(state["masters"])
        with torch.no_grad():
            for parameter, master in zip(self.parameters, self.masters, strict=True):
                if master is not parameter:
                    master.data.copy_(next(masters))
        self.updates = state["updates"]
        self.skipped = state["skipped"]
        self.skipped_in_a_row = state["skipped_in_a_row"]


def _master(parameter: nn.Parameter) -> nn.Parameter:
    return nn.Parameter(parameter.detach().float().clone())
