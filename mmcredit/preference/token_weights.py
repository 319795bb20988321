"""Token weights from the structure of an answer: values of JSON keys, tokens that the other answer does not have."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import torch

if TYPE_CHECKING:
    from torch import Tensor

DiffMode = Literal["positional", "lcs"]
_STRING = r'"((?:[^"\\]|\\.)*)"'


def value_weights(text: str, offsets: Sequence[tuple[int, int]], fields: Mapping[str, float]) -> Tensor:
    """[T] float32: 1, raised to the weight of a key where a token overlaps text that is a string value of that key.

    Every occurrence of the value's text counts, wherever it stands (TAB-PO, `_apply_value_weights_with_offsets`).
    `offsets`: the characters [start, end) of each token. Values are taken as they are written; escaped quotes belong
    to them.
    """
    weights = torch.ones(len(offsets))
    for key, weight in fields.items():
        for value in set(re.findall(rf'"{re.escape(key)}"\s*:\s*{_STRING}', text)) - {""}:
            for found in re.finditer(re.escape(value), text):
                for token, (start, end) in enumerate(offsets):
                    if start < found.end() and end > found.start() and end > start:
                        weights[token] = max(float(weights[token]), weight)
    return weights


def diff_weights(
    chosen: Sequence[int], rejected: Sequence[int], factor: float, diff_mode: DiffMode = "positional"
) -> tuple[Tensor, Tensor]:
    """[T], [R] float32: `factor` on tokens that differ between the answers, 1 elsewhere.

    `positional` compares index by index up to the shorter length: behind an insertion everything differs, and the tail
    of the longer answer is not touched. `lcs` marks what is not in a longest common subsequence.
    """
    weights = torch.ones(len(chosen)), torch.ones(len(rejected))
    if diff_mode == "positional":
        for i, (a, b) in enumerate(zip(chosen, rejected, strict=False)):
            if a != b:
                weights[0][i] = weights[1][i] = factor
        return weights
    for side, kept in zip(weights, common(chosen, rejected), strict=True):
        outside = torch.ones(len(side), dtype=torch.bool)
        outside[kept] = False
        side[outside] = factor
    return weights


def common(a: Sequence[int], b: Sequence[int]) -> tuple[list[int], list[int]]:
    """Places in `a` and in `b` of a longest common subsequence."""
    start = 0
    while start < min(len(a), len(b)) and a[start] == b[start]:
        start += 1
    stop = 0
    while stop < min(len(a), len(b)) - start and a[len(a) - 1 - stop] == b[len(b) - 1 - stop]:
        stop += 1
    x, y = a[start : len(a) - stop], b[start : len(b) - stop]
    best = [[0] * (len(y) + 1) for _ in range(len(x) + 1)]
    for i in range(len(x) - 1, -1, -1):
        for j in range(len(y) - 1, -1, -1):
            best[i][j] = best[i + 1][j + 1] + 1 if x[i] == y[j] else max(best[i + 1][j], best[i][j + 1])
    left, right, i, j = list(range(start)), list(range(start)), 0, 0
    while i < len(x) and j < len(y):
        if x[i] == y[j]:
            left.append(start + i)
            right.append(start + j)
            i, j = i + 1, j + 1
        elif best[i + 1][j] >= best[i][j + 1]:
            i += 1
        else:
            j += 1
    left += range(len(a) - stop, len(a))
    right += range(len(b) - stop, len(b))
    return left, right
