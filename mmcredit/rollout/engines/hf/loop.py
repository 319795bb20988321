"""The decode loop: all rows of a wave, one token a step, finished rows leaving the batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from mmcredit.rollout.drawing.sampler import Sampler
from mmcredit.rollout.drawing.stop import StopCondition
from mmcredit.rollout.engines.hf.decoder import Decoder
from mmcredit.rollout.engines.hf.prefill import Prefilled
from mmcredit.rollouts import Inserted

if TYPE_CHECKING:
    from mmcredit.rollout.engines.hf.cache import SharedPromptCache


@dataclass
class Rows:
    """The responses being sampled; column n of the step-major tensors belongs to row n. Compacted as rows finish."""

    responses: Tensor  # [N] int64 on the CPU, number of the response in the whole list
    prefixes: list[Sequence[int]]  # ids before each row's first token
    tokens: Tensor  # [T,N] int64, filled up to the present step
    logprobs: Tensor  # [T,N] f32
    uniforms: Tensor  # [T,N] f64
    limits: Tensor  # [N] int64, tokens to sample at most; the largest is T

    def select(self, keep: Tensor) -> Rows:
        """These rows only (CPU [N'] int64, ascending)."""
        index = keep.to(self.tokens.device)
        return Rows(
            responses=self.responses[keep],
            prefixes=[self.prefixes[i] for i in keep.tolist()],
            tokens=self.tokens.index_select(1, index),
            logprobs=self.logprobs.index_select(1, index),
            uniforms=self.uniforms.index_select(1, index),
            limits=self.limits.index_select(0, index),
        )


@dataclass(frozen=True)
class Finished:
    """One response, done."""

    response: int
    tokens: list[int]
    logprobs: list[float]
    stopped: bool  # by an end token or stop string; False: by the length limit
    inserted: tuple[Inserted, ...] = ()
    notes: Mapping[str, float] = field(default_factory=dict)


# (step, logits [N,V], rows) -> temperatures [N] of the draw (log-probs stay those of the configured temperature), or
# logits [N,V] to draw from instead.
LogitsHook = Callable[[int, Tensor, Rows], Tensor]


class Halts(Protocol):
    """Who says which rows wait, and takes them when they leave (see `waiting`)."""

    def halt(self, rows: Rows, step: int, ended: Tensor, cache: SharedPromptCache, positions: Tensor) -> Tensor:
        """[N] bool: rows that wait from now on, of those that have not `ended`."""
        ...

    def set_aside(self, rows: Rows, lengths: Tensor, cache: SharedPromptCache, leaving: Tensor) -> Tensor:
        """Take those that wait of the rows that leave (CPU [n] int64); the others come back."""
        ...


def decode(
    decoder: Decoder,
    ready: Prefilled,
    rows: Rows,
    sampler: Sampler,
    stop: StopCondition,
    finish: Callable[[list[Finished]], None],
    progress: Callable[[int], None] | None = None,
    hook: LogitsHook | None = None,
    reactions: Halts | None = None,
) -> None:
    """Sample every row to its end. `finish` gets responses as their rows leave; `progress` is told how many have just
    finished. Rows that wait for a reaction leave too, into `reactions`.

    A row that has finished stays until an eighth of the batch has: leaving costs a copy of the remaining rows' own
    keys and values, about what one step reads, and so happens at most log(N) / log(8/7) times.
    """
    body, head, embed = decoder.body, decoder.head, decoder.embed_tokens
    cache, hidden, positions = ready.cache, ready.hidden, ready.positions
    limit, total = rows.tokens.shape
    lengths = torch.full((total,), limit, dtype=torch.int64)
    finished = torch.zeros(total, dtype=torch.bool, device=hidden.device)
    stopped = finished.clone()  # finished by an end token or stop string, not by the row's limit
    present, done = total, 0  # rows in the batch, and finished ones among them

    def leave(gone: Tensor) -> None:
        if reactions is not None:
            gone = reactions.set_aside(rows, lengths, cache, gone)
        finish(_collect(rows.select(gone), lengths[gone], stopped.cpu()[gone]))

    for step in range(limit):
        logits, temperature = head(hidden), None
        decoder.count_head(hidden.shape[0])
        if hook is not None:
            given = hook(step, logits, rows)
            logits, temperature = (logits, given) if given.ndim == 1 else (given, None)
        tokens, logprobs = sampler(logits, rows.uniforms[step], step, temperature)
        rows.tokens[step] = tokens
        rows.logprobs[step] = logprobs

        now = stop(rows.tokens, step, rows.prefixes) & ~finished
        stopped = stopped | now
        ended = now | finished | (rows.limits <= step + 1)
        waits = 0
        if reactions is not None:
            halted = reactions.halt(rows, step, ended, cache, positions)
            waits = int(halted.sum())
            ended = ended | halted
        count = int(ended.sum())  # the step's one synchronisation
        if count != done:
            lengths[(ended & ~finished).cpu()] = step + 1
            if progress is not None and count - done > waits:
                progress(count - done - waits)
            finished, done = ended, count
            if done == present:
                break
            if 8 * done >= present:
                gone, keep = finished.cpu().nonzero()[:, 0], (~finished.cpu()).nonzero()[:, 0]
                leave(gone)
                rows, lengths, finished = rows.select(keep), lengths[keep], finished.new_zeros(len(keep))
                stopped = finished.clone()
                index = keep.to(hidden.device)
                cache.select_rows(keep)
                positions, tokens = positions.index_select(0, index), tokens.index_select(0, index)
                present, done = len(keep), 0
        if step + 1 < limit:
            out = body(
                inputs_embeds=embed(tokens[:, None]),
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                shared_prompt=cache,
            )
            hidden = out.last_hidden_state[:, 0]
            decoder.count(hidden.shape[0])
            cache.filled += 1
            positions = positions + 1

    assert done == present, f"{present - done} rows went on beyond their limit"
    leave(torch.arange(present))


def _collect(rows: Rows, lengths: Tensor, stopped: Tensor) -> list[Finished]:
    tokens, logprobs = rows.tokens.t().tolist(), rows.logprobs.t().tolist()
    if not len(lengths):
        return []
    return [
        Finished(response, row_tokens[:length], row_logprobs[:length], flag)
        for response, row_tokens, row_logprobs, length, flag in zip(
            rows.responses.tolist(), tokens, logprobs, lengths.tolist(), stopped.tolist(), strict=True
        )
    ]
