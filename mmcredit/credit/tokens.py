"""Statistics over tokens that several credit methods share. Shapes: B responses, T tokens, N chosen tokens."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import torch

from mmcredit.rollouts import Credit, Rollouts

if TYPE_CHECKING:
    from torch import Tensor

# A log-ratio beyond this overflows once it is exponentiated; verl, EasyR1 and the objective clamp at 20 too.
MAX_LOG_RATIO = 20.0

Normalizer = Literal["kept", "all"]


def token_signal(rollouts: Rollouts, name: str, mask: Tensor) -> Tensor:
    """[B,T]: the signal `name`, 0 outside `mask`, whatever stands there.

    Raises ValueError if the signal is missing, is not [B,T], or is not finite inside the mask.
    """
    values = rollouts.signal(name)
    if values.shape != mask.shape:
        raise ValueError(f"signal {name!r} must have shape {list(mask.shape)}, got {list(values.shape)}")
    values = within(values.to(rollouts.rewards.dtype), mask)
    finite = torch.isfinite(values)
    if not bool(finite.all()):
        row, column = (int(i) for i in (~finite).nonzero()[0])
        value = float(values[row, column])
        raise ValueError(f"signal {name!r} is {value} at response {row}, token {column}; it must be finite")
    return values


def old_logprobs(rollouts: Rollouts, method: str) -> Tensor:
    """[B,T] `rollouts.old_logprobs`. Raises ValueError, naming the method, if they were not computed."""
    if rollouts.old_logprobs is None:
        raise ValueError(f"credit method {method!r} needs old_logprobs; score the rollouts by the policy first")
    return rollouts.old_logprobs


def within(values: Tensor, mask: Tensor) -> Tensor:
    """`values` where mask, exactly 0 elsewhere; safe for NaN and infinity outside the mask."""
    return torch.where(mask, values, torch.zeros((), dtype=values.dtype, device=values.device))


def log_ratio(new: Tensor, old: Tensor, mask: Tensor) -> Tensor:
    """[B,T]: new - old, clamped to +-20, 0 outside the mask. NaN inside the mask stays NaN."""
    return within((new - old).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO), mask)


def k3(log_ratio: Tensor) -> Tensor:
    """exp(d) - d - 1 >= 0: with d = log q - log p at a sample of p, an unbiased estimate of KL(p || q)."""
    return torch.expm1(log_ratio) - log_ratio


def response_mean(values: Tensor, mask: Tensor) -> Tensor:
    """[B]: mean over the masked tokens of each response, 0 for a response without any."""
    return within(values, mask).sum(1) / mask.sum(1).clamp(min=1)


def response_range(values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """([B], [B]): smallest and largest masked value of each response; 0 and 0 for a response without any."""
    some = mask.any(1)
    low = torch.where(mask, values, torch.inf).amin(1) if mask.shape[1] else torch.zeros_like(values[:, :0].sum(1))
    high = torch.where(mask, values, -torch.inf).amax(1) if mask.shape[1] else low
    zero = torch.zeros_like(low)
    return torch.where(some, low, zero), torch.where(some, high, zero)


def quantile(values: Tensor, q: float) -> Tensor:
    """Scalar: the q-quantile of `values` [N], N >= 1, linear between ranks; torch.quantile stops at 2^24 values."""
    rank = q * (values.numel() - 1)
    if abs(rank - round(rank)) < 1e-9:  # 0.7*10 must be rank 7, not a hair above the value there
        return torch.kthvalue(values, round(rank) + 1).values
    low = math.floor(rank)
    below, above = torch.kthvalue(values, low + 1).values, torch.kthvalue(values, low + 2).values
    return torch.lerp(below, above, rank - low)


def top_per_response(values: Tensor, mask: Tensor, counts: Tensor) -> Tensor:
    """[B,T] bool: the counts[i] largest masked values of each response; equal values in token order."""
    order = torch.where(mask, values, -torch.inf).argsort(dim=1, descending=True, stable=True)
    rank = torch.empty_like(order).scatter_(1, order, torch.arange(mask.shape[1], device=mask.device).expand_as(order))
    return (rank < counts[:, None]) & mask


def top_pooled(values: Tensor, mask: Tensor, count: int) -> Tensor:
    """[B,T] bool: the `count` largest masked values of the whole batch; equal values in row, then token order."""
    pool = values[mask]
    if count >= pool.numel():
        return mask.clone()
    if count <= 0:
        return torch.zeros_like(mask)
    threshold = torch.kthvalue(pool, pool.numel() - count + 1).values
    above, level = pool > threshold, pool == threshold
    keep = torch.zeros_like(mask)
    keep[mask] = above | (level & (level.cumsum(0) <= count - above.sum()))
    return keep


def ranks(values: Tensor, scope: Tensor, average: bool = True) -> tuple[Tensor, Tensor]:
    """([N] f64, [N] f64): rank from 0 of each value among those of equal `scope` [N] int64, and the number of those.

    Equal values share their mean rank, or keep their order with `average=False`.
    """
    order = values.argsort(stable=True)
    if scope.numel() and bool((scope != scope[0]).any()):
        order = order[scope[order].argsort(stable=True)]
    ordered, block = values[order], scope[order]
    size = torch.bincount(scope).double() if scope.numel() else scope.double()
    start = size.cumsum(0) - size
    rank = torch.arange(len(values), dtype=torch.float64, device=values.device) - start[block]
    if average and len(values):
        run = torch.ones_like(block)
        run[1:] = (ordered[1:] != ordered[:-1]) | (block[1:] != block[:-1])
        run = run.cumsum(0) - 1
        runs = torch.zeros(int(run[-1]) + 1, dtype=torch.float64, device=values.device)
        rank = (runs.index_add(0, run, rank) / torch.bincount(run))[run]
    return torch.empty_like(rank).index_copy_(0, order, rank), size[scope]


def restrict(credit: Credit, keep: Tensor, normalizer: Normalizer) -> Credit:
    """Only the tokens of `keep` [B,T] bear credit.

    `kept`: the others leave the loss, so that they count in no mean. `all`: they stay in the denominator with
    advantage 0. With everything kept the credit is unchanged, bit for bit.
    """
    keep = keep & credit.loss_mask
    advantages = torch.where(keep | ~credit.loss_mask, credit.advantages, torch.zeros_like(credit.advantages))
    return credit.replace(advantages=advantages, loss_mask=keep if normalizer == "kept" else credit.loss_mask)


def content_order(rollouts: Rollouts) -> Tensor:
    """[B] int64: a number for each response from its credited tokens alone; breaks ties independently of row order."""
    # The n-th credited token times the n-th power of an odd number, modulo 2^64: a polynomial hash.
    place = torch.cumprod(torch.full_like(rollouts.tokens[:1], 6364136223846793005), dim=1)
    rank = (rollouts.mask.cumsum(1) - 1).clamp(min=0)
    terms = (rollouts.tokens + 1) * place.expand_as(rank).gather(1, rank)
    return torch.where(rollouts.mask, terms, 0).sum(1)


def has_media(rollouts: Rollouts) -> Tensor:
    """[B] bool: the prompt has an image or video, or media were inserted into the response; True everywhere if the
    samples are not at hand."""
    if rollouts.samples is None:
        return torch.ones(len(rollouts), dtype=torch.bool, device=rollouts.tokens.device)
    media = [bool(sample.media) for sample in rollouts.samples]
    found = torch.tensor(media, dtype=torch.bool, device=rollouts.tokens.device)[rollouts.group]
    for row, own in enumerate(rollouts.inserted or ()):
        if any(one.piece.media_keys for one in own):
            found[row] = True
    return found
