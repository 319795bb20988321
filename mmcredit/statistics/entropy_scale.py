"""Where a token's entropy lies among those of its batch: HAPO's signal, for its sampler and its credit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

if TYPE_CHECKING:
    from torch import Tensor

SMALLEST = 1e-8  # least variance around the pivot, and least |z| that counts as a scale (released code)


@dataclass(frozen=True)
class EntropyScale:
    """Four numbers of one batch that turn an entropy H into h in [-1,1], 0 at the pivot.

    z = (log max(H, floor) - q) / s;  h = z/high above the pivot, z/low below it. Source: HAPO, arXiv 2509.16591,
    and its released compute_entropy_h.
    """

    q: float  # pivot: a quantile of log H
    s: float  # root mean square of log H around the pivot (not around the mean)
    high: float  # largest z
    low: float  # |smallest z|
    floor: float = 1e-8

    @classmethod
    def measure(cls, entropy: Tensor, rho: float, floor: float = 1e-8) -> EntropyScale:
        """Of the entropies [N] of the valid tokens of one batch, N >= 1; the pivot is the nearest-rank rho-quantile."""
        log = entropy.double().clamp(min=floor).log()
        pivot = torch.kthvalue(log, round(rho * (log.numel() - 1)) + 1).values
        spread = (log - pivot).square().mean().clamp(min=SMALLEST).sqrt()
        z = (log - pivot) / spread
        high, low = z.max().clamp(min=SMALLEST), (-z.min()).clamp(min=SMALLEST)
        return cls(float(pivot), float(spread), float(high), float(low), floor)

    def place(self, entropy: Tensor, sign: Literal["intended", "released"] = "intended") -> Tensor:
        """h of each entropy, any shape. `released` gives low-entropy tokens +|h|, as the published code does."""
        z = (entropy.clamp(min=self.floor).log() - self.q) / self.s
        below = z / self.low
        return torch.where(z > 0, z / self.high, below if sign == "intended" else -below)

    def temperature(
        self, entropy: Tensor, base: float = 1.0, tau: float = 0.05, sign: Literal["intended", "released"] = "intended"
    ) -> Tensor:
        """Temperature of the next token: base * (1 + tau * clamp(h, -1, 1)); `entropy` is that at temperature 1."""
        return base * (1 + tau * self.place(entropy, sign).clamp(-1, 1))
