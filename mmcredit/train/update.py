"""One rollout batch turned into optimizer steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import torch

from mmcredit.components import Needs
from mmcredit.policy.passes import CLEAN, MASKED, REFERENCE, Pass, View
from mmcredit.seeds import derive
from mmcredit.signals.plan import merge
from mmcredit.train.view_passes import VIEW_PASSES, Part, ViewPasses

if TYPE_CHECKING:
    from torch import Tensor

    from mmcredit.credit import Pipeline
    from mmcredit.objective import Objective
    from mmcredit.policy.policy import Policy
    from mmcredit.policy.prompt import Prompt
    from mmcredit.rollouts import Credit, Rollouts
    from mmcredit.train.engine import TrainingEngine

# What a regularizer may ask for at update time: name -> (the passes it is read from, how to read it).
UPDATE_PASSES: dict[str, tuple[tuple[Pass, ...], tuple[View, str]]] = {
    "entropy": ((Pass(CLEAN, frozenset({"entropy"})),), (CLEAN, "entropy")),
    "ref_logprobs": ((Pass(REFERENCE, frozenset({"logprobs"})),), (REFERENCE, "logprobs")),
    "ref_kl": (
        (Pass(CLEAN, frozenset({"kl_to:reference"})), Pass(REFERENCE, frozenset())),
        (CLEAN, "kl_to:reference"),
    ),
    "masked_logprobs": ((Pass(MASKED, frozenset({"logprobs"})),), (MASKED, "logprobs")),
    "masked_entropy": ((Pass(MASKED, frozenset({"entropy"})),), (MASKED, "entropy")),
}
# Of these, what is computed once per rollout batch instead, as a signal, where no gradient is wanted.
_SIGNALS = ("ref_logprobs", "masked_logprobs")


def teacher_kl(k: int | None, weights: Literal["policy", "reference"]) -> tuple[tuple[Pass, ...], tuple[View, str]]:
    """The entry of `UPDATE_PASSES` for KL(policy || hinted teacher), over the teacher's `k` most likely tokens."""
    output = ("kl_to:teacher" if k is None else "topk_kl_to:teacher") + ("@reference" if weights == "reference" else "")
    output += "" if k is None else f":{k}"
    return (Pass(CLEAN, frozenset({output})), Pass(View("teacher", weights=weights), frozenset())), (CLEAN, output)


def signals_for_update(needs: Needs) -> tuple[str, ...]:
    """Update-time quantities that need no gradient: computed once, by the old policy or the reference, as signals."""
    return tuple(name for name, gradient in needs.passes.items() if name in _SIGNALS and not gradient)


def update_passes(
    objective: Objective,
) -> tuple[dict[str, tuple[tuple[Pass, ...], tuple[View, str]]], tuple[Pass, ...]]:
    """How each quantity that the regularizers want at update time is read, and the passes of a micro-batch.

    Raises ValueError for a quantity that nothing computes.
    """
    wanted, settings = objective.needs().passes, objective.needs().settings
    known = (*UPDATE_PASSES, *VIEW_PASSES, "teacher_kl")
    if unknown := [name for name in wanted if name not in known]:
        raise ValueError(f"a regularizer asks for {unknown[0]!r} at update time; known: {', '.join(known)}")
    before = signals_for_update(objective.needs())
    readers = {name: UPDATE_PASSES[name] for name in wanted if name in UPDATE_PASSES and name not in before}
    if "teacher_kl" in wanted:
        readers["teacher_kl"] = teacher_kl(**settings["teacher_kl"])
    clean = Pass(CLEAN, frozenset({"logprobs"}))
    return readers, merge([clean, *(p for passes, _ in readers.values() for p in passes)])


