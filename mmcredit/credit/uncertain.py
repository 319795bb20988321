"""The probability mask of Segment Policy Optimization, shared by its chain and tree forms."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch

from mmcredit.credit.base import Step
from mmcredit.credit.tokens import old_logprobs, within
from mmcredit.credit.whitening import whiten
from mmcredit.rollouts import Credit, Rollouts

if TYPE_CHECKING:
    from torch import Tensor


def credit_uncertain(
    credit: Credit,
    rollouts: Rollouts,
    advantages: Tensor,
    known: Tensor,
    rho: float,
    whitening: Literal["full", "std", "none"],
    method: str,
    step: Step,
) -> Credit:
    """Credit that stands only on the tokens where the old policy could have gone another way, pi_old < rho.

    `advantages` [B,T] f64 are whitened over exactly those tokens (`std`: only scaled) and they alone enter the loss.
    `known` [B,T]: tokens that have a value estimate; an uncertain token without one is left out and counted. A token
    with pi_old exactly rho has its advantage but is outside the loss, as in the released code.
    """
    probability = within(old_logprobs(rollouts, method), rollouts.mask).double().exp()
    wrong = ~torch.isfinite(probability)
    if bool(wrong.any()):
        row, column = (int(i) for i in wrong.nonzero()[0])
        raise ValueError(f"old_logprobs must be finite on sampled tokens; response {row}, token {column} is not")
    uncertain = rollouts.mask & (probability < rho)
    trained = uncertain & known
    step.note("uncertain_share", uncertain.sum() / rollouts.mask.sum().clamp(min=1))
    step.note("dropped_without_value", (uncertain & ~known).sum())
    dtype = rollouts.rewards.dtype
    kept = rollouts.mask & known & (probability <= rho)
    values = torch.where(kept, advantages, 0.0).to(dtype)
    if whitening != "none":
        values = whiten(values, trained, shift=whitening == "full")
    return credit.replace(advantages=values, loss_mask=trained)
