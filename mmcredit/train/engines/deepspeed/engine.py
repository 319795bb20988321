"""Optimizer steps through DeepSpeed, under the loop that serves the local engine."""

from __future__ import annotations

import logging
import math
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from mmcredit.train.engine import Counters, StepResult, learning_rate, named_parameters
from mmcredit.train.engines.deepspeed import state
from mmcredit.train.engines.deepspeed.scope import Carrier, Spread, without_frozen_tower

if TYPE_CHECKING:
    from torch import Tensor

    from mmcredit.config import OptimizerBlock
    from mmcredit.policy.policy import Policy
    from mmcredit.world import World


class DeepSpeedEngine:
    """ZeRO over the ranks of `world`.

    DeepSpeed averages gradients over ranks where the loss wants their sum: every loss is multiplied by the number of
    ranks. Ranks are in step from stage 2 on, where each backward already exchanges gradients.
    """

    def __init__(
        self, policy: Policy, config: OptimizerBlock, total_updates: int, world: World, plan: dict[str, Any]
    ) -> None:
        """`plan`: DeepSpeed's own configuration."""
        import deepspeed

        logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
        self.policy, self.config, self.total_updates, self.world = policy, config, total_updates, world
        self.stage = int(plan["zero_optimization"]["stage"])
        self.parameters: dict[str, nn.Parameter] = named_parameters(policy)
        self.counters = Counters()
        self.loss_scale = world.size
        self.in_step = self.stage >= 2
        self._pending = False  # whether a backward has been made since the last step
        carrier = Carrier(policy)
        # A rate of 0 until the first step sets one: backends differ in what they do with the optimizer before.
        optimizer = torch.optim.AdamW(
            list(self.parameters.values()), lr=0.0, betas=config.betas, weight_decay=config.weight_decay
        )
        with without_frozen_tower(policy):
            self.engine, *_ = deepspeed.initialize(
                model=carrier,
                optimizer=optimizer,
                config=plan,
                dist_init_required=False,
            )
        state.check(self.engine, self.stage)
        spread = Spread(self.engine, carrier, world, policy)
        self.scope = spread if self.stage == 3 else None
        policy.scope = spread if self.in_step else None

    def backward(self, loss: Tensor) -> None:
        self._pending = True
        self.engine.backward(loss * self.loss_scale if self.loss_scale > 1 else loss)

    def step(self) -> StepResult:
        rate = learning_rate(self.config, self.counters.updates, self.total_updates)
        pending = self.world.any([self._pending])[0]
        self._pending = False
        if not pending:  # no token of the whole batch had a gradient
            return StepResult(0.0, rate, self.counters.count(0.0, self.config))
        for group in self.engine.optimizer.param_groups:
            group["lr"] = rate
        if self.stage < 2:
            self._same_gradients()
        if self.stage == 0 and not hasattr(self.engine.optimizer, "bf16_groups"):
            return self._plain_step(rate)
        with without_frozen_tower(self.policy):  # its step goes through all parameters below the carrier
            self.engine.step()
        found = self.engine.get_global_grad_norm()
        norm = math.nan if found is None or bool(self.engine.optimizer.overflow) else float(found)
        return StepResult(norm, rate, self.counters.count(norm, self.config))

    def _same_gradients(self) -> None:
        """A parameter that has a gradient on some rank gets zeros on the others, so that all exchange the same. By a
        backward: with bfloat16 weights ZeRO-1 keeps gradients in a place of its own (`grad_accum`), and on a rank that
        had no micro-batch in this step it has no buffer to exchange from."""
        own = [p.grad is not None or getattr(p, "grad_accum", None) is not None for p in self.parameters.values()]
        both = zip(self.parameters.values(), own, self.world.any(own), strict=True)
        lacking = [0 * p.float().sum() for p, mine, anyone in both if anyone and not mine]
        if lacking:
            self.engine.backward(torch.stack(lacking).sum())

    def _plain_step(self, rate: float) -> StepResult:
        """Stage 0 in float32 has no ZeRO optimizer that would look for gradients that are not finite."""
        gradients = [p.grad for p in self.parameters.values() if p.grad is not None]
        for gradient in gradients:
            self.world.total(gradient.div_(self.loss_scale))
        limit = self.config.max_grad_norm if self.config.max_grad_norm is not None else math.inf
        norm = float(nn.utils.clip_grad_norm_(self.parameters.values(), limit))
        skipped = self.counters.count(norm, self.config)
        if not skipped:
            self.engine.optimizer.step()
        for parameter in self.parameters.values():
            parameter.grad = None
        return StepResult(norm, rate, skipped)

    def whole(self) -> AbstractContextManager[None]:
        return nullcontext() if self.scope is None else self.scope.whole()

    def state_dict(self) -> dict[str, Any]:
        weights, moments = state.collect(self.engine, self.parameters, self.world.writes)
        return {"weights": weights, "optimizer": moments, "counters": vars(self.counters).copy()}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        state.spread(self.engine, self.parameters, saved["weights"], saved["optimizer"])
        self.counters = Counters(**saved["counters"])
