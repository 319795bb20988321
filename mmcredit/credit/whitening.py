"""Whitening over the tokens of the whole batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def whiten(values: Tensor, mask: Tensor, *, eps: float = 1e-8, eps_in_root: bool = True, shift: bool = True) -> Tensor:
    """(values - mean) / sqrt(var + eps) [B,T], mean and unbiased variance over the tokens in `mask`; 0 outside it.

    `eps_in_root` False divides by (std + eps) instead; `shift` False keeps the mean. Fewer than two tokens, or tokens
    that are all equal, have no spread: they become exactly 0 (without `shift`: stay as they are), because a last-bit
    residue over the square root of eps would be a real advantage. Statistics are in float64, so that neither the
    order of responses nor the padded width shows in a float32 result.
    """
    zero = torch.zeros((), dtype=values.dtype, device=values.device)
    inside = values[mask].double()
    if inside.numel() < 2 or bool((inside == inside[0]).all()):
        return torch.zeros_like(values) if shift else torch.where(mask, values, zero)
    mean = inside.mean()
    variance = ((inside - mean) ** 2).sum() / (inside.numel() - 1)
    scale = (variance + eps).sqrt() if eps_in_root else variance.sqrt() + eps
    whitened = (values.double() - (mean if shift else 0.0)) / scale
    return torch.where(mask, whitened.to(values.dtype), zero)
