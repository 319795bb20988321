"""REINFORCE++: discounted return per token, whitened over the batch."""

from __future__ import annotations

import torch
from pydantic import Field

from mmcredit.components import Needs, register
from mmcredit.credit.base import CreditMethod, Step
from mmcredit.credit.returns import discounted_return
from mmcredit.credit.tokens import old_logprobs, token_signal, within
from mmcredit.credit.whitening import whiten
from mmcredit.rollouts import Credit, Rollouts


@register("credit", "reinforce_pp")
class ReinforcePP(CreditMethod):
    """REINFORCE++: return-to-go with a KL penalty in the reward, whitened over all tokens of the batch.

    rho_t = 1[t last] R_i - beta (log pi_old - log pi_ref)_t;  A_t = sum_{s>=t} gamma^{s-t} rho_s;
    then A <- (A - mean) / sqrt(var + 1e-8), mean and unbiased variance over every sampled token of the batch.

    Source: arXiv 2501.03262; numbers as verl's compute_reinforce_plus_plus_outcome_advantage. Defaults: gamma 1 (both),
    beta 0 (verl's use_kl_in_reward is off).
    Differs from verl: gamma counts sampled tokens only (inserted tokens in between neither stop the return nor discount
    it), and a batch whose returns are all equal is exactly 0. No group baseline is used, so one response per prompt is
    the normal case and not a "group of one". Not combinable with later whitening.
    Passes: none; with beta > 0 one reference forward per rollout batch (signal `ref_logprobs`) and the old log-probs.
    """

    starts = True

    gamma: float = Field(1.0, gt=0, le=1, description="discount per sampled token")
    beta: float = Field(0.0, ge=0, description="weight of the per-token KL penalty in the reward")
    eps: float = Field(1e-8, ge=0, description="added to the variance when whitening")

    def needs(self) -> Needs:
        if self.beta == 0:
            return Needs()
        return Needs(signals=("ref_logprobs",), old_logprobs=True)

    def __call__(self, credit: Credit, rollouts: Rollouts, step: Step) -> Credit:
        mask, dtype = rollouts.mask, rollouts.rewards.dtype
        last = mask & (mask.cumsum(1) == rollouts.lengths[:, None])
        rewards = torch.where(last, rollouts.rewards[:, None], torch.zeros((), dtype=dtype, device=mask.device))
        if self.beta > 0:
            kl = within(old_logprobs(rollouts, self.name), mask) - token_signal(rollouts, "ref_logprobs", mask)
            step.note("kl_in_reward", kl.sum() / mask.sum().clamp(min=1))
            rewards = rewards - self.beta * kl.to(dtype)
        discount = torch.ones_like(rewards).masked_fill(mask, self.gamma)
        return credit.replace(advantages=whiten(discounted_return(rewards, discount), mask, eps=self.eps))
