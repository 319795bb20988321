"""D3S, the responses: those whose advantages vary most are kept, before anything is spent on the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from pydantic import Field

from mmcredit.components import build, register
from mmcredit.rollout.strategies.base import Rest, Run, Stage, Strategy
from mmcredit.rollout.strategies.outcomes import advantages
from mmcredit.statistics.variance_selection import max_variance_subset

if TYPE_CHECKING:
    from torch import Tensor

    from mmcredit.rollout.batch import Ask, Batch
    from mmcredit.rollout.volume import Volume


@register("strategy", "d3s_selection")
class D3SSelection(Strategy):
    """Dynamic dual-level down-sampling, its sample level: max-variance selection ahead of the old-log-prob pass.

    A_i = (R_i - mean)/std over all G responses of a group, population std. From the pool keep the N responses that
    maximise Var({A_i}), the variance about their own mean: always some of the largest and some of the smallest A.
    `scope: cross` has one pool, the batch; `intra` one per group. N in percent of the pool goes linearly from `n_init`
    to `n_final` over the run and is rounded.

    A response left out loses its `mask`, as a filtered one does: it keeps its reward, so that credit is computed on
    complete groups and is not normalised again on the subset (as PODS does), but it is not scored, not trained on, and
    counts in no denominator. Use it with credit `[grpo: {ddof: 0}, d3s: {scope: none}]`, the token level.

    Source: arXiv 2509.22115, sample level and step 3 of the algorithm (selection before the old-policy forward).
    Differs: ties among responses of equal advantage, the rule with binary rewards, are broken by a seeded draw. A batch
    whose groups are all constant is left whole: its loss is 0 whatever is chosen. Responses without `mask` (overlong
    filtering inside this layer) are in the group statistics but not in the pool.
    Defaults: ours, the paper's N could not be found: 25 to 100 percent.
    Cost: none; saves forward and backward of what is left out. Noted: kept responses, variance kept.
    """

    plain_first: ClassVar[bool] = True

    scope: Literal["cross", "intra"] = Field("cross", description="pool: the whole batch, or each group")
    n_init: float = Field(25.0, gt=0, le=100, description="percent of the pool kept at the start")
    n_final: float = Field(100.0, gt=0, le=100, description="percent of the pool kept at the end")

    def check(self, run: Run) -> None:
        for entry in run.credit:
            method = build("credit", entry)
            if method.name == "d3s" and method.scope != "none":  # type: ignore[attr-defined]
                raise ValueError(
                    f"credit 'd3s' with scope {method.scope!r} would select a second time from what the strategy "  # type: ignore[attr-defined]
                    "'d3s_selection' has kept; write {d3s: {scope: none}}, or leave the strategy out"
                )

    def volume(self, inner: Volume, run: Run) -> Volume:
        return inner.noting(f"{self.name}: {self.n_init:g} to {self.n_final:g} % of the responses are trained on")

    def __call__(self, asks: Sequence[Ask], rest: Rest, stage: Stage) -> Batch:
        batch = rest(asks)
        rollouts = batch.rollouts
        values = advantages(rollouts.rewards, rollouts.group, len(batch.prompts))
        percent = (1 - stage.progress) * self.n_init + stage.progress * self.n_final
        keep = self.choose(values, rollouts.mask.any(1), rollouts.group, percent, stage.seeds("d3s", count=1)[0])
        stage.note("d3s_selection/kept", float(keep.sum()))
        stage.note("d3s_selection/variance", float(values[keep].var(correction=0)) if bool(keep.any()) else 0.0)
        return batch.replace_rollouts(rollouts.replace(mask=rollouts.mask & keep[:, None]))

    def choose(self, values: Tensor, pool: Tensor, group: Tensor, percent: float, seed: int) -> Tensor:
        """[B] bool: of the responses in `pool` [B] bool, `percent` of those with the most varying `values` [B]."""
        if not bool((values[pool] != 0).any()):
            return pool
        order = torch.randperm(len(values), generator=torch.Generator().manual_seed(seed)).to(values.device)
        order = order[pool[order]]
        pools = [order] if self.scope == "cross" else [order[group[order] == g] for g in torch.unique(group[order])]
        keep = torch.zeros_like(pool)
        for rows in pools:
            keep[rows[max_variance_subset(values[rows], round(percent * len(rows) / 100))]] = True
        return keep
