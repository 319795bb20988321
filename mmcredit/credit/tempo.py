"""TEMPO: GRPO plus a temporal difference at the points where the responses of a prompt part."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from pydantic import Field

from mmcredit.components import register
from mmcredit.credit.base import CreditMethod, Step
from mmcredit.credit.groups import center, group_std
from mmcredit.credit.prefixes import group_pairs, shared_prefix
from mmcredit.rollouts import Credit, Rollouts

if TYPE_CHECKING:
    from torch import Tensor


@register("credit", "tempo")
class Tempo(CreditMethod):
    """Tree-Estimated Mean Prefix Value: the responses of a prompt form a tree, and a token is credited with what it
    did to the mean reward of those that share its prefix.

    V(s) = mean reward of the responses that begin with prefix s;  delta_t = V(s_{t+1}) - V(s_t);
    A_{i,t} = (R_i - mean_g R + delta_{i,t}) / (std_g R + eps), sample standard deviation.
    delta is exactly 0 where all members of a node go on with the same token, and after a response is alone; there the
    advantage is GRPO's, bit for bit.

    Source: arXiv 2509.18314; equations and numbers from the released code (fatebreaker/tempo@0a1c273,
    compute_tempo_outcome_advantage). Defaults: eps and the division by the standard deviation as there
    (`norm_std` false = its Dr.GRPO switch). Pair with clip 0.2/0.28 and ``token_mean``.
    Differs from the code: a group of one is 0 (there: NaN); prefixes are compared over every response token, inserted
    ones included, and the mask is applied last (there: the walk stops at the first token that is not sampled); padding
    is compared by `valid`, never by id. The end-of-sequence token must be inside `valid`, so that stopping is a branch.
    Long diverse responses part in their first tokens: the note `branch_share` says how many tokens had delta != 0.
    Passes: none. Cost: pairs of a group times the length they share.
    """

    starts = True
    zero_for_equal = True

    eps: float = Field(1e-6, ge=0, description="added to the group's standard deviation")
    norm_std: bool = Field(True, description="divide by the group's standard deviation")

    def __call__(self, credit: Credit, rollouts: Rollouts, step: Step) -> Credit:
        index, num_groups = rollouts.group_index()
        mask, rewards = rollouts.mask, rollouts.rewards
        centred = center(rewards, index, num_groups)
        std = group_std(rewards, index, num_groups, 1)[index]
        delta = prefix_deltas(rollouts.tokens, rollouts.valid, index, centred)
        scale = (std + self.eps) if self.norm_std else torch.ones_like(std)
        advantages = (centred[:, None] + delta.to(rewards.dtype)) / scale[:, None]
        step.note("branch_share", ((delta != 0) & mask).sum() / mask.sum().clamp(min=1))
        informative = mask & (std > 0)[:, None]
        return credit.replace(advantages=torch.where(informative, advantages, torch.zeros_like(advantages)))


def prefix_deltas(tokens: Tensor, valid: Tensor, index: Tensor, values: Tensor) -> Tensor:
    """[B,T] f64: change of the mean of `values` [B] over the responses that share the prefix, when token t is added.

    The number of tokens each pair shares is all that is needed: response k is with i at token t iff they share more
    than t, so a sum over the node of (i, t) is a reverse cumulative sum over the pairs of i ordered by shared length.
    """
    first, second = group_pairs(index)
    shared = shared_prefix(tokens, valid, first, second)
    rows = torch.arange(tokens.shape[0], device=tokens.device)
    # Beyond the longest shared prefix every response is alone: those columns need no work.
    width = int(shared.max()) + 1 if shared.numel() else 0
    here, there = torch.cat([first, second, rows]), torch.cat([second, first, rows])
    until = torch.cat([shared, shared, valid.sum(1).clamp(max=width)])
    slot = here * (width + 1) + until
    flat = torch.zeros(tokens.shape[0] * (width + 1), dtype=torch.float64, device=tokens.device)
    sums = _at_least(flat.index_add(0, slot, values[there].double()), width)
    counts = _at_least(flat.index_add(0, slot, torch.ones_like(slot, dtype=torch.float64)), width)
    means = sums / counts.clamp(min=1)
    branched = counts[:, 1:] != counts[:, :-1]
    changes = torch.where(branched, means[:, 1:] - means[:, :-1], torch.zeros_like(means[:, 1:]))
    delta = torch.zeros(tokens.shape, dtype=torch.float64, device=tokens.device)
    width = min(width, tokens.shape[1])
    delta[:, :width] = changes[:, :width]
    return delta


def _at_least(flat: Tensor, width: int) -> Tensor:
    """[B, width+1]: entry l is the total over all slots >= l: the node that shares at least l tokens."""
    return flat.view(-1, width + 1).flip(1).cumsum(1).flip(1)
