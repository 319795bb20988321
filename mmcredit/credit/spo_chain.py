"""SPO-chain: Monte-Carlo values at uncertain tokens, credit per segment between them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field

from mmcredit.components import Needs, register
from mmcredit.credit.base import CreditMethod, Step
from mmcredit.credit.uncertain import credit_uncertain
from mmcredit.rollouts import Credit, Rollouts

if TYPE_CHECKING:
    from torch import Tensor

UNUSED = -2  # boundary_index of an empty slot


@register("credit", "spo_chain")
class SPOChain(CreditMethod):
    """Segment Policy Optimization, chain form: a segment is worth the change of the value from its start to its end.

    Boundaries k_1 < ... < k_n (state after token k; -1 = the prompt) have values V(k), the mean reward of N fresh
    continuations. Tokens k_j+1 .. k_{j+1} get V(k_{j+1}) - V(k_j), those after k_n R - V(k_n), those up to k_1 0.
    Only tokens with pi_old < rho keep their credit and enter the loss; over them the advantages are whitened,
    (A - mean)/sqrt(var + 1e-8), unbiased.

    Signals: `boundary_index` [B,S] int64 (-2 = unused slot, any order), `boundary_value` [B,S]; made by the rollout,
    which cuts before every c-th token with pi_old < rho (c = 5, N = 9) with the same rho.
    Source: arXiv 2505.23564 (NeurIPS 2025), code AIFrameResearch/SPO@b9fc6a2; rho 0.9 is hard-coded there.
    Differs from the code: whitening covers the whole batch, not a micro-batch (`whiten: std` is its "grayen", `none`
    leaves plain value differences); an uncertain token before the first boundary, which only a sampling budget can
    cause, is left out of the loss and counted. The log-ratio clamp of 10 and the skip of a micro-batch whose mean ratio
    exceeds 10 are not taken over: the clip does that work. KL 1e-4 to the reference in all its configurations.
    One token in the loss, or all with the same advantage: 0. Pair with clip 0.2 and ``token_mean``.
    Passes: old log-probs; boundaries x N partial rollouts per response (prefixes reused).
    """

    starts = True
    changes = ("advantages", "loss_mask")

    rho: float = Field(0.9, gt=0, le=1, description="probability below which a token is uncertain")
    whiten: Literal["full", "std", "none"] = Field("full", description="standardise over the tokens in the loss")

    def needs(self) -> Needs:
        return Needs(signals=("boundary_index", "boundary_value"), old_logprobs=True)

    def __call__(self, credit: Credit, rollouts: Rollouts, step: Step) -> Credit:
        index, value = rollouts.signal("boundary_index"), rollouts.signal("boundary_value")
        _check(index, value, rollouts)
        rewards, width = rollouts.rewards.double(), rollouts.tokens.shape[1]
        advantages, known = segment_advantages(index, value.double(), rewards, width)
        return credit_uncertain(credit, rollouts, advantages, known, self.rho, self.whiten, self.name, step)


def segment_advantages(index: Tensor, value: Tensor, rewards: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """[B,T] value difference over the segment of each token, and [B,T] bool: the token lies after a boundary."""
    rows, slots = index.shape
    used = index != UNUSED
    order = torch.where(used, index, width).argsort(dim=1, stable=True)
    index, value, used = index.gather(1, order), value.gather(1, order), used.gather(1, order)
    # Values along the chain: an unused slot and the end of the response are worth the reward.
    chain = torch.cat([torch.where(used, value, rewards[:, None]), rewards[:, None]], 1)
    differences = torch.cat([torch.zeros_like(chain[:, :1]), chain[:, 1:] - chain[:, :-1]], 1)
    # Segment of token t: number of boundaries before it. Boundary k opens its segment at token k + 1.
    opens = torch.zeros(rows, width + 1, dtype=torch.int64, device=index.device)
    opens = opens.scatter_add(1, torch.where(used, index + 1, width), used.long())
    segment = opens[:, :width].cumsum(1)
    return differences.gather(1, segment.clamp(max=slots)), segment > 0


def _check(index: Tensor, value: Tensor, rollouts: Rollouts) -> None:
    if index.ndim != 2 or index.shape != value.shape or index.dtype != torch.int64:
        raise ValueError(
            "signals['boundary_index'] (int64) and ['boundary_value'] must have the same shape [B, S], "
            f"got {index.dtype} {list(index.shape)} and {list(value.shape)}"
        )
    ends = rollouts.valid.sum(1, keepdim=True)
    wrong = (index < UNUSED) | (index >= ends.clamp(min=1))
    wrong = wrong | ((index != UNUSED) & ~torch.isfinite(value))
    if bool(wrong.any()):
        row, slot = (int(i) for i in wrong.nonzero()[0])
        raise ValueError(
            f"boundary {slot} of response {row} ({int(ends[row])} tokens) has index {int(index[row, slot])} and value "
            f"{float(value[row, slot])}; indices lie in -1..length-1 (-2 = unused) and used ones have a finite value"
        )
