"""How long the responses of one prompt agree, token by token."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

# Columns compared at once, from the first block to the largest: responses mostly part early, and a pair that has
# parted is not looked at again.
FIRST_BLOCK, LARGEST_BLOCK = 32, 1024


def group_pairs(index: Tensor) -> tuple[Tensor, Tensor]:
    """Every unordered pair of responses of the same group: two [N] int64 tensors of row numbers. `index` [B]."""
    order = torch.argsort(index, stable=True)
    grouped = index[order]
    largest = int(torch.bincount(index).max()) if index.numel() else 0
    first, second = [order[:0]], [order[:0]]
    for shift in range(1, largest):
        same = grouped[shift:] == grouped[:-shift]
        first.append(order[:-shift][same])
        second.append(order[shift:][same])
    return torch.cat(first), torch.cat(second)


def shared_prefix(tokens: Tensor, valid: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """[N] int64: number of leading tokens on which rows first[n] and second[n] agree, both being valid.

    `tokens`, `valid` [B,T]. Cost: pairs times shared length, in blocks of columns.
    """
    width = tokens.shape[1]
    shared = torch.zeros_like(first)
    open_pairs = torch.arange(first.numel(), device=first.device)
    start, block = 0, FIRST_BLOCK
    while start < width and open_pairs.numel():
        stop = min(start + block, width)
        a, b = first[open_pairs], second[open_pairs]
        columns, real = tokens[:, start:stop], valid[:, start:stop]
        parted = (columns[a] != columns[b]) | ~(real[a] & real[b])
        ends = parted.any(1)
        run = torch.where(ends, parted.to(torch.uint8).argmax(1), stop - start)
        shared[open_pairs] += run
        open_pairs = open_pairs[~ends]
        start, block = stop, min(2 * block, LARGEST_BLOCK)
    return shared
