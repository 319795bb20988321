"""How well flagged spans agree with the true ones. Spans are [start, end) of tokens or characters."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Span = tuple[int, int]
_POLICY_FORMAT = re.compile(r"<think>.*?</think>\s*<answer>.*?</answer>", re.DOTALL)
_PRM_FORMAT = _POLICY_FORMAT


@dataclass(frozen=True)
class PRF:
    """Precision, recall, F1."""

    precision: float
    recall: float
    f1: float


def merge(spans: Iterable[Sequence[int]]) -> list[Span]:
    """Overlapping and touching spans as one, in order; empty ones go."""
    merged: list[Span] = []
    for start, end in sorted((int(s[0]), int(s[1])) for s in spans):
        if start >= end:
            continue
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged


def overlap(a: Sequence[int], b: Sequence[int]) -> int:
    """What two spans share."""
    return max(0, min(a[1], b[1]) - max(a[0], b[0]))


def iou(a: Sequence[int], b: Sequence[int]) -> float:
    """Intersection over union of two spans; 0 for two empty ones."""
    shared = overlap(a, b)
    union = (a[1] - a[0]) + (b[1] - b[0]) - shared
    return shared / union if union else 0.0


def macro_iou(gold: Iterable[Sequence[int]], predicted: Iterable[Sequence[int]]) -> float:
    """Shared length over joint length of two merged sets; 1 if both are empty, 0 if exactly one is (the release's)."""
    gold, predicted = merge(gold), merge(predicted)
    if not gold or not predicted:
        return float(not gold and not predicted)
    shared = sum(overlap(a, b) for a in gold for b in predicted)
    return shared / (sum(b - a for a, b in gold) + sum(b - a for a, b in predicted) - shared)


def matches(gold: Iterable[Sequence[int]], predicted: Iterable[Sequence[int]], threshold: float = 0.5) -> int:
    """Hits of the release's greedy matching: a predicted span counts if its best gold one (IoU >= threshold) is free.

    Predictions in their order; the spans are taken as given, so one that is said twice counts once.
    """
    golds = list(gold)
    used: set[int] = set()
    for span in predicted:
        values = [iou(span, each) for each in golds]
        best = max(values, default=0.0)
        if best > 0 and best >= threshold:
            used.add(values.index(best))
    return len(used)


def span_prf(gold: Iterable[Sequence[int]], predicted: Iterable[Sequence[int]], threshold: float = 0.5) -> PRF:
    """Precision, recall and F1 of one response, as the release has them; overlapping spans are not merged.

    Nothing predicted: precision 1, recall 0, F1 0; nothing to find but something predicted: 0, 1, 0. Both empty: 1, 1,
    1, as macro-IoU has it.
    """
    gold, predicted = list(gold), list(predicted)
    if not gold and not predicted:
        return PRF(1.0, 1.0, 1.0)
    if not predicted:
        return PRF(1.0, 0.0, 0.0)
    if not gold:
        return PRF(0.0, 1.0, 0.0)
    return prf(matches(gold, predicted, threshold), len(gold), len(predicted))


def prf(hits: int, gold: int, predicted: int) -> PRF:
    """From counts; a rate without a denominator is 1 for precision and recall, and F1 is 0 where nothing is hit."""
    precision = hits / predicted if predicted else 1.0
    recall = hits / gold if gold else 1.0
    return PRF(precision, recall, 2 * precision * recall / (precision + recall) if hits else 0.0)


def auroc(scores: Sequence[float], positive: Sequence[bool]) -> float | None:
    """Chance that a positive scores above a negative, ties half; None without one of both."""
    order = sorted(range(len(scores)), key=lambda i: scores[i])
    ranks = [0.0] * len(scores)
    i = 0
    while i < len(order):
        j = i
        while j + 1 < len(order) and scores[order[j + 1]] == scores[order[i]]:
            j += 1
        for k in order[i : j + 1]:
            ranks[k] = (i + j) / 2 + 1
        i = j + 1
    n_positive = sum(positive)
    n_negative = len(scores) - n_positive
    if not n_positive or not n_negative:
        return None
    total = sum(rank for rank, is_positive in zip(ranks, positive, strict=True) if is_positive)
    return (total - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative)


def word_spans(text: str, spans: Iterable[Sequence[int]]) -> list[Span]:
    """Character spans as [start, end) of word numbers: every word that shares a character (MHALO counts words)."""
    words = [(m.start(), m.end()) for m in re.finditer(r"\S+", text)]
    found = []
    for span in spans:
        hit = [i for i, word in enumerate(words) if overlap(word, span)]
        if hit:
            found.append((hit[0], hit[-1] + 1))
    return found


def mhalo_f1m(gold: Sequence[Span], predicted: Sequence[Span]) -> float:
    """MHALO's F1M on word spans: harmonic mean of the mean overlap share of predicted and of gold spans."""
    if not gold or not predicted:
        return float(not gold and not predicted)
    precision = sum(max(overlap(p, g) for g in gold) / (p[1] - p[0]) for p in predicted) / len(predicted)
    recall = sum(max(overlap(g, p) for p in predicted) / (g[1] - g[0]) for g in gold) / len(gold)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def mhalo_iou(gold: Sequence[Span], predicted: Sequence[Span]) -> float:
    """MHALO's IoU_H on word spans: mean over gold spans of the best IoU with a predicted one."""
    if not gold:
        return float(not predicted)
    return sum(max((iou(g, p) for p in predicted), default=0.0) for g in gold) / len(gold)


def policy_format(response: str) -> bool:
    """Whether a response is a think block, white space or none, and an answer block, with nothing before or after.

    As the release tests it: repeated blocks pass, white space at either end does not. As the pattern of the reward
    `format`: ``<think>.*?</think>\\s*<answer>.*?</answer>``.
    """
    return _POLICY_FORMAT.fullmatch(response) is not None


def critic_reward(output: str, gold: Iterable[Sequence[int]], predicted: Iterable[Sequence[int]]) -> float:
    """The release's reward for RL on a PRM: macro-IoU if the output has the think/answer format, else 0."""
    return macro_iou(gold, predicted) if _PRM_FORMAT.fullmatch(output) else 0.0
