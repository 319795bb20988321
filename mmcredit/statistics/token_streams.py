"""Tokenizers and token streams: premiums of languages, entropies, drift, and how far a router is from an oracle.

Pure functions over texts and id sequences; `mmcredit diagnose tokens` prints them for data and runs.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def premium(tokens: Mapping[str, Sequence[int]], reference: str) -> dict[str, float]:
    """Token premium of each language: its tokens over those of the reference, on parallel texts.

    `tokens`: per language the token counts of the same sentences in the same order. Raises ValueError for languages
    that are not parallel, or a reference without tokens. ("Explaining and Mitigating Crosslingual Tokenizer
    Inequities".)
    """
    if reference not in tokens:
        raise ValueError(f"the reference language {reference!r} is not there; known: {', '.join(sorted(tokens))}")
    lengths = {language: len(counts) for language, counts in tokens.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"the texts are not parallel: {lengths} sentences; give the same ones in every language")
    base = sum(tokens[reference])
    if not base:
        raise ValueError(f"the reference language {reference!r} has no tokens")
    return {language: sum(counts) / base for language, counts in tokens.items()}


def fair_limit(limit: int, premiums: Mapping[str, float]) -> dict[str, int]:
    """The length limit of each language that allows as much text as `limit` does in the reference, rounded up."""
    return {language: math.ceil(limit * value - 1e-9) for language, value in premiums.items()}


def unigram_entropy(streams: Sequence[Sequence[int]]) -> float:
    """H_1 in bits of the ids of all streams; NaN without any."""
    counts = np.array(list(Counter(i for ids in streams for i in ids).values()), dtype=np.float64)
    if not counts.size:
        return math.nan
    p = counts / counts.sum()
    return float(-(p * np.log2(p)).sum())


def conditional_entropy(streams: Sequence[Sequence[int]], n: int = 2, vocabulary: int | None = None) -> float:
    """H(X_n | X_1..n-1) in bits from n-gram counts with add-1/2 smoothing over the ids that occur (n at most 3).

    -sum over n-grams of p(context, x) log2 p(x | context), p(x | context) = (count + 1/2) / (context count + V/2) and
    p(context, x) the share of the n-gram; V: ids that occur (or `vocabulary`). NaN without an n-gram.
    """
    if not 1 <= n <= 3:
        raise ValueError(f"n-grams up to 3 are counted, got {n}")
    if n == 1:
        return unigram_entropy(streams)
    grams: Counter[tuple[int, ...]] = Counter()
    for ids in streams:
        grams.update(tuple(ids[i : i + n]) for i in range(len(ids) - n + 1))
    if not grams:
        return math.nan
    contexts: Counter[tuple[int, ...]] = Counter()
    for gram, count in grams.items():
        contexts[gram[:-1]] += count
    size = vocabulary or len({i for ids in streams for i in ids})
    total = sum(grams.values())
    return -sum(
        count / total * math.log2((count + 0.5) / (contexts[gram[:-1]] + 0.5 * size)) for gram, count in grams.items()
    )


def jensen_shannon(one: Sequence[Sequence[int]], other: Sequence[Sequence[int]]) -> float:
    """Jensen-Shannon divergence in bits of the unigrams of two sets of streams: 0 equal, 1 disjoint; NaN for none."""
    counts = [Counter(i for ids in streams for i in ids) for streams in (one, other)]
    if not all(counts):
        return math.nan
    keys = sorted(counts[0].keys() | counts[1].keys())
    p, q = (np.array([c[k] for k in keys], dtype=np.float64) / sum(c.values()) for c in counts)
    middle = (p + q) / 2

    def against(x: np.ndarray) -> float:
        there = x > 0
        return float((x[there] * np.log2(x[there] / middle[there])).sum())

    return (against(p) + against(q)) / 2


def stream_statistics(streams: Sequence[Sequence[int]], vocabulary: int) -> dict[str, float]:
    """Tokens, ids used, unigram and conditional entropy (bits), and the share of the vocabulary's capacity in use.

    ("An Information-Theoretic Perspective on LLM Tokenizers": entropies and capacity of a token stream.)
    """
    first = unigram_entropy(streams)
    return {
        "tokens": float(sum(len(ids) for ids in streams)),
        "ids_used": float(len({i for ids in streams for i in ids})),
        "unigram_entropy": first,
        "conditional_entropy": conditional_entropy(streams, 2),
        "capacity_used": first / math.log2(vocabulary) if vocabulary > 1 else math.nan,
    }


def drift(reference: Sequence[Sequence[int]], rollouts: Sequence[Sequence[int]]) -> dict[str, float]:
    """How far the ids of rollouts are from those of the prompts (or of SFT data): divergence and difference of
    entropies, in bits."""
    return {
        "jensen_shannon": jensen_shannon(reference, rollouts),
        "entropy_change": unigram_entropy(rollouts) - unigram_entropy(reference),
    }


def oracle_gap(nll_small: Any, nll_large: Any, routed: Any) -> dict[str, float]:
    """A router against the oracle that routes as many tokens, by d_t = NLL_small - NLL_large.

    All [N], `routed` bool. `recall`: share of the oracle's tokens that the router took; `gain` and `oracle_gain`: mean
    NLL saved per token (nats). A router that never routes has recall NaN and gain 0. ("Duo-LLM".)
    """
    d = np.asarray(nll_small, dtype=np.float64) - np.asarray(nll_large, dtype=np.float64)
    chosen = np.asarray(routed, dtype=bool)
    if d.shape != chosen.shape or d.ndim != 1 or not d.size:
        raise ValueError(f"losses and routed must be [N] with tokens, got {d.shape} and {chosen.shape}")
    count = int(chosen.sum())
    best = np.zeros_like(chosen)
    best[np.argsort(-d, kind="stable")[:count]] = True
    return {
        "share": count / len(d),
        "recall": float((best & chosen).sum() / count) if count else math.nan,
        "gain": float(d[chosen].sum() / len(d)),
        "oracle_gain": float(d[best].sum() / len(d)),
    }
