"""A temperature for every token, by the entropy of its distribution: what HAPO's sampler does to the logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from mmcredit.statistics.entropy_scale import EntropyScale

CHUNK_ELEMENTS = 1 << 24  # of [rows, vocabulary] at a time


@dataclass(frozen=True)
class EntropyTemperature:
    """Logits in, temperature T = base * (1 + tau * clamp(h, -1, 1)) out, h the place of their entropy on `scale`.

    It keeps nothing between calls and knows nothing of an engine. `processor(token_ids, logits)` is the form of a
    per-request logits processor (vLLM, transformers), `rescaled(logits)` that of a batch one (`apply` of a vLLM
    logits processor, whose `is_argmax_invariant` is True: dividing a row by a positive number moves no maximum).
    Engines that run it after dividing by the base temperature pass base 1.
    """

    scale: EntropyScale
    tau: float
    base: float = 1.0
    sign: Literal["intended", "released"] = "intended"
    suppressed: Sequence[int] = ()  # ids that are never sampled; they have no part in the entropy

    def entropy(self, logits: Tensor) -> Tensor:
        """[N] f32, nats: of softmax(logits/base) [N,V] without the suppressed ids."""
        rows = max(1, CHUNK_ELEMENTS // logits.shape[1])
        hidden = torch.tensor(list(self.suppressed), dtype=torch.int64, device=logits.device)
        parts = []
        for start in range(0, logits.shape[0], rows):
            part = logits[start : start + rows].float() / self.base
            if len(hidden):
                part = part.index_fill(1, hidden, -torch.inf)
            parts.append(torch.special.entr(part.softmax(-1)).sum(-1))
        return torch.cat(parts)

    def temperatures(self, logits: Tensor) -> Tensor:
        """[N] f32 from logits [N,V]."""
        return self.scale.temperature(self.entropy(logits), self.base, self.tau, self.sign)

    def rescaled(self, logits: Tensor) -> Tensor:
        """[N,V]: logits that give the tempered distribution when they are divided by `base`."""
        return logits * (self.base / self.temperatures(logits))[:, None].to(logits.dtype)

    def __call__(self, token_ids: Sequence[int], logits: Tensor) -> Tensor:
        """[V] from the logits [V] of one row; what was sampled before (`token_ids`) does not matter."""
        return self.rescaled(logits[None])[0]


@dataclass(frozen=True)
class TemperatureHook:
    """`EntropyTemperature` as the logits hook of an engine: temperatures [N] of the draw, whatever step and rows."""

    processor: EntropyTemperature

    def __call__(self, step: int, logits: Tensor, rows: object) -> Tensor:
        return self.processor.temperatures(logits)
