"""The shared worked example B0: four responses of one prompt, old and new probabilities of their tokens."""

from __future__ import annotations

import torch

from mmcredit import Credit, Rollouts

LENGTHS = [3, 2, 4, 2]
OLD = [[0.5, 0.8, 0.1, 0.5], [0.9, 0.2, 0.5, 0.5], [0.6, 0.05, 0.7, 0.4], [0.3, 0.95, 0.5, 0.5]]
NEW = [[0.59, 0.82, 0.16, 0.9], [0.95, 0.1, 0.9, 0.9], [0.45, 0.08, 0.72, 0.44], [0.33, 0.9, 0.9, 0.9]]
REWARDS = (1.0, 0.0, 0.0, 1.0)


def mask_of(lengths, width=None):
    return torch.arange(width or max(lengths))[None] < torch.tensor(lengths)[:, None]


def padded(rows, width=None, fill=0.0):
    width = width or max(len(row) for row in rows)
    return torch.tensor([list(row) + [fill] * (width - len(row)) for row in rows])


def rollouts_of(rewards, lengths, group=None, *, width=None, **fields):
    """Rollouts of one prompt (or of `group`), token ids 1, with the given fields."""
    mask = mask_of(lengths, width)
    return Rollouts(
        tokens=fields.pop("tokens", torch.ones(mask.shape, dtype=torch.int64)),
        mask=mask,
        group=torch.tensor(group if group is not None else [0] * len(lengths)),
        rewards=torch.tensor([float(r) for r in rewards]),
        **fields,
    )


def b0(rewards=REWARDS, group=None, **fields):
    return rollouts_of(rewards, LENGTHS, group, old_logprobs=torch.tensor(OLD).log(), **fields)


def new_logprobs(dtype=torch.float32):
    return torch.tensor(NEW, dtype=dtype).log().requires_grad_(True)


def broadcast_credit(rollouts, advantages):
    """The same advantage on all tokens of a response."""
    values = torch.tensor(advantages, dtype=rollouts.rewards.dtype)[:, None] * rollouts.mask
    return Credit(values, rollouts.mask)


def in_float64(rollouts):
    """The same rollouts in double precision, for finite differences."""
    old = None if rollouts.old_logprobs is None else rollouts.old_logprobs.double()
    return rollouts.replace(rewards=rollouts.rewards.double(), old_logprobs=old)


def gradient_of(objective, rollouts, credit, logprobs=None, **kwargs):
    """The output of the objective at the new log-probs of B0 (or at `logprobs`), and the gradient there."""
    logprobs = new_logprobs(rollouts.rewards.dtype) if logprobs is None else logprobs
    out = objective(logprobs, rollouts, credit, **kwargs)
    return out, torch.autograd.grad(out.loss, logprobs)[0]
