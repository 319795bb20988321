"""Arbitrage's decisions: which draft steps a target model shall write anew, and what that gains.

arXiv 2512.05033, code SqueezeAILab/Arbitrage. s_d, s_t: scores of the draft's and the target's step; Delta = s_t - s_d.
Comparisons are the paper's (strict): the code has >= in two places.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

import torch

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")


def rsd_escalates(s_d: Tensor, tau: float) -> Tensor:
    """Reward-guided speculation keeps a step iff s_d > tau."""
    return ~(s_d > tau)


def oracle_escalates(s_d: Tensor, s_t: Tensor, tau: float = 0.0) -> Tensor:
    """a* = [Delta > tau]."""
    return s_t - s_d > tau


def router_escalates(y_hat: Tensor, tau: float) -> Tensor:
    """y > tau."""
    return y_hat > tau


def realised(s_d: Tensor, s_t: Tensor, escalated: Tensor) -> Tensor:
    """S(a) = s_d + a Delta per step."""
    return torch.where(escalated, s_t, s_d)


def wasted(s_d: Tensor, s_t: Tensor, escalated: Tensor) -> Tensor:
    """Escalations of steps that the target does not improve."""
    return escalated & (s_t <= s_d)


def budgeted(s_d: Tensor, s_t: Tensor, most: int) -> Tensor:
    """The best at most `most` escalations: the largest positive Delta."""
    delta = s_t - s_d
    chosen = torch.zeros_like(delta, dtype=torch.bool)
    order = torch.sort(delta, descending=True, stable=True).indices[:most]
    chosen[order] = True
    return chosen & (delta > 0)


def ranks(values: Tensor) -> Tensor:
    """Average ranks from 1, of [N]."""
    values = values.double()
    below = (values[None] < values[:, None]).sum(1)
    equal = (values[None] == values[:, None]).sum(1)
    return below.double() + (equal.double() + 1) / 2


def spearman(a: Tensor, b: Tensor) -> float:
    """Rank correlation with average ranks; NaN where one side is constant."""
    x, y = ranks(a), ranks(b)
    x, y = x - x.mean(), y - y.mean()
    scale = float(x.norm() * y.norm())
    return float(x @ y) / scale if scale else math.nan


def acceptance(tokens: Sequence[int], escalated: Sequence[bool]) -> tuple[float, float]:
    """(share of draft tokens kept, share of draft steps kept): the code's and the paper's acceptance rate."""
    kept = [n for n, a in zip(tokens, escalated, strict=True) if not a]
    return sum(kept) / max(1, sum(tokens)), len(kept) / max(1, len(tokens))


def router_probability(logits: Tensor) -> float:
    """y: softmax over the last two numbers of the flattened per-token logits, class 1."""
    return float(logits.reshape(-1)[-2:].double().softmax(0)[1])


def prm_score(logits: Tensor, places: Sequence[int]) -> list[float]:
    """The reward model's step scores: sigmoid of the scalar at every separator; the last one is the step's."""
    return torch.sigmoid(logits.reshape(-1).double())[list(places)].tolist()


def label(s_d: float, s_t: float) -> int:
    """y = [Delta > 0]: 0 where both are equal."""
    return int(s_t - s_d > 0)


def balance(rows: Sequence[T], labels: Sequence[int], seed: int) -> list[T]:
    """The rows with the larger class thinned to the smaller one's size, in their order."""
    sides = [[i for i, y in enumerate(labels) if y == k] for k in (0, 1)]
    size = min(map(len, sides))
    rng = random.Random(seed)
    kept = sorted(i for side in sides for i in rng.sample(side, size))
    return [rows[i] for i in kept]
