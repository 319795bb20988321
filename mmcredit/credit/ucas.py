"""UCAS: advantages scaled by the response's confidence, minus a penalty on certain tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from pydantic import AliasChoices, Field

from mmcredit.components import Needs, register
from mmcredit.credit.base import CreditMethod, Step
from mmcredit.credit.groups import center, constant_groups, group_sizes, group_std, normalize
from mmcredit.credit.tokens import MAX_LOG_RATIO, token_signal
from mmcredit.rollouts import Credit, Rollouts, broadcast

if TYPE_CHECKING:
    from torch import Tensor


@register("credit", "ucas")
class UCAS(CreditMethod):
    """UnCertainty-aware Advantage Shaping: sure mistakes weigh more, sure successes less, and every token pays for
    certainty.

    A_i = GRPO.  c_t = logsumexp_v z - mean_v z (`self_certainty`, at rollout temperature); C_i = sum or mean of c over
    the response; Z_i = (C_i - mean_g C)/(std_g C + 1e-6), sample deviation.
    A'_i = A_i exp(-b_pos Z_i) if A_i > 0, else A_i exp(b_neg Z_i).
    l_t = raw logit of the sampled token (`sampled_logit`, before temperature), min-max scaled over all tokens of the
    batch (0.5 if they are all equal).  A_{i,t} = A'_i - lam l_t, but never below 0 where A'_i > 0.

    Source: arXiv 2510.10649 (Findings of ACL 2026); algorithm and constants 0.25 / 0.35 / 0.05 from the released code
    (xvolcano02/UCAS@b122ff2), hard-coded there. `agg: sum` is the code's: it mostly ranks length, since each c holds
    log V; the words of the paper suggest `mean`.
    `std: false` is the Dr.GRPO outcome R - mean_g R; the release then leaves Z unstandardised too, which gives weights
    of 29 in a group of four (`standardise: false`, exponents at most 20).
    Differs from the code: sums and min/max cover sampled tokens only (there also the cell after the end); Z is
    standardised in both modes unless told otherwise; a group of one is 0 (there exp(0.35 C) overflows).
    As released, a constant group still gets -lam l_t on every token, a push for entropy, unless `zero_constant_groups`.
    With b_pos = b_neg = lam = 0 it is GRPO, bit for bit. l depends on the batch: compute on the whole batch.
    Passes: none; both signals are reductions of the logits of the clean pass (a fused cross-entropy cannot give them).
    """

    starts = True

    b_pos: float = Field(0.25, ge=0, description="damping of confident successes")
    b_neg: float = Field(0.35, ge=0, description="amplification of confident failures")
    lam: float = Field(
        0.05, ge=0, validation_alias=AliasChoices("lam", "lambda"), description="weight of the certainty penalty"
    )
    agg: Literal["sum", "mean"] = Field("sum", description="confidence of a response from its tokens'")
    std: bool = Field(True, description="divide the outcome by the group's standard deviation; false = Dr.GRPO's")
    standardise: bool = Field(True, description="divide Z by its standard deviation; false = as released with Dr.GRPO")
    zero_constant_groups: bool = Field(False, description="no penalty in groups of equal rewards")

    def needs(self) -> Needs:
        return Needs(signals=("self_certainty", "sampled_logit"))

    def __call__(self, credit: Credit, rollouts: Rollouts, step: Step) -> Credit:
        index, num_groups = rollouts.group_index()
        mask, rewards = rollouts.mask, rollouts.rewards
        confidence = token_signal(rollouts, "self_certainty", mask).double().sum(1)
        if self.agg == "mean":
            confidence = confidence / rollouts.lengths.clamp(min=1)
        spread = group_std(confidence, index, num_groups, 1)[index]
        z = center(confidence, index, num_groups)
        z = z / (spread + 1e-6) if self.standardise else z
        outcome = normalize(rewards, index, num_groups) if self.std else center(rewards, index, num_groups)
        exponent = torch.where(outcome > 0, -self.b_pos * z, self.b_neg * z).clamp(max=MAX_LOG_RATIO)
        weight = exponent.exp()
        shaped = broadcast(outcome * weight.to(rewards.dtype), mask)
        penalty = self.lam * scale_to_unit(token_signal(rollouts, "sampled_logit", mask).double(), mask)
        advantages = shaped - penalty.to(rewards.dtype)
        advantages = torch.where(shaped > 0, advantages.clamp(min=0), advantages)
        silent = group_sizes(index, num_groups) == 1
        if self.zero_constant_groups:
            silent = silent | constant_groups(rewards, index, num_groups)
        step.note("weight_max", weight.max() if weight.numel() else 1.0)
        credited = mask & ~silent[index][:, None]
        return credit.replace(advantages=torch.where(credited, advantages, torch.zeros_like(advantages)))


def scale_to_unit(values: Tensor, mask: Tensor) -> Tensor:
    """`values` [B,T] min-max scaled over the masked tokens, to [0, 1); 0.5 if they span less than 1e-6."""
    if not bool(mask.any()):
        return torch.zeros_like(values)
    low, high = values[mask].aminmax()
    if bool(high - low < 1e-6):
        return torch.full_like(values, 0.5)
    return (values - low) / (high - low + 1e-6)
