"""D3S: train on the responses and tokens that carry the gradient, fewer of them early in training."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field

from mmcredit.components import Needs, register
from mmcredit.credit.base import CreditMethod, Step
from mmcredit.credit.tokens import Normalizer, content_order, response_mean, restrict, token_signal, top_pooled
from mmcredit.rollouts import Credit, Rollouts
from mmcredit.statistics.variance_selection import max_variance_subset

if TYPE_CHECKING:
    from torch import Tensor


@register("credit", "d3s")
class D3S(CreditMethod):
    """Dynamic dual-level down-sampling: responses by advantage variance, tokens by |A| times entropy, on a schedule.

    Responses: S* = argmax over subsets S of N responses of Var({A_i : i in S}), the variance about the subset's own
    mean; advantages are not normalised again. `scope: cross` is one pool over the batch, `intra` one per group (the
    paper's D3S-I), `none` leaves the responses to a rollout strategy, which then saves their forward pass too.
    Tokens: of all tokens of S* the K percent with the largest |A_{i,t}| * H_{i,t}, one threshold for the pool.
    Schedule: N and K go linearly from `n_init`, `k_init` to `n_final`, `k_final` over the run; N and K in percent of
    the pool; N is rounded, K rounded up and at least one token.

    Source: arXiv 2509.22115. Put it after a method that gives population-normalised advantages: grpo with ddof 0.
    Differs: the paper's normaliser is not stated; `kept` (default) divides by the kept tokens, `all` by all tokens of
    the selected responses. A_i of a response with token-level advantages is their mean. A batch without any advantage
    is left as it is: its loss is 0 whatever is chosen. Among responses of equal advantage (the rule with binary
    rewards) a hash of their tokens decides, so row order does not; equal keys of tokens go by row, then token order.
    Defaults: ours, the paper's N and K could not be found: 25 to 100 % of responses, 10 to 60 % of tokens.
    Static variants of the paper: D1S is k 100/100 (scope intra), D2S is equal init and final values.
    Passes: none beyond the entropy of the clean pass.
    """

    changes = ("advantages", "loss_mask")

    scope: Literal["cross", "intra", "none"] = Field("cross", description="pool of the selection of responses")
    n_init: float = Field(25.0, gt=0, le=100, description="percent of responses kept at the start")
    n_final: float = Field(100.0, gt=0, le=100, description="percent of responses kept at the end")
    k_init: float = Field(10.0, gt=0, le=100, description="percent of tokens kept at the start")
    k_final: float = Field(60.0, gt=0, le=100, description="percent of tokens kept at the end")
    normalizer: Normalizer = Field("kept", description="what the loss of the selected responses is divided by")

    def needs(self) -> Needs:
        return Needs(signals=("entropy",) if min(self.k_init, self.k_final) < 100 else ())

    def shares(self, progress: float) -> tuple[float, float]:
        """(N, K) in percent at `progress` in [0,1]."""
        n = (1 - progress) * self.n_init + progress * self.n_final
        return n, (1 - progress) * self.k_init + progress * self.k_final

    def __call__(self, credit: Credit, rollouts: Rollouts, step: Step) -> Credit:
        n, k = self.shares(step.progress)
        step.note("n", n)
        step.note("k", k)
        mask = credit.loss_mask
        if not bool((credit.advantages[mask] != 0).any()):
            step.note("batches_without_advantage", 1)
            return credit
        rows = self._responses(credit, rollouts, n)
        step.note("kept_responses", rows.sum())
        credit = restrict(credit, rows[:, None] & mask, "kept")
        if k >= 100:
            return credit
        key = credit.advantages.abs() * token_signal(rollouts, "entropy", mask)
        # 55 % of 100 tokens is 55.00000000000001 in floating point: not 56.
        count = max(1, math.ceil(k * int(credit.loss_mask.sum()) / 100 - 1e-9))
        step.note("kept_tokens", count)
        return restrict(credit, top_pooled(key, credit.loss_mask, count), self.normalizer)

    def _responses(self, credit: Credit, rollouts: Rollouts, n: float) -> Tensor:
        """[B] bool: the responses that are kept. One without tokens in the loss is never in the pool."""
        some = credit.loss_mask.any(1)
        if self.scope == "none":
            return some
        value = response_mean(credit.advantages.double(), credit.loss_mask)
        rows = content_order(rollouts).argsort()
        rows = rows[some[rows]]
        pools = [rows]
        if self.scope == "intra":
            index, groups = rollouts.group_index()
            pools = [rows[index[rows] == g] for g in range(groups)]
        keep = torch.zeros_like(some)
        for pool in pools:
            keep[pool[max_variance_subset(value[pool], round(n * len(pool) / 100))]] = True
        return keep