class Updater:
    """Runs the optimizer steps of a rollout batch."""

    def __init__(
        self,
        policy: Policy,
        engine: TrainingEngine,
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
        self.from_signals = signals_for_update(objective.needs())
        self.readers, self.passes = update_passes(objective)
        # The graphs of all these passes are in memory at once.
        self.budget = max(1, token_budget // sum(not p.view.frozen for p in self.passes))
        self.views = ViewPasses(policy, engine, objective, token_budget=token_budget, temperature=temperature)

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
            for number, rows in enumerate(self.split(rollouts, step, epoch)):
                generator = torch.Generator().manual_seed(derive(self.seed, "regularizers", step, epoch, number))
                metrics, logprobs, active = self._mini_batch(
                    prompts, rollouts.select(rows), credit.select(rows), progress, generator, advance
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
        generator: torch.Generator,
        advance: Callable[[int], None] | None,
    ) -> tuple[dict[str, float], Tensor, Tensor]:
        if self.pipeline.updates_at_update:
            wanted = [Pass(CLEAN, frozenset({"logprobs", "entropy"}))]
            now = self.policy.score(prompts, rollouts, wanted, temperature=self.temperature)[CLEAN]
            credit = self.pipeline.at_update(credit, rollouts, now["logprobs"], now["entropy"])
        weights = self.objective.weights(rollouts, credit)
        prepared = [dict(own) for own in self.objective.prepare(rollouts, credit, weights, progress, generator)]
        whole = Part(rollouts, credit, weights, prepared, progress)
        views = self.views.open(prompts, whole) if self.views else None
        active = self._active(whole)
        picked = rollouts.select(active)
        logprobs = torch.zeros(rollouts.tokens.shape, device=rollouts.tokens.device)
        if rollouts.old_logprobs is not None:  # rows left out stay at ratio 1
            logprobs = torch.where(rollouts.mask, rollouts.old_logprobs, logprobs)
        own = torch.zeros_like(logprobs)
        collected = {name: torch.zeros_like(logprobs) for name in (*self.readers, *self.from_signals)}
        world, told = self.policy.world, 0
        shares = self.policy.own_micro_batches(prompts, picked, budget=self.budget, in_step=self.engine.in_step)
        for micro, counts in shares:
            rows = active[torch.as_tensor(micro.rows, device=active.device)]
            results = self.policy.forward(prompts, rollouts, rows.tolist(), self.passes, temperature=self.temperature)
            part = whole.select(rows)
            given = self._given(results, part.rollouts)
            current = results[CLEAN]["logprobs"]
            viewed = {} if views is None else views.given(rows, current)
            out = self.objective(
                current,
                part.rollouts,
                part.credit,
                given | viewed,
                part.weights,
                progress,
                part.prepared,
                () if views is None else views.without,
            )
            self.engine.backward(out.loss if counts else 0 * out.loss)
            if not counts:
                continue
            if views is not None:
                views.keep(rows)
            own[rows] = current.detach().to(own.dtype)
            for name, value in given.items():
                collected[name][rows] = value.detach()
            if advance is not None:
                advance(len(rows))
                told += len(rows)
        if advance is not None and told < len(rollouts):  # rows without gradient, and those of other ranks
            advance(len(rollouts) - told)
        world.total(own)
        world.totals(collected)
        logprobs[active] = own[active]
        if views is not None:
            views.backward(logprobs)
            collected |= views.whole(logprobs)
        result = self.engine.step()
        self.policy.weights_changed()
        metrics = self._metrics(logprobs, whole, collected)
        metrics |= {
            "policy/grad_norm": result.grad_norm,
            "policy/learning_rate": result.learning_rate,
            "policy/skipped_updates": float(result.skipped),
            "policy/active_responses": len(active) / max(1, len(rollouts)),
        }
        return metrics, logprobs, active

    @staticmethod
    def _active(part: Part) -> Tensor:
        """Rows that can have a gradient."""
        active = ((part.weights != 0) & (part.credit.advantages != 0)).any(1)
        for own in part.prepared:
            active = active | own["rows"]
        return active.nonzero().squeeze(1)

    def _given(self, results: Mapping[View, Mapping[str, Tensor]], part: Rollouts) -> dict[str, Tensor]:
        given = {name: results[view][output] for name, (_, (view, output)) in self.readers.items()}
        return given | {name: part.signal(name) for name in self.from_signals}

    @torch.no_grad()
    def _metrics(self, logprobs: Tensor, part: Part, given: Mapping[str, Tensor]) -> dict[str, float]:
        """The loss of the whole mini-batch once more, from detached quantities: no metric depends on the split."""
        names = (*self.readers, *self.from_signals)
        given = {name: torch.zeros_like(logprobs) for name in names} | dict(given)
        out = self.objective(
            logprobs, part.rollouts, part.credit, given, part.weights, part.progress, prepared=part.prepared
        )
        return {f"policy/{name}": value for name, value in out.metrics.items()}
