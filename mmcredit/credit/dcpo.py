"""DCPO's smooth advantage standardisation: group statistics that remember earlier visits of the prompt."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import Field, PrivateAttr

from mmcredit.components import register
from mmcredit.credit.base import CreditMethod, Step
from mmcredit.credit.groups import center, group_mean, group_sizes, group_std
from mmcredit.rollouts import Credit, Rollouts, broadcast

if TYPE_CHECKING:
    from torch import Tensor


@register("credit", "dcpo")
class DCPO(CreditMethod):
    """Smooth advantage standardisation (SAS): the smaller of two blends of this group's statistics and all visits'.

    On the i-th visit of a prompt, with this group's mean and standard deviation mu, sigma and those kept from before:
      mu_tot = ((i-1)*mu_old + mu)/i
      sigma_tot^2 = [sigma^2 + (i-1)*sigma_old^2 + ((i-1)/i)*(mu_old - mu)^2]/i
      A_new = (R - mu)/sigma, A_tot = (R - mu_tot)/sigma_tot, each 0 where its divisor is 0
      SA_new = ((i-1)/i)*A_new + (1/i)*A_tot,  SA_tot = (1/i)*A_new + ((i-1)/i)*A_tot
      A = the one of smaller size, SA_tot on a tie.
    The first visit is GRPO without epsilon, bit for bit. Later a constant group still gets A_tot/i when its history is
    mixed. mu_tot and sigma_tot are exactly those of all rewards seen, if G is constant and `ddof` is 0.

    Source: arXiv 2509.02333 and its released code. The paper's other two parts are the objective's: clip `dcpo` (DAC)
    and aggregate `response_mean_sum` (OTM).
    Differs: `ddof` 0 as in the paper (released: 1). `decay` multiplies the weight of the history at each visit; the
    released option multiplies the old mean and deviation themselves, which pulls them towards 0. A prompt that stands
    twice in a batch is visited twice, in group order. A group of one gets 0; its reward enters the history. Prompts are
    told apart by `rollouts.samples[group].id`, or by the group number if there are no samples: then the numbers must
    be stable over steps.
    Memory: three numbers per prompt, in the checkpoint.
    Passes: none.
    """

    starts = True

    ddof: Literal[0, 1] = Field(0, description="divisor n - ddof of the group's standard deviation")
    decay: float = Field(1.0, ge=0, le=1, description="factor of the history's weight at each visit; 1 = all alike")
    _history: dict[str, tuple[float, float, float]] = PrivateAttr(default_factory=dict)  # mean, std, visits (weighted)

    def __call__(self, credit: Credit, rollouts: Rollouts, step: Step) -> Credit:
        index, groups = rollouts.group_index()
        rewards = rollouts.rewards
        centred = center(rewards, index, groups)
        std = group_std(rewards, index, groups, self.ddof)
        fresh = torch.where(std[index] > 0, centred / std[index].clamp(min=1e-30), torch.zeros_like(centred))
        # Of a constant group the mean is the reward itself: a rounding error would be history divided by nothing.
        lowest = torch.full_like(std, torch.inf).scatter_reduce(0, index, rewards, "amin")
        means = torch.where(std > 0, group_mean(rewards, index, groups), lowest)
        groups_seen = zip(self._keys(rollouts), means.tolist(), std.tolist(), strict=True)
        merged = torch.tensor(
            [self._visit(*group) for group in groups_seen], dtype=torch.float64, device=rewards.device
        )
        mean, deviation, visits = merged.view(-1, 3)[index].unbind(1)
        overall = (rewards.double() - mean) / deviation.clamp(min=1e-30)
        overall = torch.where(deviation > 0, overall, torch.zeros_like(overall))
        blended = _smaller_blend(fresh.double(), overall, 1 / visits).to(rewards.dtype)
        advantages = torch.where(visits > 1, blended, fresh)
        size = group_sizes(index, groups)[index]
        advantages = torch.where(size > 1, advantages, torch.zeros_like(advantages))
        step.note("prompts_with_history", (merged.view(-1, 3)[:, 2] > 1).sum())
        step.note("nonzero_responses", (advantages != 0).float().mean() if len(advantages) else 0.0)
        return credit.replace(advantages=broadcast(advantages, rollouts.mask))

    def _keys(self, rollouts: Rollouts) -> list[str]:
        """The prompt of each group, in group order."""
        numbers = torch.unique(rollouts.group).tolist()
        return [str(n) if rollouts.samples is None else str(rollouts.samples[n].id) for n in numbers]

    def _visit(self, key: str, mean: float, std: float) -> tuple[float, float, float]:
        """Merge one group into the history of its prompt: the new (mean, std, visits)."""
        old_mean, old_std, old = self._history.get(key, (0.0, 0.0, 0.0))
        old *= self.decay
        visits = old + 1
        if old > 0:
            variance = (std**2 + old * old_std**2 + old / visits * (old_mean - mean) ** 2) / visits
            mean, std = (old * old_mean + mean) / visits, math.sqrt(variance)
        self._history[key] = (mean, std, visits)
        return mean, std, visits

    def state_dict(self) -> dict[str, Any]:
        """Prompt -> [mean, std, visits]."""
        return {key: list(value) for key, value in self._history.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._history = {key: (float(mean), float(std), float(visits)) for key, (mean, std, visits) in state.items()}


def _smaller_blend(fresh: Tensor, overall: Tensor, share: Tensor) -> Tensor:
    """SA_new or SA_tot, whichever is smaller in size; `share` is 1/i."""
    new, total = (1 - share) * fresh + share * overall, share * fresh + (1 - share) * overall
    return torch.where(new.abs() < total.abs(), new, total)
