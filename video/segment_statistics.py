"""What SD-GRPO computes per segment: which tokens are retrieval, the parts of the reward, advantages over groups."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from mmcredit.credit.base import CreditMethod, Step
from mmcredit.credit.groups import normalize
from mmcredit.rollouts import Credit, Rollouts, broadcast
from video.retrieval import STATUSES

if TYPE_CHECKING:
    from torch import Tensor

MALFORMED = STATUSES.index("malformed") + 1


@dataclass(frozen=True)
class Norm:
    """How rewards are normalised over a group."""

    each: bool  # every part by itself, before the sum
    ddof: int
    eps: float


def retrieval_segment(rollouts: Rollouts, several: str, malformed: str) -> Tensor:
    """[B,T] bool: the sampled tokens of S, by the switches of `sd_grpo`. Raises ValueError without `segments`."""
    if rollouts.segments is None:
        raise ValueError("sd_grpo reads Rollouts.segments (1 up to </fps>, 2 after it), and there are none")
    first = rollouts.mask & (rollouts.segments == 1)
    if several == "last":
        calls = rollouts.mask & (rollouts.signal("retrieval_call") > 0)
        later = calls.flip(1).cumsum(1).flip(1) > 0  # a token of a call stands here or further on
        first = first | (rollouts.mask & later & first.any(1, keepdim=True))
    if malformed == "no_retrieval":
        calls = torch.where(first, rollouts.signal("retrieval_call"), 0)
        place = torch.arange(first.shape[1], device=first.device).expand_as(first)
        end = torch.where(calls > 0, place, -1).amax(1, keepdim=True) if first.shape[1] else place[:, :1]
        broken = calls.gather(1, end.clamp(min=0)) == MALFORMED if first.shape[1] else first[:, :1]
        first = first & ~broken
    return first


def reward_parts(names: Iterable[str], rollouts: Rollouts) -> dict[str, Tensor]:
    """[B] per reward part. Raises ValueError for one that this run does not have."""
    for name in names:
        if name not in rollouts.reward_parts:
            known = ", ".join(sorted(rollouts.reward_parts)) or "none"
            raise ValueError(f"sd_grpo reads reward part {name!r}; there are {known}: add the reward, or name others")
    return {name: rollouts.reward_parts[name] for name in names}


def group_advantages(
    values: Mapping[str, Tensor],
    weights: Mapping[str, float],
    rollouts: Rollouts,
    rows: Tensor,
    norm: Norm,
    method: CreditMethod | None,
    step: Step,
) -> Tensor:
    """[B,T]: what the weighted sum of the parts earns over the responses in `rows` [B] bool; 0 for the others.

    `method` turns the sums into advantages; None: they are normalised over their group.
    """
    found = torch.zeros(rollouts.tokens.shape, dtype=rollouts.rewards.dtype, device=rollouts.tokens.device)
    if not bool(rows.any()):
        return found
    own = rollouts.select(rows.nonzero()[:, 0])
    index, num_groups = own.group_index()
    total = torch.zeros_like(own.rewards)
    for name, value in values.items():
        part = value[rows].to(total.dtype)
        if norm.each:
            part = normalize(part, index, num_groups, norm.ddof, norm.eps)
        total = total + weights[name] * part
    if method is None:
        found[rows] = broadcast(normalize(total, index, num_groups, norm.ddof, norm.eps), own.mask)
    else:
        own = own.replace(rewards=total)
        found[rows] = method(Credit.empty(own), own, Step(step.index, step.total)).advantages
    return found
