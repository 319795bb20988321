"""Preference loss `tab_po`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field, model_validator

from mmcredit.components import register
from mmcredit.preference.base import Both, Known, Preference, Side, Tools, log_ratio, weighted_sum
from mmcredit.preference.token_weights import diff_weights, value_weights

if TYPE_CHECKING:
    from torch import Tensor

    from mmcredit.preference.pairs import EncodedPair

Reduction = Literal["weighted_mean", "sum"]


def normalised(weight: Tensor, mask: Tensor | None = None) -> Tensor:
    """w_t T / max(sum w, 1e-6): mean 1 over the T answer tokens; [..., T]."""
    weight = weight if mask is None else torch.where(mask, weight, torch.zeros_like(weight))
    return weight * _length(weight, mask) / weight.sum(-1, keepdim=True).clamp(min=1e-6)


def _length(weight: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return torch.full((*weight.shape[:-1], 1), float(weight.shape[-1]), dtype=weight.dtype, device=weight.device)
    return mask.sum(-1, keepdim=True).clamp(min=1).to(weight.dtype)


def confidence_gated_nll(logp: Tensor, weight: Tensor, tau: float, mask: Tensor | None = None) -> Tensor:
    """The barrier: sum_t w g (-log p) / max(sum_t w g, 1) with g = [log p < log tau] as a constant; [..., T] -> [...].

    Usable by itself as an anchor on answer tokens of rewarded responses.
    """
    gate = logp.detach() < math.log(tau)
    gate = gate if mask is None else gate & mask
    gated = torch.where(gate, weight, torch.zeros_like(weight))
    return -(gated * torch.where(gate, logp, torch.zeros_like(logp))).sum(-1) / gated.sum(-1).clamp(min=1.0)


def tab_po_loss(
    logp_w: Tensor, ref_w: Tensor, weight_w: Tensor, logp_l: Tensor, ref_l: Tensor, weight_l: Tensor,
    beta: float, tau: float, lam: float, *, reduction: Reduction = "weighted_mean",
    mask_w: Tensor | None = None, mask_l: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """L_pref + lam L_bar per pair; log-probs, reference and weights [..., T] -> [...].

    `weighted_mean` (the code): margins are means under weights of mean 1. `sum` (version 2 of the paper): plain sums,
    no weights, in the margin and in the barrier.
    """
    a_w, a_l = log_ratio(logp_w, ref_w, mask_w), log_ratio(logp_l, ref_l, mask_l)
    if reduction == "sum":
        weight_w = torch.ones_like(logp_w)
        margin = weighted_sum(a_w, None) - weighted_sum(a_l, None)
    else:
        weight_w, weight_l = normalised(weight_w, mask_w), normalised(weight_l, mask_l)
        margin = weighted_sum(a_w, weight_w) / _length(a_w, mask_w)[..., 0]
        margin = margin - weighted_sum(a_l, weight_l) / _length(a_l, mask_l)[..., 0]
    loss = -torch.nn.functional.logsigmoid(beta * margin)
    return loss if lam == 0 else loss + lam * confidence_gated_nll(logp_w, weight_w, tau, mask_w)


@register("preference", "tab_po")
class TabPO(Preference):
    """Token-level adaptive barrier preference optimisation: weighted DPO, and a supervised anchor on unsure tokens.

        w^ = w T / sum(w)
        mu(u) = (1/T) sum_t w^_t log p_t
        A = mu_policy - mu_ref
        L_pref = -log sigmoid(beta [A(chosen) - A(rejected)])
        g_t = [log p_t < log tau] on chosen tokens, without gradient
        L = L_pref + lam sum_t w^ g (-log p) / max(sum_t w^ g, 1)

    For structured answers whose two sides differ in a few tokens. arXiv 2603.00025, version 1, as its public code;
    `reduction: sum` is version 2 (sums, no weights), which with lam 0 is `dpo` bit for bit. The mean makes the pull on
    a token beta / T: beta here is not DPO's.

    Weights start at 1. `fields` raises tokens of the values of JSON keys (every occurrence of the value's text);
    `diff_weight` multiplies tokens that the other side does not have: `positional` compares index by index, as the code
    does; `lcs` aligns first. `signal`: weights 1 + strength * signal instead. Note the gate rate, logged as
    `gate_rate`: with tau near 1 the term is supervised training on nearly all tokens.
    """

    beta: float = Field(0.5, gt=0, description="margin scale; of means, not of sums")
    tau: float = Field(0.66, gt=0, lt=1, description="tokens below this probability are anchored")
    lam: float = Field(0.5, ge=0, description="weight of the anchor")
    reduction: Reduction = Field("weighted_mean", description="weighted_mean (code) or sum (paper, version 2)")
    fields: dict[str, float] = Field(
        default_factory=lambda: {"Code": 1.1, "Sub-code": 1.2, "Subcode": 1.2, "Span": 1.1},
        description="weight of the string values of these JSON keys",
    )
    diff_weight: float = Field(1.2, ge=0, description="factor of tokens that differ; up to 1: off")
    diff_mode: Literal["positional", "lcs"] = Field("positional", description="how the sides are compared")
    signal: str | None = Field(None, description="signal that makes the weights instead of the structure")
    strength: float = Field(1.0, description="weight of the signal")

    @model_validator(mode="after")
    def _weights(self) -> TabPO:
        if bad := {key: weight for key, weight in self.fields.items() if weight < 0}:
            raise ValueError(f"tab_po: fields {bad} must not be negative")
        return self

    def values(self, pairs: Sequence[EncodedPair], known: Known, tools: Tools) -> list[Both] | None:
        if self.signal is not None:
            return [
                ((1 + self.strength * w).clamp(min=0), (1 + self.strength * r).clamp(min=0))
                for w, r in tools.signal(self.signal)
            ]
        found = []
        for pair, (text_w, text_l) in zip(pairs, tools.texts(), strict=True):
            w = value_weights(text_w, tools.offsets(pair.chosen), self.fields)
            r = value_weights(text_l, tools.offsets(pair.rejected), self.fields)
            if self.diff_weight > 1:
                more_w, more_l = diff_weights(pair.chosen, pair.rejected, self.diff_weight, self.diff_mode)
                w, r = w * more_w, r * more_l
            found.append((w, r))
        return found

    def __call__(self, chosen: Side, rejected: Side) -> tuple[Tensor, dict[str, Tensor]]:
        w, r = (torch.ones_like(s.ref_logprobs) if s.values is None else s.values for s in (chosen, rejected))
        loss = tab_po_loss(
            chosen.logprobs, chosen.ref_logprobs, w, rejected.logprobs, rejected.ref_logprobs, r, self.beta, self.tau,
            self.lam, reduction=self.reduction, mask_w=chosen.mask, mask_l=rejected.mask,
        )  # fmt: skip
        gate = (chosen.logprobs.detach() < math.log(self.tau)) & chosen.mask
        return loss, {"gate_rate": gate.sum(-1) / chosen.mask.sum(-1).clamp(min=1)}
