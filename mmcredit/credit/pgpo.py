"""PGPO: tokens that depend on the image bear more of the credit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field

from mmcredit.components import Needs, register
from mmcredit.credit.base import CreditMethod, Step
from mmcredit.credit.tokens import has_media, k3, log_ratio, old_logprobs, response_range, within
from mmcredit.rollouts import Credit, Rollouts

if TYPE_CHECKING:
    from torch import Tensor


@register("credit", "pgpo")
class PGPO(CreditMethod):
    """Perception-grounded policy optimization: advantages follow the token's visual dependency, mass conserved.

    S_t estimates KL(pi(.|s_t, I) || pi(.|s_t)), the second with every visual token hidden from attention. Per response:
      I = min-max of log(1 + S_t) over its tokens (eps in the denominator)
      w = I/(tau + eps) where I < tau, else 1 + beta*(I - tau)/(1 - tau + eps);  w <- max(w, floor)
      w <- w * n / sum w over its n tokens, so the weights of a response sum to n;  A <- A*w
    Estimators, with d = log pi_blind - log pi_seen of the sampled token clamped to +-20: `k3` e^d - d - 1 (paper),
    `k1abs` |d|, `k2` d^2/2, all capped at `s_max`; `full` is the exact KL over the vocabulary.

    Source: arXiv 2604.01840, eq. 1 and 4-8. No code was released; the cap and eps are those of a public
    re-implementation. Scored once per rollout batch by the old policy. Weights are 1 for a response without media, with
    one token, with a range of log(1 + S) of at most `min_range`, or with a log-prob that is not finite (counted).
    Variants: `threshold: quantile` takes the value at rank floor(n*tau) of I for tau; with floor .1 and mass none it is
    the authors' development snapshot. `mass: per_batch` conserves the sum over all weighted responses. `sign:
    positive_only` leaves negative advantages alone. At tau exactly 0 the least dependent token takes the upper branch,
    weight 1 and not 0; tau 0 with beta 0 is GRPO, bit for bit.
    Defaults: tau .4, beta 2 (paper), min_range 1e-6; in bf16 the noise of two kernels alone gives S of 5e-5, use 1e-3.
    Passes: one blind pass, without vision tower or gradient, for prompts with media.
    """

    tau: float = Field(0.4, ge=0, le=1, description="threshold on the min-max score")
    beta: float = Field(2.0, ge=0, description="boost of the most dependent token")
    tvd_estimator: Literal["k3", "k1abs", "k2", "full"] = Field("k3", description="estimate of the visual dependency")
    mass: Literal["per_response", "per_batch", "none"] = Field("per_response", description="sum that weights conserve")
    sign: Literal["both", "positive_only"] = Field("both", description="advantages that are weighed")
    threshold: Literal["absolute", "quantile"] = Field("absolute", description="tau as a score, or as a quantile of it")
    floor: float = Field(0.0, ge=0, lt=1, description="least weight before the mass is restored")
    min_range: float = Field(1e-6, ge=0, description="range of log(1 + S) up to which a response counts as constant")
    s_max: float = Field(10.0, gt=0, description="cap of the sampled estimates of S")
    eps: float = Field(1e-8, gt=0, description="in the denominators")

    def needs(self) -> Needs:
        if self.tvd_estimator == "full":
            return Needs(signals=("visual_kl",))
        return Needs(signals=("blind_logprobs",), old_logprobs=True)

    def __call__(self, credit: Credit, rollouts: Rollouts, step: Step) -> Credit:
        mask = credit.loss_mask
        seen = has_media(rollouts)
        dependency = self._dependency(rollouts, mask & seen[:, None])
        broken = ~torch.isfinite(dependency).all(1)
        step.note("responses_not_finite", broken.sum())
        step.note("responses_without_media", (~seen).sum())
        mask_used = mask & (seen & ~broken)[:, None]
        weights, boosted = self._weights(within(dependency, mask_used), mask_used)
        self._report(step, within(dependency, mask_used), weights, boosted, mask_used, credit.advantages)
        if self.sign == "positive_only":
            weights = torch.where(credit.advantages > 0, weights, torch.ones_like(weights))
        return credit.scale(weights)

    def _dependency(self, rollouts: Rollouts, mask: Tensor) -> Tensor:
        """[B,T]: S, 0 outside the mask."""
        name = "visual_kl" if self.tvd_estimator == "full" else "blind_logprobs"
        signal = rollouts.signal(name)
        if signal.shape != mask.shape:
            raise ValueError(f"signal {name!r} must have shape {list(mask.shape)}, got {list(signal.shape)}")
        signal = signal.to(rollouts.rewards.dtype)
        if self.tvd_estimator == "full":
            return within(signal, mask).clamp(min=0)  # a sum of rounded terms may fall below 0 by a hair
        d = log_ratio(signal, old_logprobs(rollouts, self.name), mask)
        estimate = k3(d) if self.tvd_estimator == "k3" else d.abs() if self.tvd_estimator == "k1abs" else d**2 / 2
        return estimate.clamp(0, self.s_max)

    def _weights(self, dependency: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """[B,T] weights, 1 wherever nothing is weighed, and [B,T] bool: the upper branch was taken."""
        compressed = torch.log1p(dependency)
        low, high = response_range(compressed, mask)
        spread = high - low
        varied = (spread > self.min_range)[:, None] & mask
        score = within((compressed - low[:, None]) / (spread[:, None] + self.eps), varied)
        tau: float | Tensor = self.tau
        if self.threshold == "quantile":
            length = varied.sum(1)
            rank = torch.minimum((length.double() * self.tau + 1e-9).long(), length - 1).clamp(min=0)
            tau = torch.where(varied, score, torch.inf).sort(1).values.gather(1, rank[:, None])
            tau = torch.where(torch.isfinite(tau), tau, torch.zeros_like(tau))
        upper = varied & (score >= tau)
        raw = torch.where(upper, 1 + self.beta * (score - tau) / (1 - tau + self.eps), score / (tau + self.eps))
        raw = within(raw.clamp(min=self.floor), varied)
        if self.mass == "per_response":
            total = raw.sum(1, keepdim=True)
            raw = raw * varied.sum(1, keepdim=True) / torch.where(total > 0, total, torch.ones_like(total))
        elif self.mass == "per_batch":
            raw = raw * varied.sum() / raw.sum().clamp(min=self.eps)
        return torch.where(varied, raw, torch.ones_like(raw)), upper

    def _report(self, step: Step, s: Tensor, weights: Tensor, upper: Tensor, mask: Tensor, advantages: Tensor) -> None:
        count = mask.sum().clamp(min=1)
        used = weights[mask]
        step.note("dependency_mean", s.sum() / count)
        step.note("dependency_max", s.max() if s.numel() else 0.0)
        for side, chosen in (("positive", mask & (advantages > 0)), ("negative", mask & (advantages < 0))):
            step.note(f"dependency_mean_{side}", within(s, chosen).sum() / chosen.sum().clamp(min=1))
        step.note("boosted_share", upper.sum() / count)
        step.note("muted_share", (used < 0.1).sum() / count)  # weight below .1
        step.note("weight_max", used.max() if len(used) else 1.0)
        step.note("effective_tokens", used.sum() ** 2 / used.square().sum().clamp(min=self.eps))
