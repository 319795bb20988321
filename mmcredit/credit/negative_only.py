"""GRPO-N: only responses that are worse than their group are trained."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, model_validator

from mmcredit.components import Needs, register
from mmcredit.credit.base import CreditMethod, Step
from mmcredit.credit.tokens import response_mean, restrict, token_signal
from mmcredit.rollouts import Credit, Rollouts


@register("credit", "negative_only")
class NegativeOnly(CreditMethod):
    """Relative negative gradients: A <- beta*max(A, 0) + min(A, 0).

    beta 0 is GRPO-N (or GSPO-N after a sequence ratio), 1 the method before it, .1 mirrors W-REINFORCE. Groups of equal
    rewards stay at 0, unlike in negative sample reinforcement, which pushes down all-wrong groups too.

    Source: arXiv 2510.04028 (The Debate on RLVR), no code released. `normalizer: all` keeps the base's denominator
    (ours: not stated in the readable parts), so the positive half just disappears; `negative` drops the others from
    the loss, so that it is a mean over the negative responses. `below_entropy` switches the filter on only while the
    batch's mean token entropy is below it (ours, off). Pure negative credit can spread mass to nonsense in long runs:
    keep the dual clip, watch entropy and length. Truncated responses are mostly wrong and then rule the loss.
    Passes: none; `below_entropy` reads the entropy of the clean pass.
    """

    changes = ("advantages", "loss_mask")

    beta: float = Field(0.0, ge=0, le=1, description="factor of positive advantages")
    normalizer: Literal["all", "negative"] = Field("all", description="denominator of the loss")
    below_entropy: float | None = Field(None, gt=0, description="act only while the mean entropy is below this, nats")

    @model_validator(mode="after")
    def _one_sided(self) -> NegativeOnly:
        if self.normalizer == "negative" and self.beta > 0:
            raise ValueError(f"normalizer: negative drops positive tokens, so beta must be 0, got {self.beta}")
        return self

    def needs(self) -> Needs:
        return Needs(signals=() if self.below_entropy is None else ("entropy",))

    def __call__(self, credit: Credit, rollouts: Rollouts, step: Step) -> Credit:
        mask = credit.loss_mask
        if self.below_entropy is not None:
            entropy = token_signal(rollouts, "entropy", mask)
            mean = float(response_mean(entropy.flatten()[None], mask.flatten()[None]))
            step.note("mean_entropy", mean)
            if mean >= self.below_entropy:
                return credit
        advantages = credit.advantages
        positive = advantages > 0
        step.note("positive_tokens", positive.sum())
        step.note("negative_tokens", (advantages < 0).sum())
        credit = credit.replace(advantages=torch.where(positive, self.beta * advantages, advantages))
        if self.normalizer == "negative":
            return restrict(credit, advantages < 0, "kept")
        return credit
