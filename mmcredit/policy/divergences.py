"""Divergences between two next-token distributions, and the names under which a pass is asked for them.

``KIND_to:VIEW[:PARAMETER]`` compares the distribution P of the view it is asked of with Q of VIEW at every position:

* ``kl_to``: KL(P || Q);  ``reverse_kl_to``: KL(Q || P);  ``tv_to``: total variation, 1/2 sum |P - Q|;
* ``js_to``: Jensen-Shannon, 1/2 KL(P || M) + 1/2 KL(Q || M) with M = (P + Q)/2, in [0, log 2]; with a parameter p < 1
  each distribution is first cut to its smallest set of mass p and renormalised (arXiv 2603.22446 uses p = 0.7);
* ``topk_kl_to``: KL(P || Q) over the PARAMETER most likely tokens of Q and one bin for all others (arXiv 2603.10165,
  50 there); never above ``kl_to``;
* ``topk_overlap_to``: share of the PARAMETER most likely tokens of P that are among as many of Q;
* ``top1_rank_to``, ``top1_prob_to``: rank (1 = first) and probability that Q gives to P's most likely token.

Divergences in nats. VIEW is ``reference`` (the same view of the reference model), a view's name, ``NAME#2`` for index
2 of several, ``NAME@reference`` for that view of the reference model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from mmcredit.policy.passes import View

if TYPE_CHECKING:
    from torch import Tensor

# Stands for -inf: exp() of it is exactly 0, but 0 times it is 0 and not NaN, in values and gradients alike.
HIDDEN = -1e30
# The tail bin keeps at least this much (log of) mass, so that its log is finite (released code of 2603.10165).
TAIL = -1e-7
# kind -> parameter where none is given; None = the kind takes none.
KINDS: dict[str, float | None] = {
    "kl": None,
    "reverse_kl": None,
    "tv": None,
    "js": 1.0,
    "topk_kl": 50.0,
    "topk_overlap": 10.0,
    "top1_rank": None,
    "top1_prob": None,
}


@dataclass(frozen=True)
class Comparison:
    """One divergence, and the view it is taken to."""

    kind: str
    target: View
    parameter: float | None = None

    def __call__(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """log_p, log_q [N,V] (normalised; at most `HIDDEN` where impossible) -> [N]."""
        if self.kind == "kl":
            return kl(log_p, log_q)
        if self.kind == "reverse_kl":
            return kl(log_q, log_p)
        if self.kind == "tv":
            return 0.5 * (log_p.exp() - log_q.exp()).abs().sum(1)
        if self.kind in ("top1_rank", "top1_prob"):
            mine = log_q.gather(1, log_p.argmax(1, keepdim=True))
            return mine[:, 0].exp() if self.kind == "top1_prob" else 1.0 + (log_q > mine).sum(1).float()
        assert self.parameter is not None
        if self.kind == "topk_kl":
            return topk_kl(log_p, log_q, int(self.parameter))
        if self.kind == "topk_overlap":
            return topk_overlap(log_p, log_q, int(self.parameter))
        if self.parameter < 1:
            log_p, log_q = top_p(log_p, self.parameter), top_p(log_q, self.parameter)
        return js(log_p, log_q)


def parse(view: View, output: str) -> Comparison | None:
    """What an output of `view` compares; None if it is the name of something else or malformed."""
    kind, sign, rest = output.partition("_to:")
    if not sign or kind not in KINDS:
        return None
    name, sign, text = rest.partition(":")
    parameter = KINDS[kind]
    if sign:
        parameter = _parameter(kind, text)
        if parameter is None:
            return None
    target = _view(view, name)
    return None if target is None else Comparison(kind, target, parameter)


def _parameter(kind: str, text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    if kind == "js":
        return value if 0 < value <= 1 else None
    return value if kind.startswith("topk_") and value >= 1 and value == int(value) else None


def _view(view: View, name: str) -> View | None:
    if name == "reference":
        return View(view.name, view.index, "reference")
    name, _, weights = name.partition("@")
    name, _, index = name.partition("#")
    if not name or weights not in ("", "reference") or not (index or "0").isdigit():
        return None
    return View(name, int(index or 0), "reference" if weights else view.weights)


def kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """[N]: KL(P || Q)."""
    return (log_p.exp() * (log_p - log_q)).sum(1)


def js(log_p: Tensor, log_q: Tensor) -> Tensor:
    """[N]: Jensen-Shannon divergence, as a sum of terms that are all >= 0: small values are not lost in rounding.

    With p = m(1 + t), q = m(1 - t): t = tanh((log p - log q)/2), a term is m/2 ((1+t) log(1+t) + (1-t) log(1-t)).
    """
    most = 1 - torch.finfo(log_p.dtype).eps / 2  # at 1 the value is fine, the gradient is not
    t = torch.tanh((log_p - log_q) / 2).clamp(-most, most)
    m = torch.logaddexp(log_p, log_q).exp() / 2
    return (0.5 * m * ((1 + t) * torch.log1p(t) + (1 - t) * torch.log1p(-t))).sum(1)


def top_p(log_p: Tensor, p: float) -> Tensor:
    """[N,V]: log-probs of the smallest set of mass >= p, renormalised; a token stays if the mass before it is < p."""
    probabilities, order = log_p.exp().sort(dim=1, descending=True)
    keep = torch.zeros_like(log_p, dtype=torch.bool)
    keep.scatter_(1, order, probabilities.cumsum(1) - probabilities < p)
    cut = log_p.masked_fill(~keep, HIDDEN)
    return (cut - cut.logsumexp(1, keepdim=True)).masked_fill(~keep, HIDDEN)


def topk_kl(log_p: Tensor, log_q: Tensor, k: int) -> Tensor:
    """[N]: KL(P || Q) over the k most likely tokens of Q and a bin of the rest."""
    top, ids = log_q.topk(min(k, log_q.shape[1]), dim=1)
    return kl(_binned(log_p.gather(1, ids)), _binned(top))


def topk_overlap(log_p: Tensor, log_q: Tensor, k: int) -> Tensor:
    """[N]: share of the k most likely tokens of P among those of Q."""
    k = min(k, log_p.shape[1])
    mine, theirs = log_p.topk(k, dim=1).indices, log_q.topk(k, dim=1).indices
    return (mine[:, :, None] == theirs[:, None, :]).any(2).float().mean(1)


def _binned(log_p: Tensor) -> Tensor:
    """[N,k] -> [N,k+1]: with the log of the mass that is left."""
    inside = log_p.logsumexp(1, keepdim=True).clamp(max=TAIL)
    return torch.cat([log_p, torch.log(-torch.expm1(inside))], 1)
