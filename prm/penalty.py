"""The penalty itself, on tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def apply_span_penalty(advantages: Tensor, mask: Tensor, alpha: float = 0.1, a_min: float = 0.0) -> Tensor:
    """A - alpha * max(|A|, a_min) where `mask` [...] is set, A elsewhere, bit for bit (arXiv 2604.24583, eq. 3)."""
    size = advantages.abs() if a_min == 0 else advantages.abs().clamp(min=a_min)
    return torch.where(mask, advantages - alpha * size, advantages)
