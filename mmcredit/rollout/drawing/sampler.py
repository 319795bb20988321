"""Drawing tokens: one uniform number per row and step, turned into a token by the inverse distribution function.

All uniforms of a row come from its own seed before decoding starts, so a response depends on (prompt, seed) alone, not
on the rows beside it, their order, the size of the group, or the length limit. Distribution functions are summed in
float64: in float32 the sum over 150,000 entries is off by more than the rarest tokens weigh.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch

from mmcredit.rollout.engine import Sampling

if TYPE_CHECKING:
    from torch import Tensor

# Elements of [rows, vocabulary] drawn at a time: bounds the float64 temporaries to about 128 MiB.
CHUNK_ELEMENTS = 1 << 24
_BELOW_ONE = 1.0 - 2.0**-52


def row_uniforms(seeds: Sequence[int], count: int) -> Tensor:
    """[count, N] float64 in [0, 1): column n depends on seeds[n] only, and more numbers extend fewer.

    Philox keyed by the seed; `torch.Generator` reads only the low 32 bits of a seed, so that seeds which differ above
    them would give equal responses. Raises ValueError for a seed outside [0, 2**128).
    """
    out = np.empty((len(seeds), count))
    for row, seed in enumerate(seeds):
        if not 0 <= int(seed) < 2**128:
            raise ValueError(f"a sampling seed must lie in [0, 2**128), got {seed}")
        out[row] = np.random.Generator(np.random.Philox(key=int(seed))).random(count)
    # Strictly below 1 even after the product with a rounded total, so that a draw never falls behind the last token.
    return torch.from_numpy(out).clamp_(max=_BELOW_ONE).t().contiguous()


class Sampler:
    """Draws one token per row, and gives its log-prob.

    The log-prob is that of the full softmax at the sampling temperature with the suppressed ids masked: the same
    quantity that the score passes compute. Top-k, top-p (in this order, as in transformers) and withheld end tokens
    narrow what is drawn, not the log-prob. At temperature 0 the most likely token is taken, and the log-prob is that
    of temperature 1.
    """

    draws: ClassVar[int] = 0  # made in this process: a sign of life of whatever engine runs in it

    def __init__(
        self, sampling: Sampling, suppressed: Iterable[int], end_ids: Iterable[int], device: torch.device
    ) -> None:
        self.greedy = sampling.temperature == 0
        self.temperature = sampling.temperature or 1.0
        self.top_k, self.top_p = sampling.top_k, sampling.top_p
        self.min_new_tokens = sampling.min_new_tokens
        self.suppressed = torch.tensor(sorted(set(suppressed)), dtype=torch.int64, device=device)
        self.end_ids = torch.tensor(sorted(set(end_ids)), dtype=torch.int64, device=device)

    def __call__(
        self, logits: Tensor, uniforms: Tensor, step: int, temperature: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Tokens [N] int64 and log-probs [N] f32 from logits [N,V] and uniforms [N] f64.

        `temperature` [N] overrides the configured one for the draw; the log-prob stays that of the configured one.
        NaN logits give NaN log-probs.
        """
        Sampler.draws += 1
        rows = max(1, CHUNK_ELEMENTS // logits.shape[1])
        if logits.shape[0] <= rows:
            return self._draw(logits, uniforms, step, temperature)
        tokens, logprobs = [], []
        for start in range(0, logits.shape[0], rows):
            part = slice(start, start + rows)
            own = None if temperature is None else temperature[part]
            drawn = self._draw(logits[part], uniforms[part], step, own)
            tokens.append(drawn[0])
            logprobs.append(drawn[1])
        return torch.cat(tokens), torch.cat(logprobs)

    def _draw(self, logits: Tensor, uniforms: Tensor, step: int, temperature: Tensor | None) -> tuple[Tensor, Tensor]:
        logits = logits.float()
        if len(self.suppressed):
            logits = logits.index_fill(1, self.suppressed, -torch.inf)
        logprobs = torch.log_softmax(logits / self.temperature if self.temperature != 1.0 else logits, -1)
        drawn = logprobs if temperature is None else torch.log_softmax(logits / temperature[:, None], -1)
        allowed = self._narrow(drawn, step)
        if self.greedy:
            tokens = allowed.argmax(-1, keepdim=True)
        else:
            cdf = allowed.exp().cumsum(-1, dtype=torch.float64)
            # The first token whose cumulated probability exceeds the point: one of probability 0 is never drawn.
            tokens = torch.searchsorted(cdf, (uniforms * cdf[:, -1])[:, None], right=True)
            tokens.clamp_(max=logits.shape[1] - 1)  # a row of NaN; reported by its log-prob
        return tokens[:, 0], logprobs.gather(1, tokens)[:, 0]

    def _narrow(self, logprobs: Tensor, step: int) -> Tensor:
        if step < self.min_new_tokens and len(self.end_ids):
            logprobs = logprobs.index_fill(1, self.end_ids, -torch.inf)
        if self.greedy:
            return logprobs
        if 0 < self.top_k < logprobs.shape[1]:
            least = logprobs.topk(self.top_k, -1).values[:, -1:]
            logprobs = logprobs.masked_fill(logprobs < least, -torch.inf)
        if self.top_p < 1:
            # Descending, ties by id; a token stays while the mass before it is below top_p of what is left.
            ordered, index = logprobs.sort(dim=-1, descending=True, stable=True)
            mass = ordered.exp().double()
            before = mass.cumsum(-1) - mass
            drop = before >= self.top_p * mass.sum(-1, keepdim=True)
            drop[:, 0] = False
            logprobs = logprobs.masked_fill(torch.zeros_like(drop).scatter(1, index, drop), -torch.inf)
        return logprobs
