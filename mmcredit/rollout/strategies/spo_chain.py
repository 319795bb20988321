"""SPO-chain: fresh continuations from the uncertain points of every response, for the values there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from pydantic import Field

from mmcredit.components import register
from mmcredit.rollout.strategies.base import Rest, Run, Stage, Strategy
from mmcredit.rollout.strategies.continuations import State, monte_carlo
from mmcredit.rollout.volume import chain_tokens

if TYPE_CHECKING:
    from torch import Tensor

    from mmcredit.rollout.batch import Ask, Batch
    from mmcredit.rollout.volume import Volume

UNUSED = -2  # boundary_index of an empty slot


@register("strategy", "spo_chain")
class SPOChainContinuations(Strategy):
    """Monte-Carlo values inside responses: the signals of credit method `spo_chain`.

    Cut candidates of a response are its sampled tokens t with pi_t < rho; every c-th is kept, beginning with the
    first. The boundary of a kept one is the state before it, k = t - 1 (-1 = the prompt), and
    V(k) = mean reward of N continuations from y_0 .. y_k, sampled as the run samples, within what is left of
    `max_new_tokens`. The end of a response needs none: it is worth its reward. `cut: fixed` puts the boundaries before
    every c-th sampled token, certain or not.

    Gives `boundary_index` [B,S] int64 (-2 = unused slot) and `boundary_value` [B,S].
    Source: arXiv 2505.23564, section SPO-chain; code AIFrameResearch/SPO@b9fc6a2, of which c = 5, N = 9, rho = 0.9 and
    the reward 0 of what the length limit stopped are.
    Differs: prefixes are token ids throughout (the code tokenises their text anew). pi_t is the sampler's own
    log-prob, at the sampling temperature; rows without one (sampled from another image) are scored by one more pass.
    Use the same rho as the credit method. `max_boundaries` bounds a response's cost by widening its c, which is
    counted. `prompt_value: group` takes the mean reward of the prompt's responses in place of N more rollouts; a
    response is then part of its own baseline. Rewards that a strategy changes afterwards (length shaping) are not
    seen by the continuations.
    An empty response has no boundary; one that the limit stopped has, and `unfinished` is its reward as well as that
    of a continuation that was stopped (null: both as judged).
    Composes: give it the first place in `rollout.strategies`, and selection inside it spares rollouts.
    Cost: distinct states x N partial rollouts. Equal prefixes of a prompt are sampled from once; prompt and prefix are
    read once for all continuations of a state. Counted: boundaries, states, responses, tokens.
    """

    gives: ClassVar[tuple[str, ...]] = ("boundary_index", "boundary_value")

    rho: float = Field(0.9, gt=0, le=1, description="probability below which a token is a cut candidate")
    interval: int = Field(5, ge=1, description="c: every c-th candidate is a boundary")
    samples: int = Field(9, ge=1, description="N: continuations per distinct state")
    cut: Literal["uncertain", "fixed"] = Field("uncertain", description="candidates: uncertain tokens, or all tokens")
    max_boundaries: int | None = Field(None, ge=1, description="boundaries per response; none = no bound")
    prompt_value: Literal["rollouts", "group"] = Field("rollouts", description="how the prompt itself is valued")
    unfinished: float | None = Field(
        0.0, allow_inf_nan=False, description="reward of what the length limit stopped; null = as judged"
    )

    def check(self, run: Run) -> None:
        if run.rollout.sampling.min_new_tokens:
            raise ValueError(
                f"rollout.sampling.min_new_tokens is {run.rollout.sampling.min_new_tokens}, but continuations of "
                "strategy 'spo_chain' would count it from their prefix on; set it to 0"
            )

    def volume(self, inner: Volume, run: Run) -> Volume:
        states, tokens = chain_tokens(inner.row_tokens, self.interval, self.max_boundaries)
        most = inner.rows * states * self.samples
        line = (
            f"{self.name}: {self.samples} continuations from each of up to {states} boundaries of a response "
            f"(interval {self.interval}; max_boundaries lowers it)"
        )
        return inner.more(0, most, inner.rows * tokens * self.samples, line)

    def __call__(self, asks: Sequence[Ask], rest: Rest, stage: Stage) -> Batch:
        batch = rest(asks)
        if self.unfinished is not None:
            rewards = torch.where(batch.rollouts.truncated, self.unfinished, batch.rollouts.rewards)
            batch = batch.replace_rollouts(batch.rollouts.replace(rewards=rewards))
        states, widened = self._states(batch, stage)
        own = self._group_values(batch, stage) if self.prompt_value == "group" else {}
        # In order of appearance, so that nothing depends on how a set is ordered.
        todo = list(dict.fromkeys(s for row in states for _, s in row if s not in own))
        found = monte_carlo(todo, batch.prompts, batch.samples, self.samples, self.unfinished, self.name, stage)
        values = own | dict(zip(todo, found.values, strict=True))
        stage.spend(
            self.name,
            boundaries=sum(len(row) for row in states),
            states=len(todo),
            responses=found.responses,
            tokens=found.tokens,
            unfinished=found.unfinished,
            widened=widened,
        )
        slots = max([1, *(len(row) for row in states)])
        index = torch.full((len(batch), slots), UNUSED, dtype=torch.int64)
        value = torch.zeros(len(batch), slots)
        for i, row in enumerate(states):
            index[i, : len(row)] = torch.tensor([k for k, _ in row], dtype=torch.int64)
            value[i, : len(row)] = torch.tensor([values[s] for _, s in row])
        device = batch.rollouts.tokens.device
        signals = {"boundary_index": index.to(device), "boundary_value": value.to(device)}
        return batch.replace_rollouts(batch.rollouts.with_signals(signals))

    def _states(self, batch: Batch, stage: Stage) -> tuple[list[list[tuple[int, State]]], int]:
        """Per response its boundaries as (k, state), and how many responses had their interval widened."""
        rollouts = batch.rollouts
        candidates = rollouts.mask
        if self.cut == "uncertain":
            candidates = candidates & (self._logprobs(batch, stage).double().exp() < self.rho)
        before = (rollouts.mask.cumsum(1) - rollouts.mask.long()).tolist()  # sampled tokens before each token
        tokens, groups = rollouts.tokens.tolist(), rollouts.group.tolist()
        found, widened = [], 0
        for i, row in enumerate(candidates.tolist()):
            places = [t for t, candidate in enumerate(row) if candidate]
            interval = self.interval
            if self.max_boundaries is not None and len(places) > interval * self.max_boundaries:
                interval = -(-len(places) // self.max_boundaries)
                widened += 1
            limit = stage.sampling.max_new_tokens
            found.append(
                [
                    (t - 1, State(groups[i], tuple(tokens[i][:t]), max(1, limit - before[i][t])))
                    for t in places[::interval]
                ]
            )
        return found, widened

    def _logprobs(self, batch: Batch, stage: Stage) -> Tensor:
        """[B,T] log-prob of each sampled token under the policy: the sampler's, or scored where it has none."""
        rollouts = batch.rollouts
        known = rollouts.sampler_logprobs
        if known is None:
            known = torch.full(rollouts.tokens.shape, torch.nan, device=rollouts.tokens.device)
        missing = (rollouts.mask & ~torch.isfinite(known)).any(1).nonzero()[:, 0]
        if not len(missing):
            return known
        temperature = stage.sampling.temperature
        scored = stage.measure(self.name, batch.prompts, rollouts.select(missing), ["logprobs"], temperature)
        stage.spend(self.name, scored=len(missing))
        return known.index_copy(0, missing, scored["logprobs"].to(known.dtype))

    def _group_values(self, batch: Batch, stage: Stage) -> dict[State, float]:
        """Mean reward of each prompt's responses, under the state of the prompt."""
        members: dict[int, list[float]] = {}
        for group, reward in zip(batch.rollouts.group.tolist(), batch.rollouts.rewards.tolist(), strict=True):
            members.setdefault(group, []).append(reward)
        limit = stage.sampling.max_new_tokens
        return {State(group, (), limit): sum(found) / len(found) for group, found in members.items()}
