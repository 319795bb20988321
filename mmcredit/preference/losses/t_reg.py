"""Preference loss `t_reg`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field

from mmcredit.components import register
from mmcredit.preference.base import (
    Both,
    Known,
    Preference,
    Rewrite,
    Side,
    Tools,
    log_ratio,
    weighted_dpo,
    weighted_sum,
)

if TYPE_CHECKING:
    from torch import Tensor

    from mmcredit.preference.pairs import EncodedPair

BETTER = "helpful, correct, coherent and concise"
WORSE = "unhelpful, incorrect, incoherent and verbose"


def contrast_rewards(better: Tensor, worse: Tensor) -> Tensor:
    """r_t = sigmoid(log pi(y_t | x_better) - log pi(y_t | x_worse)) - 1/2, in (-1/2, 1/2); [..., T]."""
    return torch.sigmoid(better - worse) - 0.5


def t_reg_loss(
    logp_w: Tensor, ref_w: Tensor, r_w: Tensor, logp_l: Tensor, ref_l: Tensor, r_l: Tensor, beta: float, alpha: float,
    *, mask_w: Tensor | None = None, mask_l: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """L_DPO + alpha w (L_reg(chosen) + L_reg(rejected)) per pair, L_reg = -sum_t beta r_t log pi(y_t), and
    w = sigmoid(R(rejected) - R(chosen)) as a constant. Everything [..., T] -> [...]."""
    loss = weighted_dpo(logp_w, ref_w, None, logp_l, ref_l, None, beta, mask_w=mask_w, mask_l=mask_l)
    if alpha == 0:
        return loss
    reward_w, reward_l = log_ratio(logp_w, ref_w, mask_w).sum(-1), log_ratio(logp_l, ref_l, mask_l).sum(-1)
    weight = torch.sigmoid(beta * (reward_l - reward_w)).detach()
    return loss - alpha * weight * beta * (_graded(logp_w, r_w, mask_w) + _graded(logp_l, r_l, mask_l))


def simpo_reg_loss(
    logp_w: Tensor, r_w: Tensor, logp_l: Tensor, r_l: Tensor, beta: float, alpha: float, gamma_ratio: float,
    *, mask_w: Tensor | None = None, mask_l: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """The same on SimPO (arXiv 2405.14734): no reference, means over tokens, a margin gamma = gamma_ratio beta."""
    zero = torch.zeros(())
    mean_w, mean_l = (
        log_ratio(logp, zero, mask).sum(-1) / length
        for logp, mask in ((logp_w, mask_w), (logp_l, mask_l))
        for length in (_length(logp, mask),)
    )
    margin = beta * (mean_w - mean_l) - gamma_ratio * beta
    loss = -torch.nn.functional.logsigmoid(margin)
    if alpha == 0:
        return loss
    weight = torch.sigmoid(-margin).detach()
    own_w, own_l = _graded(logp_w, r_w, mask_w), _graded(logp_l, r_l, mask_l)
    own = own_w / _length(logp_w, mask_w) + own_l / _length(logp_l, mask_l)
    return loss - alpha * weight * beta * own


def _graded(logp: Tensor, r: Tensor, mask: Tensor | None) -> Tensor:
    return weighted_sum(log_ratio(logp, torch.zeros_like(logp), mask), r)


def _length(values: Tensor, mask: Tensor | None) -> Tensor | int:
    return values.shape[-1] if mask is None else mask.sum(-1).clamp(min=1)


class _Ask:
    """The prompt that grades an answer: the instruction, with or without the answer itself."""

    def __init__(self, qualities: str, variant: str) -> None:
        self.qualities, self.variant = qualities, variant

    def __call__(self, question: str, answer: str) -> str:
        if self.variant == "P":
            return f"{question}\n\nAnswer in a way that is {self.qualities}."
        return (
            f"### Task\n{question}\n\n### Response\n{answer}\n\nRewrite the response so that it is more "
            f"{self.qualities}."
        )


@register("preference", "t_reg")
class TReg(Preference):
    """Token-level reward regularisation: DPO, and a pull of each token towards what the reference itself grades better.

        r_t = sigmoid(log pi_ref(y_t | x_better, y_<t) - log pi_ref(y_t | x_worse, y_<t)) - 1/2
        L = L_DPO + alpha w [L_reg(chosen) + L_reg(rejected)],   L_reg(y) = -sum_t beta r_t log pi(y_t)
        w = sigmoid(R(rejected) - R(chosen)),   R(y) = sum_t beta log(pi / pi_ref)(y_t)

    x_better and x_worse ask to revise the answer in two directions. arXiv 2412.02685; alpha = 0 is `dpo` bit for bit.
    With w constant the gradient is that of DPO times 1 + alpha r on chosen and 1 - alpha r on rejected tokens. `base:
    simpo` has means instead of sums, no reference and the margin gamma_ratio beta.

    Differs: the paper's prompt text is not published; `variant: R` shows the response and asks for a rewrite, `P` only
    asks for an answer of that kind. w is a constant (the paper calls it a weight taken from the gradient). Images stay
    in both prompts. Passes: two per answer, once, without gradient.
    """

    beta: float = Field(0.1, gt=0, description="strength of the pull towards the reference (simpo: about 2 to 10)")
    alpha: float = Field(0.25, ge=0, description="strength of the regulariser (paper: 0.1, 0.25, 0.5); 0 = dpo")
    base: Literal["dpo", "simpo"] = Field("dpo", description="the loss that is regularised")
    gamma_ratio: float = Field(0.5, ge=0, description="simpo: margin over beta")
    variant: Literal["R", "P"] = Field("R", description="R: rewrite the response shown; P: plain answer")
    better: str = Field(BETTER, min_length=1, description="qualities that the better prompt asks for")
    worse: str = Field(WORSE, min_length=1, description="qualities that the worse prompt asks for")
    zero_first: bool = Field(False, description="no reward on the first token, which depends on the prompt most")

    def values(self, pairs: Sequence[EncodedPair], known: Known, tools: Tools) -> list[Both] | None:
        if self.alpha == 0:
            return None
        better, worse = (tools.logprobs_after(self._rewrite(words)) for words in (self.better, self.worse))
        found = []
        for up, down in zip(better, worse, strict=True):
            sides = [contrast_rewards(u, d) for u, d in zip(up, down, strict=True)]
            if self.zero_first:
                for side in sides:
                    side[:1] = 0
            found.append((sides[0], sides[1]))
        return found

    def _rewrite(self, qualities: str) -> Rewrite:
        return _Ask(qualities, self.variant)

    def __call__(self, chosen: Side, rejected: Side) -> tuple[Tensor, dict[str, Tensor]]:
        r_w, r_l = (torch.zeros_like(s.ref_logprobs) if s.values is None else s.values for s in (chosen, rejected))
        masks = {"mask_w": chosen.mask, "mask_l": rejected.mask}
        if self.base == "simpo":
            args = (chosen.logprobs, r_w, rejected.logprobs, r_l)
            return simpo_reg_loss(*args, self.beta, self.alpha, self.gamma_ratio, **masks), {}
        loss = t_reg_loss(
            chosen.logprobs, chosen.ref_logprobs, r_w, rejected.logprobs, rejected.ref_logprobs, r_l, self.beta,
            self.alpha, **masks,
        )  # fmt: skip
        return loss, {}
