"""Step-wise rewards of OpenClaw-RL: outcome plus the judges' votes of each step, standardised step by step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field

from mmcredit.components import Needs, register
from mmcredit.credit.base import CreditMethod, Step
from mmcredit.rollouts import Credit, Rollouts


def majority(votes: Sequence[int | None]) -> int:
    """The most frequent of +1, 0, -1 among the votes that are there; 0 for a tie at the top and without any."""
    counts = Counter(vote for vote in votes if vote is not None).most_common(2)
    if not counts or (len(counts) == 2 and counts[0][1] == counts[1][1]):
        return 0
    return counts[0][0]


def step_rewards(outcome: float, votes: Sequence[Sequence[int | None]]) -> list[float]:
    """R_t = o + (1/m) sum_i r_i per step; votes that are not there are not counted, a step without any adds 0."""
    found = []
    for own in votes:
        there = [vote for vote in own if vote is not None]
        found.append(outcome + (sum(there) / len(there) if there else 0.0))
    return found


def standardise(
    rewards: torch.Tensor, group: torch.Tensor, eps: float = 1e-6, constant: Literal["zero", "keep"] = "zero"
) -> torch.Tensor:
    """rewards [B,K] (NaN: no such step) -> [B,K] f64, standardised over the responses of one group that reach step k.

    Population standard deviation plus `eps`. A bucket of one keeps its raw reward. A bucket of equal rewards gives 0
    (dropped); `keep`: its raw rewards.
    """
    rewards = rewards.double()
    out = torch.full_like(rewards, torch.nan)
    for number in group.unique():
        rows = (group == number).nonzero()[:, 0]
        for k in range(rewards.shape[1]):
            inside = rows[~rewards[rows, k].isnan()]
            values = rewards[inside, k]
            if len(values) == 1:
                out[inside, k] = values
            elif len(values):
                spread = values.std(correction=0)
                flat = bool(values.max() == values.min())
                scaled = (values - values.mean()) / (spread + eps)
                out[inside, k] = (values if constant == "keep" else torch.zeros_like(values)) if flat else scaled
    return out


@register("credit", "step_wise")
class StepWise(CreditMethod):
    """Outcome plus the mean vote of judges for each step, standardised over a group and the same step index.

        R_t = o + (1/m) sum_i r_i,   A of every token of step t = (R_t - mean) / (std + eps)

    over the responses of the group that have a step t, with the population standard deviation; buckets of equal
    rewards give 0 and are counted, a bucket of one keeps its raw reward. o is the total reward of the response. A step
    without a vote (NaN) has the outcome alone. Tokens outside of every step have no credit.

    Signals: `step_id` [B,T] int64, 0-based, -1 = no step; `step_votes` [B,K] f32, the mean vote of each step within
    [-1, 1], NaN = none. The strategy `step_judge` gives both. arXiv 2603.10165 (general agents), released code
    `_post_process_step_wise_rewards`. Differs: the release keeps one dropped bucket at least so that a batch is never
    empty; here a batch without credit is counted like any other. Passes: none.
    """

    starts = True

    eps: float = Field(1e-6, ge=0, description="added to the standard deviation of a bucket")
    weight: float = Field(1.0, ge=0, description="of the votes against the outcome; 0: the outcome alone")

    def needs(self) -> Needs:
        return Needs(signals=("step_votes", "step_id"))

    def __call__(self, credit: Credit, rollouts: Rollouts, step: Step) -> Credit:
        step_id, votes = rollouts.signal("step_id"), rollouts.signal("step_votes")
        if step_id.shape != rollouts.mask.shape or step_id.dtype != torch.int64:
            raise ValueError(f"signals['step_id'] must be int64 of shape {list(rollouts.mask.shape)}")
        if votes.ndim != 2 or len(votes) != len(rollouts):
            raise ValueError(f"signals['step_votes'] must have shape [{len(rollouts)}, K], got {list(votes.shape)}")
        steps = votes.shape[1]
        step_id = torch.where(rollouts.mask, step_id, -1)
        if step_id.numel() and not -1 <= int(step_id.min()) <= int(step_id.max()) < max(1, steps):
            raise ValueError(f"signals['step_id'] must lie in -1..{steps - 1}, got {int(step_id.max())}")
        there = torch.zeros(len(rollouts), steps + 1, dtype=torch.bool, device=votes.device)
        there = there.scatter(1, step_id + 1, True)[:, 1:]
        rewards = rollouts.rewards.double()[:, None] + self.weight * votes.double().nan_to_num(nan=0.0)
        rewards = torch.where(there, rewards, torch.nan)
        found = standardise(rewards, rollouts.group, self.eps)
        step.note("steps", there.sum())
        step.note("steps_without_vote", (there & votes.isnan()).sum())
        step.note("steps_without_signal", (there & (found == 0)).sum())
        padded = torch.nn.functional.pad(found.nan_to_num(nan=0.0), (1, 0))
        advantages = torch.where(rollouts.mask, padded.gather(1, step_id + 1), 0.0)
        return credit.replace(advantages=advantages.to(rollouts.rewards.dtype))
