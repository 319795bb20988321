"""HAPO: token-level group average, entropy-dependent advantages and clip bounds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import Field, PrivateAttr

from mmcredit.components import Needs, register
from mmcredit.credit.base import CreditMethod, Step
from mmcredit.credit.groups import group_sums
from mmcredit.credit.grpo import GRPO
from mmcredit.credit.tokens import log_ratio, token_signal
from mmcredit.rollouts import Credit, Rollouts, broadcast
from mmcredit.statistics.entropy_scale import EntropyScale

if TYPE_CHECKING:
    from torch import Tensor


@register("credit", "hapo")
class HAPO(CreditMethod):
    """Heterogeneous Adaptive Policy Optimization: uncertain and certain tokens are trained differently.

    One signal h in [-1,1] from the entropy H of a token, over the valid tokens of the batch: l = log max(H, floor),
    q = its rho-quantile (nearest rank), s = sqrt(mean (l-q)^2), z = (l-q)/s; h = z/max z above the pivot q, z/|min z|
    below it. Four parts, each switchable:

    A  adaptive temperature: a rollout strategy; it reads q, s and the two scales of the last batch from `state_dict`.
    B  token-level group average (`tlga`): A = (R - mu)/(sigma + eps), mu and population sigma over all *tokens* of the
       group, so the token-mean loss of a group is balanced: its advantages sum to 0. If any |A| >= `max_advantage`,
       the group takes GRPO advantages.
    C  redistribution (`redistribute`, at every mini-batch): outside the neutral zone (1 - low/2, 1 + high/2) of the
       ratio a token with h > 0, inside it one with h <= 0, has its advantage times 1 + beta*h.
    D  asymmetric clip (`adaptive_clip`): h <= 0 widens the lower bound to eps_low*(1 - alpha*h), h > 0 the upper one
       to eps_high*(1 + alpha*h).

    Source: arXiv 2509.16591, eq. 1-13 of v2, and its released code. Use with aggregate token_mean, dual clip 10.
    Differs: q, s and the scales come once from the rollout batch's old-policy entropy (released: per micro-batch of the
    current policy, so they depend on packing). The released normalisation divides negative z by the negative minimum,
    which makes h of certain tokens positive, against the text; `sign: released` keeps that for comparison. B is masked
    (released: padding keeps -mu/sigma, and can set off the fallback). A group of one gets 0. C uses the adaptive bounds
    in the neutral zone where D is on, as the released code does (`zone: base` is the paper's text).
    Defaults: rho .8, alpha 1, beta 1, clip .2/.28 of the paper (scripts: .2/.2).
    Passes: none beyond the entropy of the clean pass.
    """

    starts = True
    zero_for_equal = True
    changes = ("advantages", "clip_low", "clip_high")

    tlga: bool = Field(True, description="part B; off = GRPO advantages (ddof 1)")
    redistribute: bool = Field(True, description="part C")
    adaptive_clip: bool = Field(True, description="part D; off = the objective's own clip")
    sign: Literal["intended", "released"] = Field("intended", description="sign of h below the pivot")
    zone: Literal["adaptive", "base"] = Field("adaptive", description="bounds that make the neutral zone where D is on")
    rho: float = Field(0.8, ge=0, le=1, description="quantile of log entropy that is the pivot")
    alpha: float = Field(1.0, ge=0, description="strength of D")
    beta: float = Field(1.0, ge=0, description="strength of C")
    eps_low: float = Field(0.2, ge=0, lt=1, description="base lower half-width of the clip, in C and D")
    eps_high: float = Field(0.28, ge=0, description="base upper half-width of the clip, in C and D")
    eps: float = Field(1e-6, ge=0, description="added to the standard deviation")
    max_advantage: float = Field(5.0, gt=0, description="|A| of B at which the whole group takes GRPO advantages")
    floor: float = Field(1e-8, gt=0, description="least entropy, before the logarithm; nats")
    _scale: EntropyScale | None = PrivateAttr(None)

    def needs(self) -> Needs:
        entropy = self.redistribute or self.adaptive_clip
        return Needs(signals=("entropy",) if entropy else (), old_logprobs=self.redistribute)

    def __call__(self, credit: Credit, rollouts: Rollouts, step: Step) -> Credit:
        credit = GRPO(ddof=1, eps=self.eps)(credit, rollouts, step)
        if self.tlga:
            advantages, fallback = self._token_group_average(rollouts)
            step.note("fallback_responses", fallback.sum())
            spread = broadcast(advantages, rollouts.mask)
            credit = credit.replace(advantages=torch.where(fallback[:, None], credit.advantages, spread))
        if "entropy" not in rollouts.signals and not (self.redistribute or self.adaptive_clip):
            return credit
        entropy = token_signal(rollouts, "entropy", rollouts.mask)
        if bool(rollouts.mask.any()):
            self._scale = EntropyScale.measure(entropy[rollouts.mask], self.rho, self.floor)
        if self._scale is None:  # no token yet, in this batch or before
            return credit
        for name, value in asdict(self._scale).items():
            step.note(f"entropy_{name}", value)
        if not self.adaptive_clip:
            return credit
        low, high = self._bounds(self._scale.place(entropy, self.sign))
        return credit.replace(clip_low=low, clip_high=high)

    def at_update(self, credit: Credit, rollouts: Rollouts, logprobs: Tensor, entropy: Tensor | None) -> Credit:
        """Part C for one mini-batch; `credit` is what `__call__` gave, these rows.

        Raises ValueError if this instance has seen no batch: the pivot and the scales of its entropies are part of C.
        """
        if not self.redistribute or not bool(rollouts.mask.any()):
            return credit
        if self._scale is None:
            raise ValueError(
                "hapo.at_update has seen no batch: part C needs the entropy scale that the call on the whole rollout "
                "batch measures; call the method (or its Pipeline) on the batch first, or load_state_dict a saved scale"
            )
        mask = credit.loss_mask
        h = self._scale.place(token_signal(rollouts, "entropy", rollouts.mask), self.sign)
        old = logprobs if rollouts.old_logprobs is None else rollouts.old_logprobs
        ratio = log_ratio(logprobs, old, mask).exp()
        flat = torch.zeros_like(h)
        low, high = self._bounds(h if self.adaptive_clip and self.zone == "adaptive" else flat)
        neutral = (ratio > 1 - low / 2) & (ratio < 1 + high / 2)
        return credit.scale(torch.where(neutral == (h <= 0), 1 + self.beta * h, torch.ones_like(h)))

    def _bounds(self, h: Tensor) -> tuple[Tensor, Tensor]:
        return self.eps_low * (1 - self.alpha * h.clamp(max=0)), self.eps_high * (1 + self.alpha * h.clamp(min=0))

    def _token_group_average(self, rollouts: Rollouts) -> tuple[Tensor, Tensor]:
        """([B], [B] bool): the advantage of each response, and whether its group must fall back to GRPO."""
        index, groups = rollouts.group_index()
        count, rewards = rollouts.lengths.double(), rollouts.rewards.double()
        tokens = group_sums(count, index, groups).clamp(min=1)
        centred = rewards - (group_sums(count * rewards, index, groups) / tokens)[index]
        std = (group_sums(count * centred**2, index, groups) / tokens).sqrt()[index]
        some = count > 0
        low = torch.full((groups,), torch.inf, dtype=torch.float64, device=index.device)
        low = low.scatter_reduce(0, index[some], rewards[some], "amin")
        # A constant group is found by comparison: a mean of equal floats may differ from them in the last bit.
        mixed = torch.zeros(groups, dtype=torch.bool, device=index.device)
        mixed[index[some & (rewards > low[index])]] = True
        advantages = torch.where(some & mixed[index], centred / (std + self.eps), torch.zeros_like(centred))
        over = torch.zeros_like(mixed)
        over[index[advantages.abs() >= self.max_advantage]] = True
        return advantages.to(rollouts.rewards.dtype), over[index]

    def state_dict(self) -> dict[str, Any]:
        """q, s and the scales of the last batch: what the adaptive temperature needs."""
        return asdict(self._scale) if self._scale else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._scale = EntropyScale(**state) if state else None
