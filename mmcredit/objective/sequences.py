"""One ratio per response, carried by its tokens.

A sequence ratio rho is a power mean of the token ratios of a response. It is written per token, as GSPO-token does: the
value of every token is rho itself, and its gradient is the token's own part of rho's. Then token advantages, clips and
aggregates apply unchanged; when all tokens of a response share one advantage and one weight, value and gradient are
those of the sequence-level loss.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

# |p| below this is the geometric mean, the limit of the power mean (HölderPO eq. 1).
GEOMETRIC = 1e-6


def power_mean(log_ratio: Tensor, mask: Tensor, p: float) -> tuple[Tensor, Tensor]:
    """log of the power mean of order p of exp(log_ratio) over each response, and the share of each token in it.

    log rho_i = (logsumexp_t(p d_t) - log L_i) / p, [B,1];  W_{i,t} = r_t^p / sum_k r_k^p, [B,T], sums to 1. Both are
    float64 and detached: near p = 0 the difference of logarithms needs the digits. A response without tokens: 0 and 0.
    """
    d = log_ratio.detach().double()
    count = mask.sum(1, keepdim=True)
    zero = torch.zeros((), dtype=d.dtype, device=d.device)
    if abs(p) < GEOMETRIC:
        return torch.where(mask, d, zero).sum(1, keepdim=True) / count.clamp(min=1), mask / count.clamp(min=1).double()
    # A response without tokens would be logsumexp of nothing: give it one harmless 0.
    inside = mask | (count == 0)
    total = torch.where(inside, p * d, -math.inf).logsumexp(1, keepdim=True)
    mean = (total - count.clamp(min=1).double().log()) / p
    return torch.where(count > 0, mean, zero), torch.where(mask, (p * d - total).exp(), zero)


def carry(log_mean: Tensor, slope: Tensor, mask: Tensor, logprobs: Tensor) -> Tensor:
    """[B,T] in the dtype of `logprobs`: value exp(log_mean) [B,1] on every token, gradient L_i * exp(log_mean) * slope.

    With `slope` the share W of a token in a power mean, the mean over a response's tokens of the result has the value
    and the gradient of the power mean itself. 1 outside `mask`, without gradient.
    """
    rho = log_mean.exp()
    steep = (rho * slope * mask.sum(1, keepdim=True)).to(logprobs.dtype)
    value = rho.to(logprobs.dtype) + steep * (logprobs - logprobs.detach())
    return torch.where(mask, value, torch.ones((), dtype=value.dtype, device=value.device))


def one_sided(log_ratio: Tensor, advantages: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Token log-ratios clipped only where the clip takes reward away, as in PPO; `low` and `high` are log-space bounds.

    A > 0: min(d, high); A < 0: max(d, low); A = 0: d. Returns the clipped values, and two [B,T] bool: bound by `low`,
    bound by `high`.
    """
    below = (advantages < 0) & (log_ratio < low)
    above = (advantages > 0) & (log_ratio > high)
    return torch.where(below, low, torch.where(above, high, log_ratio)), below, above
