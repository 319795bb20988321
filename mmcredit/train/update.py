"""One rollout batch turned into optimizer steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from mmcredit.components import Needs
from mmcredit.policy.passes import CLEAN, REFERENCE, Pass, View
from mmcredit.seeds import derive
from mmcredit.signals.plan import merge

if TYPE_CHECKING:
    from torch import Tensor

    from mmcredit.credit import Pipeline
    from mmcredit.objective import Objective
    from mmcredit.policy.policy import Policy
    from mmcredit.policy.prompt import Prompt
    from mmcredit.rollouts import Credit, Rollouts
    from mmcredit.train.local import LocalEngine

# What a regularizer may ask for at update time: name -> (the passes it is read from, how to read it).
UPDATE_PASSES: dict[str, tuple[tuple[Pass, ...], tuple[View, str]]] = {
    "entropy": ((Pass(CLEAN, frozenset({"entropy"})),), (CLEAN, "entropy")),
    "ref_logprobs": ((Pass(REFERENCE, frozenset({"logprobs"})),), (REFERENCE, "logprobs")),
    "ref_kl": (
        (Pass(CLEAN, frozenset({"kl_to:reference"})), Pass(REFERENCE, frozenset())),
        (CLEAN, "kl_to:reference"),
    ),
}


def signals_for_update(needs: Needs) -> tuple[str, ...]:
    """Update-time quantities without gradient that do not change with the policy: computed once, as signals."""
    return tuple(name for name, gradient in needs.passes.items() if name == "ref_logprobs" and not gradient)


class Updater:
    """Runs the optimizer steps of a rollout batch."""

    def __init__(
        self,
        policy: Policy,
        engine: LocalEngine,
        pipeline: Pipeline,
        objective: Objective,
        *,
        mini_batches: int,
        epochs: int,
        token_budget: int,
        temperature: float,
        seed: int,
    ) -> None:
        self.policy, self.engine, self.pipeline, self.objective = policy, engine, pipeline, objective
        self.mini_batches, self.epochs, self.token_budget = mini_batches, epochs, token_budget
        self.temperature, self.seed = temperature, seed
        wanted = objective.needs().passes
        unknown = [name for name in wanted if name not in UPDATE_PASSES]
        if unknown:
            raise ValueError(f"a regularizer asks for {unknown[0]!r} at update time; known: {', '.join(UPDATE_PASSES)}")
        self.from_signals = signals_for_update(objective.needs())
        self.readers = {name: UPDATE_PASSES[name] for name in wanted if name not in self.from_signals}
        self.passes = merge([Pass(CLEAN, frozenset({"logprobs"})), *(p for ps, _ in self.readers.values() for p in ps)])

    @property
    def on_policy(self) -> bool:
        """Whether the first current log-probs are the old ones of every token."""
        return self.mini_batches == 1 and self.epochs == 1

    def split(self, rollouts: Rollouts, step: int, epoch: int) -> list[Tensor]:
        """Row indices of each mini-batch: whole groups, in a seeded order."""
        index, num_groups = rollouts.group_index()
        generator = torch.Generator().manual_seed(derive(self.seed, "mini-batches", step, epoch))
        order = torch.randperm(num_groups, generator=generator)
        if self.mini_batches == 1:
            return [torch.arange(len(rollouts))]
        return [torch.isin(index, part).nonzero().squeeze(1) for part in order.chunk(self.mini_batches)]

    def __call__(
        self,
        prompts: Sequence[Prompt],
        rollouts: Rollouts,
        credit: Credit,
        step: int,
        progress: float,
        advance: Callable[[int], None] | None = None,
    ) -> tuple[dict[str, float], Tensor]:
        """Metrics averaged over the optimizer steps, and the first current log-prob of each token [B,T].

        Rows whose tokens all have zero credit are left out of the forward when no regularizer looks at them: their
        gradient is exactly 0. Their log-prob stays NaN in the second result.
        """
        seen = torch.full(rollouts.tokens.shape, torch.nan, dtype=torch.float32, device=rollouts.tokens.device)
        sums: dict[str, list[float]] = {}
        for epoch in range(self.epochs):
            for rows in self.split(rollouts, step, epoch):
                metrics, logprobs, active = self._mini_batch(
                    prompts, rollouts.select(rows), credit.select(rows), progress, advance
                )
                if epoch == 0:
                    seen[rows[active]] = logprobs[active].float()
                for name, value in metrics.items():
                    sums.setdefault(name, []).append(value)
        return {name: sum(values) / len(values) for name, values in sums.items()}, seen

    def _mini_batch(
        self,
        prompts: Sequence[Prompt],
        rollouts: Rollouts,
        credit: Credit,
        progress: float,
        advance: Callable[[int], None] | None,
    ) -> tuple[dict[str, float], Tensor, Tensor]:
        if self.pipeline.updates_at_update:
            wanted = [Pass(CLEAN, frozenset({"logprobs", "entropy"}))]
            now = self.policy.score(prompts, rollouts, wanted, temperature=self.temperature)[CLEAN]
            credit = self.pipeline.at_update(credit, rollouts, now["logprobs"], now["entropy"])
        weights = self.objective.weights(rollouts, credit)
        active = self._active(credit, weights)
        picked = rollouts.select(active)
        logprobs = torch.zeros(rollouts.tokens.shape, device=rollouts.tokens.device)
        if rollouts.old_logprobs is not None:  # rows left out stay at ratio 1
            logprobs = torch.where(rollouts.mask, rollouts.old_logprobs, logprobs)
        collected: dict[str, Tensor] = {}
        for micro in self.policy.micro_batches(prompts, picked, budget=self.token_budget):
            rows = active[torch.as_tensor(micro.rows, device=active.device)]
            results = self.policy.forward(prompts, rollouts, rows.tolist(), self.passes, temperature=self.temperature)
            part = rollouts.select(rows)
            given = self._given(results, part)
            current = results[CLEAN]["logprobs"]
            out = self.objective(current, part, credit.select(rows), given, weights[rows], progress)
            self.engine.backward(out.loss)
            logprobs[rows] = current.detach().to(logprobs.dtype)
            for name, value in given.items():
                collected.setdefault(name, torch.zeros(rollouts.tokens.shape, device=value.device))[rows] = (
                    value.detach()
                )
            if advance is not None:
                advance(len(rows))
        if advance is not None and len(active) < len(rollouts):
            advance(len(rollouts) - len(active))
        result = self.engine.step()
        self.policy.weights_changed()
        metrics = self._metrics(logprobs, rollouts, credit, collected, weights, progress)
        metrics |= {
            "policy/grad_norm": result.grad_norm,
            "policy/learning_rate": result.learning_rate,
            "policy/skipped_updates": float(result.skipped),
            "policy/active_responses": len(active) / max(1, len(rollouts)),
        }
        return metrics, logprobs, active

    def _active(self, credit: Credit, weights: Tensor) -> Tensor:
        """Rows that can have a gradient."""
        if self.objective.regularizers:
            return (weights != 0).any(1).nonzero().squeeze(1)
        return ((weights != 0) & (credit.advantages != 0)).any(1).nonzero().squeeze(1)

    def _given(self, results: Mapping[View, Mapping[str, Tensor]], part: Rollouts) -> dict[str, Tensor]:
        given = {name: results[view][output] for name, (_, (view, output)) in self.readers.items()}
        return given | {name: part.signal(name) for name in self.from_signals}

    @torch.no_grad()
    def _metrics(
        self,
        logprobs: Tensor,
        rollouts: Rollouts,
        credit: Credit,
        given: Mapping[str, Tensor],
        weights: Tensor,
        progress: float,
    ) -> dict[str, float]:
        """The loss of the whole mini-batch once more, from detached quantities: no metric depends on the split."""
        given = {name: given.get(name, torch.zeros_like(logprobs)) for name in (*self.readers, *self.from_signals)}
        out = self.objective(logprobs, rollouts, credit, given, weights, progress)
        return {f"policy/{name}": value for name, value in out.metrics.items()}
