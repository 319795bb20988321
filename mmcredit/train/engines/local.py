"""The local training engine: one process, CPU or one GPU."""

from __future__ import annotations

import math
import os
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch

from mmcredit.components import Component, register
from mmcredit.train.engine import Counters, StepResult, learning_rate, named_parameters
from mmcredit.world import ALONE, World

if TYPE_CHECKING:
    from torch import Tensor

    from mmcredit.config import OptimizerBlock
    from mmcredit.policy.policy import Policy


@register("train_engine", "local")
class Local(Component):
    """Train in this one process, on the CPU or on one GPU: AdamW; a bfloat16 model gets float32 master weights.

    Nothing to install and nothing to start; for several processes or GPUs see the engine `deepspeed`.
    """

    def world(self) -> World:
        """This process. Raises ValueError if it was started as one of several."""
        if (size := int(os.environ.get("WORLD_SIZE", "1"))) > 1:
            raise ValueError(f"train.engine is local, but {size} processes were started; set train.engine=deepspeed")
        return ALONE

    def open(self, policy: Policy, config: OptimizerBlock, total_updates: int, world: World) -> LocalEngine:
        """The engine over the policy's trainable parameters."""
        return LocalEngine(named_parameters(policy), config, total_updates)


class LocalEngine:
    """AdamW over the trainable parameters, with warm-up, a schedule and gradient clipping.

    Parameters held in bfloat16 get a float32 master copy: at the learning rates of RL an update is smaller than the
    spacing of bfloat16 and would be lost. A gradient that is not finite changes nothing and is counted; too many in a
    row raise RuntimeError.
    """

    loss_scale = 1
    in_step = False

    def __init__(self, parameters: dict[str, torch.nn.Parameter], config: OptimizerBlock, total_updates: int) -> None:
        self.names, self.parameters = list(parameters), list(parameters.values())
        self.config = config
        self.total_updates = total_updates
        self.masters = [p if p.dtype == torch.float32 else _master(p) for p in self.parameters]
        self.optimizer = torch.optim.AdamW(
            self.masters, lr=config.learning_rate, betas=config.betas, weight_decay=config.weight_decay
        )
        self.counters = Counters()

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def step(self) -> StepResult:
        rate = learning_rate(self.config, self.counters.updates, self.total_updates)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        for parameter, master in zip(self.parameters, self.masters, strict=True):
            if master is not parameter:
                master.grad = None if parameter.grad is None else parameter.grad.float()
        limit = self.config.max_grad_norm if self.config.max_grad_norm is not None else math.inf
        norm = float(torch.nn.utils.clip_grad_norm_(self.masters, limit))
        skipped = self.counters.count(norm, self.config)
        if not skipped:
            self.optimizer.step()
            self._copy_masters()
        for parameter, master in zip(self.parameters, self.masters, strict=True):
            parameter.grad = master.grad = None
        return StepResult(norm, rate, skipped)

    def _copy_masters(self) -> None:
        for parameter, master in zip(self.parameters, self.masters, strict=True):
            if master is not parameter:
                parameter.data.copy_(master.data)

    def whole(self) -> AbstractContextManager[None]:
        return nullcontext()

    def state_dict(self) -> dict[str, Any]:
        state = self.optimizer.state
        return {
            "weights": {name: m.data for name, m in zip(self.names, self.masters, strict=True)},
            "optimizer": {n: dict(state[m]) for n, m in zip(self.names, self.masters, strict=True) if m in state},
            "counters": vars(self.counters).copy(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        groups = self.optimizer.state_dict()["param_groups"]
        moments = {i: state["optimizer"][n] for i, n in enumerate(self.names) if n in state["optimizer"]}
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        with torch.no_grad():
            for name, master in zip(self.names, self.masters, strict=True):
                master.data.copy_(state["weights"][name])
            self._copy_masters()
        self.counters = Counters(**state["counters"])


def _master(parameter: torch.nn.Parameter) -> torch.nn.Parameter:
    return torch.nn.Parameter(parameter.detach().float().clone())
