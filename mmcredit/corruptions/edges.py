"""Edges of a grey picture, distances to them, and how a histogram is spread: the steps behind drops of water.

Each follows OpenCV's function of that purpose to the grey level, so that published pictures can be had without it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mmcredit.corruptions.base import Floats

Bytes = NDArray[np.uint8]

_TAN_22 = 13573  # tan(22.5 degrees) * 2^15
_STEP, _DIAGONAL, _KNIGHT = 1.0, 1.4, 2.1969  # lengths of the moves of a 5x5 distance mask


def shifted(values: np.ndarray, down: int, across: int, outside: float = 0) -> np.ndarray:
    """[H,W] whose place (y,x) holds the value at (y + down, x + across), `outside` beyond the border."""
    reach = max(abs(down), abs(across))
    padded = np.pad(values, reach, constant_values=outside)
    height, width = values.shape
    return padded[reach + down : reach + down + height, reach + across : reach + across + width]


def box_mean(values: Floats) -> Floats:
    """[H,W] float32, the mean of 3x3 pixels; mirrored at the border, which is not repeated."""
    padded = np.pad(values.astype(np.float32), 1, mode="reflect" if min(values.shape) > 1 else "edge")
    rows = padded[:-2] + padded[1:-1] + padded[2:]
    return ((rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]) / 9).astype(np.float32)


def edges(grey: Bytes, low: int, high: int) -> NDArray[np.bool_]:
    """[H,W] of grey levels to [H,W]: Canny's edges. Gradients by Sobel's 3x3 masks, their size |dx| + |dy|.

    An edge is the largest across its direction; those above `low` count if they touch one above `high`.
    """
    padded = np.pad(grey.astype(np.int32), 1, mode="edge")
    smooth_down = padded[:-2] + 2 * padded[1:-1] + padded[2:]
    smooth_across = padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]
    dx = smooth_down[:, 2:] - smooth_down[:, :-2]
    dy = smooth_across[2:] - smooth_across[:-2]
    size = np.abs(dx) + np.abs(dy)

    def over(*places: tuple[int, int]) -> np.ndarray:
        """Larger than the first neighbour, and not smaller than the second."""
        return (size > shifted(size, *places[0])) & (size >= shifted(size, *places[1]))

    flat, steep = np.abs(dx).astype(np.int64), np.abs(dy).astype(np.int64) << 15
    horizontal = steep < flat * _TAN_22
    vertical = steep > flat * _TAN_22 + (flat << 16)
    falling = (size > shifted(size, -1, -1)) & (size > shifted(size, 1, 1))
    rising = (size > shifted(size, -1, 1)) & (size > shifted(size, 1, -1))
    slanted = np.where((dx < 0) != (dy < 0), rising, falling)
    largest = np.where(horizontal, over((0, -1), (0, 1)), np.where(vertical, over((-1, 0), (1, 0)), slanted))
    candidates = largest & (size > low)
    return _touching(candidates & (size > high), candidates)


def _touching(seeds: np.ndarray, candidates: np.ndarray) -> NDArray[np.bool_]:
    """The candidates that hang together with a seed, diagonal neighbours included."""
    height, width = seeds.shape
    waiting = np.pad(candidates & ~seeds, 1)
    found = np.pad(seeds, 1)
    around = np.array([dy * (width + 2) + dx for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dy or dx])
    open_, done = waiting.ravel(), found.ravel()  # views
    frontier = np.flatnonzero(done)
    while frontier.size:
        near = np.unique((frontier[:, None] + around).ravel())
        frontier = near[open_[near]]
        open_[frontier] = False
        done[frontier] = True
    return found[1 : height + 1, 1 : width + 1]


def distances(targets: NDArray[np.bool_]) -> Floats:
    """[H,W]: how far the nearest target is, in moves of length 1, 1.4 (diagonal) and 2.1969 (a knight's); inf for none.

    Two passes, downwards and upwards, each row from its neighbours before it.
    """
    height, width = targets.shape
    found = np.full((height + 4, width + 4), np.inf)
    found[2:-2, 2:-2][targets] = 0
    columns = np.arange(width) * _STEP
    for rows, before in ((range(2, height + 2), -1), (range(height + 1, 1, -1), 1)):
        for y in rows:
            near, far = found[y + before], found[y + 2 * before]
            best = found[y, 2:-2].copy()
            for move, row, at in (
                *((_KNIGHT, far, 1), (_KNIGHT, far, 3), (_KNIGHT, near, 0), (_KNIGHT, near, 4)),
                *((_DIAGONAL, near, 1), (_DIAGONAL, near, 3), (_STEP, near, 2)),
            ):
                np.minimum(best, row[at : at + width] + move, out=best)
            # Along the row: the least of all places before, one step each.
            if before < 0:
                best = np.minimum.accumulate(best - columns) + columns
            else:
                best = (np.minimum.accumulate((best + columns)[::-1]))[::-1] - columns
            found[y, 2:-2] = best
    return found[2:-2, 2:-2].astype(np.float32)


def equalised(grey: Bytes) -> Bytes:
    """Grey levels spread so that each is about equally frequent; a picture of one level stays as it is."""
    counts = np.bincount(grey.ravel(), minlength=256)
    first = int(np.flatnonzero(counts)[0])
    rest = grey.size - int(counts[first])
    if rest == 0:
        return grey
    counts[first] = 0
    table = np.rint(np.cumsum(counts) * np.float32(255 / rest))
    return np.clip(table, 0, 255).astype(np.uint8)[grey]


def filtered(grey: Bytes, kernel: NDArray[np.int64]) -> Bytes:
    """[H,W] correlated with a 3x3 kernel of whole numbers, cut to 0..255; mirrored at the border, not repeated."""
    padded = np.pad(grey.astype(np.int64), 1, mode="reflect" if min(grey.shape) > 1 else "edge")
    height, width = grey.shape
    total = sum(kernel[i, j] * padded[i : i + height, j : j + width] for i in range(3) for j in range(3))
    return np.clip(total, 0, 255).astype(np.uint8)
