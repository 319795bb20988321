"""ERPO: entropy-gated outcome plus bucket-normalised progress against the reference."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field

from mmcredit.components import Needs, register
from mmcredit.credit.base import CreditMethod, Step
from mmcredit.credit.groups import constant_groups, group_sizes, normalize, token_moments
from mmcredit.credit.tokens import old_logprobs, token_signal, within
from mmcredit.credit.whitening import whiten
from mmcredit.rollouts import Credit, Rollouts, broadcast

if TYPE_CHECKING:
    from torch import Tensor


@register("credit", "erpo")
class ERPO(CreditMethod):
    """Entropy-Regulated Policy Optimization: a gate that opens on uncertain tokens, and a progress signal whose sign is
    tied to the outcome.

    Outcome A_i = (R_i - mean_g)/(std_g + 1e-6).  Gate W = sigmoid(gamma (H - mean_g H)/(std_g H + 1e-8)), statistics
    over all tokens of the group (population).  Progress s = beta (log pi_old - log pi_ref), standardised inside each of
    k buckets of a group to s~.  Psi = W sign(A_i) s~.  Final, by `mode`: gated_sum W A_i + eta Psi; sum A_i + eta Psi;
    gated_mean1 (W L_i / sum_t W) A_i + eta Psi.

    Source: arXiv 2603.28204. No code was released and the paper's body was not at hand: gate and Psi (eqs. 7, 8, 10)
    follow digests; gamma 5, eta 0.2, beta 0.1 a third party's reimplementation; k 10, `bucket: cum_entropy`,
    `constant_groups: anchor` and gated_sum the successor EP-GRPO (arXiv 2605.04960). All defaults are provisional.
    Differs: bucket deviations are floored at beta * floor, because policy and reference differ by rounding at the start
    of a run and a z-score would turn rounding into signal. beta then cancels; it stays for the name.
    `sum` with eta 0 is GRPO, bit for bit. In gated_sum a constant entropy halves the outcome (W = 0.5).
    A group of one is 0. Constant groups: `zero`, or `anchor`: direction sign(R_i - threshold).
    Passes: one reference forward per rollout batch (`ref_logprobs`); entropy comes with the old-log-prob pass.
    """

    starts = True
    zero_for_equal = True

    gamma: float = Field(5.0, ge=0, description="steepness of the entropy gate; 5 is nearly a hard gate at the mean")
    eta: float = Field(0.2, ge=0, description="weight of the progress term")
    beta: float = Field(0.1, gt=0, description="scale of the implicit progress")
    k: int = Field(10, ge=1, description="buckets per response")
    bucket: Literal["position", "cum_entropy"] = Field("position", description="what a bucket is a share of")
    mode: Literal["gated_sum", "sum", "gated_mean1"] = Field("gated_sum", description="how the terms are put together")
    constant_groups: Literal["zero", "anchor"] = Field("zero", description="progress term of a constant group")
    threshold: float = Field(0.5, description="reward above which `anchor` counts a response as right")
    floor: float = Field(1e-4, ge=0, description="least deviation of log pi_old - log pi_ref in a bucket, nats")
    whiten: bool = Field(False, description="whiten the result over the batch")

    def needs(self) -> Needs:
        return Needs(signals=("entropy", "ref_logprobs"), old_logprobs=True)

    def __call__(self, credit: Credit, rollouts: Rollouts, step: Step) -> Credit:
        index, num_groups = rollouts.group_index()
        mask, rewards = rollouts.mask, rollouts.rewards
        outcome = normalize(rewards, index, num_groups)
        entropy = token_signal(rollouts, "entropy", mask).double()
        group = index[:, None].expand_as(mask)
        mean, std = token_moments(entropy, mask, group, num_groups)
        gate = torch.sigmoid(self.gamma * (entropy - mean[group]) / (std[group] + 1e-8))
        old = within(old_logprobs(rollouts, self.name), mask).double()
        progress = self.beta * (old - token_signal(rollouts, "ref_logprobs", mask).double())
        segment = group * self.k + self._buckets(mask, entropy)
        mean, std = token_moments(progress, mask, segment, num_groups * self.k)
        std = std.clamp(min=self.beta * self.floor)
        standard = (progress - mean[segment]) / (std[segment] + 1e-8)
        signed = gate * self._direction(rewards, outcome, index, num_groups)[:, None] * standard
        weight = gate
        if self.mode == "gated_mean1":
            total = within(gate, mask).sum(1, keepdim=True)
            weight = gate * rollouts.lengths[:, None] / torch.where(total > 0, total, 1.0)
        elif self.mode == "sum":
            weight = torch.ones_like(gate)
        step.note("gate_mean", within(gate, mask).sum() / mask.sum().clamp(min=1))
        dtype = rewards.dtype
        advantages = broadcast(outcome, mask) * weight.to(dtype) + self.eta * signed.to(dtype)
        advantages = torch.where(mask, advantages, torch.zeros_like(advantages))
        if self.whiten:
            compared = mask & (group_sizes(index, num_groups)[index] > 1)[:, None]
            advantages = whiten(advantages, compared)
        return credit.replace(advantages=advantages)

    def _buckets(self, mask: Tensor, entropy: Tensor) -> Tensor:
        """[B,T] int64 bucket 0..k-1 of each token: its share of the response's tokens, or of its entropy."""
        if self.bucket == "position":
            number = (mask.cumsum(1) - 1).clamp(min=0)
            return (self.k * number // mask.sum(1, keepdim=True).clamp(min=1)).clamp(max=self.k - 1)
        running = within(entropy, mask).cumsum(1)
        total = running[:, -1:]
        share = torch.where(total > 0, running / torch.where(total > 0, total, 1.0), 0.0)
        return (self.k * share).long().clamp(0, self.k - 1)

    def _direction(self, rewards: Tensor, outcome: Tensor, index: Tensor, num_groups: int) -> Tensor:
        """[B] f64 in {-1, 0, 1}: the sign that a rise of the log-prob over the reference is worth."""
        direction = outcome.sign()
        if self.constant_groups == "anchor":
            anchored = constant_groups(rewards, index, num_groups) & (group_sizes(index, num_groups) > 1)
            direction = torch.where(anchored[index], (rewards - self.threshold).sign(), direction)
        return direction.double()
