"""The gradient that a credit gives the model, and its direction against another's, with two gradients in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from mmcredit.policy.passes import CLEAN, Pass

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mmcredit.objective import Objective
    from mmcredit.policy.policy import Policy
    from mmcredit.policy.prompt import Prompt
    from mmcredit.rollouts import Credit, Rollouts


@dataclass(frozen=True)
class Direction:
    """A gradient seen from the reference gradient."""

    cosine: float | None  # None if one of the two is 0
    norm: float  # of this gradient
    reference_norm: float


def accumulate(
    policy: Policy,
    prompts: Sequence[Prompt],
    rollouts: Rollouts,
    credit: Credit,
    objective: Objective,
    *,
    temperature: float,
    budget: int,
    progress: float = 0.0,
) -> None:
    """Add the gradient of the whole batch, as one optimizer mini-batch, to `.grad` of the trained parameters.

    Micro-batches of `budget` tokens; responses whose loss has no gradient are not run. `progress`: share of the run
    that is done, for scheduled ratios.
    """
    weights = objective.weights(rollouts, credit)
    active = ((weights != 0) & (credit.advantages != 0)).any(1).nonzero().squeeze(1)
    wanted = [Pass(CLEAN, frozenset({"logprobs"}))]
    for micro in policy.micro_batches(prompts, rollouts.select(active), budget=budget):
        rows = active[torch.as_tensor(micro.rows, device=active.device)]
        found = policy.forward(prompts, rollouts, rows.tolist(), wanted, temperature=temperature)
        part = rollouts.select(rows)
        out = objective(found[CLEAN]["logprobs"], part, credit.select(rows), {}, weights[rows], progress)
        out.loss.backward()


class Gradients:
    """Gradients of several credits, each compared with the first one given.

    The first is kept (one float32 copy of the trained parameters); each later one lives in `.grad` only until its dot
    products are taken. `.grad` is empty before and after.
    """

    def __init__(self, policy: Policy) -> None:
        self.parameters: list[nn.Parameter] = list(policy.trainable_parameters().values())
        if not self.parameters:
            raise ValueError("the model has no trained parameter; check model.lora and model.freeze_vision")
        self.reference: list[Tensor] | None = None
        self.reference_norm = 0.0

    def compare(self, fill: Callable[[], None]) -> Direction:
        """Call `fill`, which leaves a gradient in `.grad`, and compare it with the first one."""
        self._clear()
        try:
            fill()
            if self.reference is None:
                self.reference = [self._of(p).clone() for p in self.parameters]
                self.reference_norm = self._root(self._dot(r, r) for r in self.reference)
            pairs = list(zip(self.parameters, self.reference, strict=True))
            norm = self._root(self._dot(self._of(p), self._of(p)) for p, _ in pairs)
            dot = sum(self._dot(self._of(p), r) for p, r in pairs)
        finally:
            self._clear()
        sizes = norm * self.reference_norm
        value = max(-1.0, min(1.0, dot / sizes)) if sizes else None
        return Direction(value, norm, self.reference_norm)

    def _of(self, parameter: nn.Parameter) -> Tensor:
        grad = parameter.grad
        return torch.zeros_like(parameter, dtype=torch.float32) if grad is None else grad.detach().float()

    @staticmethod
    def _dot(a: Tensor, b: Tensor) -> float:
        return float((a * b).sum(dtype=torch.float64))

    @staticmethod
    def _root(squares: object) -> float:
        return float(sum(squares)) ** 0.5  # type: ignore[call-overload]

    def _clear(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None
