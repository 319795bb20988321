"""Preference loss `tgdpo`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from pydantic import Field, model_validator

from mmcredit.components import register
from mmcredit.preference.base import Both, Known, Preference, Side, Tools, weighted_dpo

if TYPE_CHECKING:
    from torch import Tensor

    from mmcredit.preference.pairs import EncodedPair


def token_rewards(logp_rw: Tensor, logp_ref: Tensor, beta: float) -> Tensor:
    """r_t = beta (log pi_rw - log pi_ref), the reward that a preference-trained model implies; [..., T]."""
    return beta * (logp_rw - logp_ref)


def factors(r_hat: Tensor, alpha: float, *, chosen: bool, f_min: float | None = None) -> Tensor:
    """f = 1 + alpha r on the chosen answer, 1 - alpha r on the rejected one; not below `f_min` if given."""
    f = 1 + alpha * r_hat if chosen else 1 - alpha * r_hat
    return f if f_min is None else f.clamp(min=f_min)


def tgdpo_loss(
    logp_w: Tensor, ref_w: Tensor, r_w: Tensor, logp_l: Tensor, ref_l: Tensor, r_l: Tensor, beta: float, alpha: float,
    *, f_min: float | None = None, mask_w: Tensor | None = None, mask_l: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """The loss per pair, from token rewards r [..., T]."""
    f_w, f_l = factors(r_w, alpha, chosen=True, f_min=f_min), factors(r_l, alpha, chosen=False, f_min=f_min)
    return weighted_dpo(logp_w, ref_w, f_w, logp_l, ref_l, f_l, beta, mask_w=mask_w, mask_l=mask_l)


@register("preference", "tgdpo")
class TGDPO(Preference):
    """Token-level reward guidance for DPO: beta becomes beta f(r_t) per token, with rewards r_t from outside.

        L = -log sigmoid(sum_t beta f_w(r_t) a_t(chosen) - sum_t beta f_l(r_t) a_t(rejected))
        f_w = 1 + alpha r,   f_l = 1 - alpha r

    A token that the reward likes in the chosen answer, or dislikes in the rejected one, is pushed harder. arXiv
    2506.14574, section 4; alpha = 0 is `dpo` bit for bit. The rewards come once, without gradient, from

    * `reward_model`: a model trained with DPO or the like, r = beta_reward (log pi_rw - log pi_ref), as in the paper;
    * `signal`: any signal of the answers times `scale` (`hallucinated` with scale -1 for the spans of a verifier, where
      the pairs bring it: from a run with one, or columns `chosen_spans`, `rejected_spans`).

    f must stay positive for the derivation, which needs alpha |r| < 1: `frac_f_nonpositive` counts the tokens where it
    does not, `f_min` clamps (off in the paper). Differs: beta_reward is a field of its own (the paper's text and its
    code disagree about beta); default beta.
    """

    beta: float = Field(0.1, gt=0, description="strength of the pull towards the reference (code 0.1, paper 0.01)")
    alpha: float = Field(0.5, ge=0, description="strength of the token rewards; 0 = dpo")
    beta_reward: float | None = Field(None, gt=0, description="beta of the implied rewards; none = beta")
    reward_model: str | None = Field(None, description="model whose log-ratio to the reference is the reward")
    signal: str | None = Field(None, description="signal that is the reward instead")
    scale: float = Field(1.0, description="the signal is multiplied by it")
    f_min: float | None = Field(None, gt=0, description="factors are not below it; none = as published")

    @model_validator(mode="after")
    def _one_source(self) -> TGDPO:
        if self.alpha > 0 and (self.reward_model is None) == (self.signal is None):
            raise ValueError("tgdpo: give reward_model or signal, exactly one of them, as the source of token rewards")
        return self

    def values(self, pairs: Sequence[EncodedPair], known: Known, tools: Tools) -> list[Both] | None:
        if self.alpha == 0:
            return None
        if self.signal is not None:
            return [(self.scale * w, self.scale * r) for w, r in tools.signal(self.signal)]
        assert self.reward_model is not None
        beta = self.beta if self.beta_reward is None else self.beta_reward
        own = tools.logprobs_of(self.reward_model)
        return [
            (token_rewards(w, ref_w, beta), token_rewards(r, ref_l, beta))
            for (w, r), (ref_w, ref_l) in zip(own, known.ref_logprobs, strict=True)
        ]

    def __call__(self, chosen: Side, rejected: Side) -> tuple[Tensor, dict[str, Tensor]]:
        r_w, r_l = (torch.zeros_like(s.ref_logprobs) if s.values is None else s.values for s in (chosen, rejected))
        loss = tgdpo_loss(
            chosen.logprobs, chosen.ref_logprobs, r_w, rejected.logprobs, rejected.ref_logprobs, r_l, self.beta,
            self.alpha, f_min=self.f_min, mask_w=chosen.mask, mask_l=rejected.mask,
        )  # fmt: skip
        bad = (factors(r_w, self.alpha, chosen=True) <= 0) & chosen.mask
        worse = (factors(r_l, self.alpha, chosen=False) <= 0) & rejected.mask
        tokens = (chosen.mask.sum(-1) + rejected.mask.sum(-1)).clamp(min=1)
        return loss, {"frac_f_nonpositive": (bad.sum(-1) + worse.sum(-1)) / tokens}
