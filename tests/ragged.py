"""Rollouts from rows of unequal length, for tests of credit methods."""

import torch

from mmcredit import Rollouts


def pad(rows, fill=0.0, width=None):
    """[B,T] float32 from lists of numbers."""
    width = max(map(len, rows)) if width is None else width
    return torch.tensor([list(row) + [fill] * (width - len(row)) for row in rows], dtype=torch.float32)


def mask_of(lengths, width=None):
    """[B,T] bool."""
    return torch.arange(max(lengths) if width is None else width)[None] < torch.tensor(lengths)[:, None]


def rollouts(lengths, rewards, group=None, signals=None, old=None, **fields):
    """Rollouts with these response lengths; `signals` and `old` (probabilities, not logs) are ragged rows."""
    mask = mask_of(lengths)
    width = mask.shape[1]
    return Rollouts(
        tokens=torch.ones(mask.shape, dtype=torch.int64),
        mask=mask,
        group=torch.zeros(len(lengths), dtype=torch.int64) if group is None else torch.tensor(group),
        rewards=torch.tensor(rewards, dtype=torch.float32),
        signals={name: pad(rows, 0.0, width) for name, rows in (signals or {}).items()},
        old_logprobs=None if old is None else pad(old, 1.0, width).log(),
        **fields,
    )
