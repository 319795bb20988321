"""R3: graded rewards for groups without a success, damped advantages for groups that were repaired."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field

from mmcredit.components import Needs, register
from mmcredit.credit.base import CreditMethod, Step
from mmcredit.credit.groups import center, group_std
from mmcredit.credit.tokens import response_mean, token_signal
from mmcredit.rollouts import Credit, Rollouts, broadcast

if TYPE_CHECKING:
    from torch import Tensor


@register("credit", "r3")
class R3(CreditMethod):
    """Replay, reflection and ranking rewards: the credit part (SERR, and the statistics of CCR).

    A_i = (R_i - mean_U R)/(alpha*std_U R + eps) over U, the fresh responses of a prompt and the replayed ones with it;
    population std. `alpha` damps only groups that were repaired (ranked by SERR or joined by a replayed response);
    others are GRPO with ddof 0, bit for bit.

    SERR, structural-entropy ranking reward, for the N failed responses of a group without a fresh success:
      k_i = max(1, floor(p*L_i)); Epeak_i = mean of its k_i largest token entropies; Eglob_i = its mean token entropy
      i dominates j iff Epeak_i > Epeak_j and Eglob_i < Eglob_j;  S_i = number of responses that i dominates
      sorted by S, rank k = 0..N-1:  R = r_max*(1 - k/(N-1)); equal S share the mean of their ranks' rewards.
    These rewards take the place of the failed ones' own. N = 1 gets 0; empty and replayed responses are not ranked.

    CCR, cross-context replay, adds stored responses of the opposite outcome in the rollout stage; they are known here
    by the optional signal `replayed` [B] (non-zero = replayed). Success: the reward part `success_part`, or the total
    reward, is at least `success_at`. `length_limit` adds the paper's bonus max(0, 1 - L/limit) to a success.

    Source: arXiv 2601.19620, v1, sections on CCR and SERR; no code was released. Ours, where v1 is silent: p .2,
    r_max .5 (below 1, so that no failure reaches a success), alpha 1, eps 1e-6 (the paper's lambda), both repairs
    together, tied ranks averaged, alpha not applied to mixed groups, success tested on correctness and not on equal
    rewards. A group of one gets 0.
    Passes: none beyond the entropy of the clean pass.
    """

    starts = True

    serr: Literal["failed", "truncated", "off"] = Field("failed", description="responses ranked without a success")
    p: float = Field(0.2, gt=0, le=1, description="share of the tokens that make the entropy peak")
    r_max: float = Field(0.5, ge=0, lt=1, description="largest reward of a failed response")
    ties: Literal["average", "stable"] = Field("average", description="reward of equally ranked responses")
    alpha: float = Field(1.0, ge=1, description="damping of repaired groups")
    eps: float = Field(1e-6, ge=0, description="added to the standard deviation")
    success_part: str | None = Field(None, description="reward part that tells a success; none = the total reward")
    success_at: float = Field(0.5, description="least value of a success")
    length_limit: int | None = Field(None, ge=1, description="tokens at which the bonus ends; paper 32768")

    def needs(self) -> Needs:
        part = (self.success_part,) if self.success_part else ()
        return Needs(signals=() if self.serr == "off" else ("entropy",), reward_parts=part)

    def __call__(self, credit: Credit, rollouts: Rollouts, step: Step) -> Credit:
        index, groups = rollouts.group_index()
        replayed = rollouts.signals.get("replayed", torch.zeros_like(rollouts.rewards)) != 0
        success = self._success(rollouts)
        rewards = rollouts.rewards
        if self.length_limit is not None:
            bonus = (1 - rollouts.lengths.to(rewards.dtype) / self.length_limit).clamp(min=0)
            rewards = torch.where(success, rewards + bonus, rewards)
        solved, repaired = (torch.zeros(groups, dtype=torch.bool, device=index.device) for _ in range(2))
        solved[index[success & ~replayed]] = True
        repaired[index[replayed]] = True
        if self.serr != "off":
            ranked = ~solved[index] & ~replayed & (rollouts.lengths > 0)
            if self.serr == "truncated":
                ranked = ranked & rollouts.truncated
            rewards = torch.where(ranked, self._rank_rewards(rollouts, index, ranked), rewards)
            repaired[index[ranked]] = True
            step.note("ranked_responses", ranked.sum())
        centred = center(rewards, index, groups)
        std = group_std(rewards, index, groups, 0)[index]
        damped = torch.where(repaired[index], self.alpha * std, std)
        advantages = torch.where(std > 0, centred / (damped + self.eps), torch.zeros_like(centred))
        step.note("replayed_responses", replayed.sum())
        return credit.replace(advantages=broadcast(advantages, rollouts.mask))

    def _success(self, rollouts: Rollouts) -> Tensor:
        """[B] bool."""
        if self.success_part is None:
            return rollouts.rewards >= self.success_at
        if self.success_part not in rollouts.reward_parts:
            known = ", ".join(sorted(rollouts.reward_parts)) or "none"
            raise ValueError(f"r3: success_part {self.success_part!r} is not a reward part (present: {known})")
        return rollouts.reward_parts[self.success_part] >= self.success_at

    def _rank_rewards(self, rollouts: Rollouts, index: Tensor, ranked: Tensor) -> Tensor:
        """[B]: the SERR reward of each ranked response, 0 for the others."""
        mask = rollouts.mask
        entropy = token_signal(rollouts, "entropy", mask)
        # .29 * 100 is 28.999999999999996 in floating point: 29 tokens are meant.
        peak_size = (self.p * rollouts.lengths.double() + 1e-9).floor().clamp(min=1).long()
        ordered = torch.where(mask, entropy, -torch.inf).sort(1, descending=True).values
        columns = torch.arange(mask.shape[1], device=mask.device)
        peak = response_mean(ordered, (columns < peak_size[:, None]) & torch.isfinite(ordered))
        overall = response_mean(entropy, mask)
        rewards = torch.zeros_like(rollouts.rewards)
        for group in torch.unique(index[ranked]).tolist():
            rows = (ranked & (index == group)).nonzero()[:, 0]
            if len(rows) > 1:
                rank = _ranks(peak[rows], overall[rows], self.ties == "average")
                rewards[rows] = (self.r_max * (1 - rank / (len(rows) - 1))).to(rewards.dtype)
        return rewards


def _ranks(peak: Tensor, overall: Tensor, average: bool) -> Tensor:
    """[N] f64: rank from 0, the one that dominates most first."""
    dominates = (peak[:, None] > peak[None]) & (overall[:, None] < overall[None])
    score = dominates.sum(1)
    better = (score[None] > score[:, None]).sum(1).double()
    equal = score[None] == score[:, None]
    if average:
        return better + (equal.sum(1) - 1) / 2
    return better + equal.tril(-1).sum(1)
