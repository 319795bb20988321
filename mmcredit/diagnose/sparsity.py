"""How unevenly divergence is spread over tokens. Pure functions of per-token values; the statistics of section 2 of our
notes on Sparse but Critical (arXiv 2603.22446)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mmcredit.diagnose.divergence import OVERLAP_K
from mmcredit.intervals import Interval

if TYPE_CHECKING:
    from torch import Tensor

    from mmcredit.diagnose.divergence import TokenDivergence

THRESHOLDS = (0.0001, 0.001, 0.01, 0.05, 0.1, 0.2, 0.3)
PERCENTILES = (50.0, 75.0, 80.0, 85.0, 90.0, 95.0, 98.0, 99.0, 99.9)
MASSES = (0.5, 0.8, 0.9, 0.95, 0.99)
MEANS = ("js", "js_full", "kl_base_trained", "kl_trained_base", "tv")
SHIFTED = 0.1  # the paper looks at re-ranking where the divergence is above it
RESAMPLES = 2000


def summarise(found: TokenDivergence, bins: int = 10, seed: int = 0) -> dict[str, Any]:
    """Every statistic as plain numbers, ready for JSON. Raises ValueError if there are no tokens."""
    if not len(found):
        raise ValueError("the responses have no tokens; nothing can be compared")
    js = found["js"]
    return {
        "tokens": len(found),
        "responses": int(found.response.unique().numel()),
        "mean": {name: float(found[name].mean()) for name in MEANS},
        "mean_abs_log_ratio": float(found["log_ratio"].abs().mean()),
        "above": {f"{t:g}": _plain(share_above(js, found.response, t, seed)) for t in THRESHOLDS},
        "percentiles": percentiles(js),
        "sparsity": {f"{m:g}": share_holding(js, m) for m in MASSES},
        "by_position": by_bin(js, found.relative, [i / bins for i in range(1, bins)]),
        "by_entropy_base": by_bin(js, found["entropy_base"], _quantiles(found["entropy_base"], bins)),
        "by_entropy_trained": by_bin(js, found["entropy_trained"], _quantiles(found["entropy_trained"], bins)),
        "rank_correlation": {name: spearman(js, found[name]) for name in ("entropy_base", "entropy_trained")},
        "reranking": reranking(found),
    }


def share_above(values: Tensor, response: Tensor, threshold: float, seed: int = 0) -> Interval:
    """Share of tokens above a threshold, with a 95 % bootstrap interval over responses (tokens of one response are not
    independent). Where all tokens fall on one side the interval has no width."""
    hits = (values > threshold).double()
    _, index = torch.unique(response, return_inverse=True)
    count = int(index.max()) + 1
    per_hit = torch.zeros(count, dtype=torch.float64).index_add_(0, index, hits).numpy()
    per_token = torch.bincount(index, minlength=count).double().numpy()
    random = np.random.RandomState(seed)
    shares = np.empty(RESAMPLES)
    for i in range(RESAMPLES):
        weights = np.bincount(random.randint(0, count, count), minlength=count)
        shares[i] = weights @ per_hit / (weights @ per_token)
    low, high = np.percentile(shares, [2.5, 97.5])
    return Interval(float(hits.mean()), float(low), float(high), len(values))


def share_holding(values: Tensor, mass: float) -> float:
    """Smallest share of tokens that together hold `mass` of the total; 0 where the total is 0."""
    ordered = values.double().sort(descending=True).values
    cumulated = ordered.cumsum(0)
    total = float(cumulated[-1])
    if total <= 0:
        return 0.0
    # A hair below the target: float32 values may sum to just under their share.
    needed = int((cumulated < mass * total * (1 - 1e-6)).sum()) + 1
    return needed / len(values)


def curve(values: Tensor, points: int = 200) -> list[tuple[float, float]]:
    """The sparsity curve: (share of tokens, largest first; share of the total divergence they hold)."""
    ordered = values.double().sort(descending=True).values.cumsum(0)
    total = float(ordered[-1])
    n = len(values)
    places = sorted({min(n, max(1, math.ceil(n * i / points))) for i in range(1, points + 1)})
    return [(0.0, 0.0), *((k / n, float(ordered[k - 1]) / total if total > 0 else 0.0) for k in places)]


def percentiles(values: Tensor, at: Sequence[float] = PERCENTILES) -> dict[str, float]:
    """Values below which a share of the tokens lies."""
    return {f"{p:g}": float(v) for p, v in zip(at, np.percentile(values.double().numpy(), at), strict=True)}


def by_bin(values: Tensor, key: Tensor, edges: Sequence[float]) -> list[dict[str, float]]:
    """Mean of `values` by where `key` falls between `edges` (right-open); `key` is the mean key of the bin."""
    index = torch.bucketize(key.double(), torch.tensor(edges, dtype=torch.float64), right=True)
    rows = []
    for i in range(len(edges) + 1):
        inside = index == i
        if bool(inside.any()):
            mean, middle = float(values[inside].double().mean()), float(key[inside].double().mean())
            rows.append({"key": middle, "mean": mean, "tokens": int(inside.sum())})
    return rows


def spearman(a: Tensor, b: Tensor) -> float:
    """Rank correlation, ties at their mean rank; NaN where one of the two is constant."""
    ranks = torch.stack([_ranks(a), _ranks(b)])
    if bool((ranks.std(1, correction=0) == 0).any()):
        return math.nan
    return float(torch.corrcoef(ranks)[0, 1])


def reranking(found: TokenDivergence, threshold: float = SHIFTED) -> dict[str, Any]:
    """How the trained model moved its choices: mostly among tokens that the base model ranks high?

    `overlap`: share of its k most likely tokens that are the base's too, where the divergence is above `threshold`.
    `top1_in_base_top`: share of these places whose most likely token is among the base's first k. `top1_below_0.01`:
    share where the base gives it less than 0.01.
    """
    shifted = found["js"] > threshold
    count = int(shifted.sum())
    if not count:
        return {"threshold": threshold, "places": 0}
    rank = found["top1_rank"][shifted]
    return {
        "threshold": threshold,
        "places": count,
        "overlap": {str(k): float(found[f"overlap_{k}"][shifted].mean()) for k in OVERLAP_K},
        "top1_in_base_top": {str(k): float((rank <= k).float().mean()) for k in (1, 2, 3, 5, 10)},
        "top1_below_0.01": float((found["top1_prob"][shifted] < 0.01).float().mean()),
    }


def jaccard(a: Tensor, b: Tensor) -> float:
    """Size of the intersection over that of the union of two sets given as [N] bool; 1 for two empty ones."""
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else 1.0


def _ranks(values: Tensor) -> Tensor:
    _, index, counts = torch.unique(values.double(), return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    return (last - (counts.double() - 1) / 2)[index]


def _quantiles(values: Tensor, bins: int) -> list[float]:
    found = np.percentile(values.double().numpy(), [100 * i / bins for i in range(1, bins)])
    return sorted({float(v) for v in found})


def _plain(interval: Interval) -> dict[str, float]:
    return {"value": interval.value, "low": interval.low, "high": interval.high}
