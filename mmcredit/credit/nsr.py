"""NSR and PSR: right responses up, wrong ones down, by their own sign and without a group."""

from __future__ import annotations

import torch
from pydantic import Field, model_validator

from mmcredit.components import Needs, register
from mmcredit.credit.base import CreditMethod, Step
from mmcredit.rollouts import Credit, Rollouts, broadcast


@register("credit", "nsr")
class NSR(CreditMethod):
    """Negative (and positive) sample reinforcement: A = +positive for a right response, -negative for a wrong one.

    positive 0, negative 1 (default): NSR, only wrong responses, all-wrong groups too (`negative_only` leaves those
    alone). positive 1, negative 0: PSR. positive .1, negative 1: W-REINFORCE. Right: the reward part `success_part`, or
    the total reward, is at least `success_at`.

    Source: the NSR family as compared in arXiv 2510.04028 (The Debate on RLVR), weights of its released code
    (TianHongZXY/RLVR-Decomposed@a5d4e7c1): PSR A = R, NSR A = R - 1, lambda .1. As there, responses of weight 0 leave
    the batch, so they are in no denominator; `keep_all` leaves them in it (ours). There are no group statistics:
    constant groups and groups of one are trained, with no signal about their difficulty. Pure negative credit can
    spread mass to nonsense in long runs: keep the dual clip, watch entropy and length.
    Passes: none.
    """

    starts = True
    changes = ("advantages", "loss_mask")

    positive: float = Field(0.0, ge=0, description="weight of right responses")
    negative: float = Field(1.0, ge=0, description="weight of wrong responses")
    success_part: str | None = Field(None, description="reward part that tells a success; none = the total reward")
    success_at: float = Field(0.5, description="least value of a success")
    keep_all: bool = Field(False, description="responses of weight 0 stay in the denominator of the loss")

    @model_validator(mode="after")
    def _some(self) -> NSR:
        if self.positive == 0 == self.negative:
            raise ValueError("positive and negative are both 0: nothing would be trained")
        return self

    def needs(self) -> Needs:
        return Needs(reward_parts=(self.success_part,) if self.success_part else ())

    def __call__(self, credit: Credit, rollouts: Rollouts, step: Step) -> Credit:
        values = rollouts.rewards
        if self.success_part is not None:
            if self.success_part not in rollouts.reward_parts:
                known = ", ".join(sorted(rollouts.reward_parts)) or "none"
                raise ValueError(f"nsr: success_part {self.success_part!r} is not a reward part (present: {known})")
            values = rollouts.reward_parts[self.success_part]
        right = values >= self.success_at
        weights = torch.where(right, self.positive, -self.negative).to(rollouts.rewards.dtype)
        step.note("right", right.sum())
        step.note("wrong", (~right).sum())
        credit = credit.replace(advantages=broadcast(weights, rollouts.mask))
        if self.keep_all:
            return credit
        return credit.replace(loss_mask=credit.loss_mask & (weights != 0)[:, None])
