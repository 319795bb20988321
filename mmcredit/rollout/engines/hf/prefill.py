"""Reading the prompts of a wave, each once, and the prefixes that responses continue."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from mmcredit.policy.seeing import images
from mmcredit.rollout.engines.hf.cache import SharedPromptCache
from mmcredit.rollout.engines.hf.decoder import Decoder
from mmcredit.rollout.engines.hf.waves import Wave

if TYPE_CHECKING:
    from torch import Tensor

    from mmcredit.policy.prompt import Prompt


@dataclass(frozen=True)
class Prefilled:
    """A wave ready to draw its first tokens."""

    cache: SharedPromptCache
    hidden: Tensor  # [N,d], what the head reads
    positions: Tensor  # [N,1] int64, of the next token


def prefill(decoder: Decoder, wave: Wave, new_tokens: int, batch_tokens: int) -> Prefilled:
    """Read prompts and prefixes in batches of at most `batch_tokens` padded tokens (one prompt at least)."""
    longest = max(len(prefix) for _, prefix in wave.stems)
    cache = SharedPromptCache(longest + new_tokens)
    device = decoder.device
    hidden = torch.cat(
        [_read_prompts(decoder, wave, part, cache) for part in _batches(wave, batch_tokens, decoder.hybrid)]
    )
    cache.finish_prompts([len(p) for p in wave.prompts])

    stem_prompt = torch.tensor([prompt for prompt, _ in wave.stems])
    row_stem = torch.tensor([stem for stem, _ in wave.rows])
    starts = torch.tensor([wave.prompts[p].next_position + len(prefix) for p, prefix in wave.stems])
    hidden = hidden.index_select(0, stem_prompt.to(device))
    if decoder.hybrid:
        assert not longest, "the engine refuses prefixes"
        cache.set_states(stem_prompt[row_stem])
    # Prefixes are left padded: a stem's first own column lies before its prompt's end by the padding.
    ends = torch.tensor([len(wave.prompts[p]) + len(prefix) - longest for p, prefix in wave.stems])
    cache.starts = ends.to(device) if decoder.windows else None
    if longest:
        cache.set_rows(stem_prompt)
        hidden = _read_prefixes(decoder, wave, cache, hidden, longest, batch_tokens)
        cache.select_rows(row_stem)
    else:
        cache.set_rows(stem_prompt[row_stem])
        cache.starts = None if cache.starts is None else cache.starts.index_select(0, row_stem.to(device))
    return Prefilled(cache, hidden.index_select(0, row_stem.to(device)), starts[row_stem].to(device)[:, None])


def _batches(wave: Wave, batch_tokens: int, alike: bool = False) -> Iterator[range]:
    """Ranges of prompts to read together. They come longest first; one under half the longest opens a new batch, and,
    where they have to be `alike` (a state would be carried on through padding), one of another length."""
    start = 0
    for i, prompt in enumerate(wave.prompts):
        widest = len(wave.prompts[start])
        shorter = len(prompt) < widest if alike else 2 * len(prompt) < widest
        if i > start and ((i - start + 1) * widest > batch_tokens or shorter):
            yield range(start, i)
            start = i
    yield range(start, len(wave.prompts))


def _read_prompts(decoder: Decoder, wave: Wave, part: range, cache: SharedPromptCache) -> Tensor:
    """Hidden states [p,d] of the last tokens of these prompts; their keys and values go to the cache."""
    prompts = [wave.prompts[i] for i in part]
    seen = _images(prompts) if decoder.both_ways else None
    cache.images = None if seen is None else seen.to(decoder.device)
    if decoder.hybrid:
        cache.begin_states(int(decoder.body.config.num_hidden_layers))
    hidden = decoder.read(prompts, past_key_values=cache, use_cache=True, shared_prompt=cache)
    last = torch.tensor([len(p) - 1 for p in prompts], device=hidden.device)
    return hidden[torch.arange(len(prompts), device=hidden.device), last]


def _images(prompts: list[Prompt]) -> Tensor | None:
    """[p,L] int64: the image that a token belongs to, -1 for text and padding; None if there are none."""
    if not any(bool(p.visual.any()) for p in prompts):
        return None
    out = torch.full((len(prompts), max(len(p) for p in prompts)), -1)
    for i, prompt in enumerate(prompts):
        out[i, : len(prompt)] = images(prompt.visual)
    return out


def _read_prefixes(
    decoder: Decoder, wave: Wave, cache: SharedPromptCache, hidden: Tensor, width: int, batch_tokens: int
) -> Tensor:
    """Read the prefixes of all stems, left padded to `width`, in blocks of columns; hidden states [stems,d]."""
    device, stems = decoder.device, len(wave.stems)
    lengths = torch.tensor([len(prefix) for _, prefix in wave.stems])
    padding = torch.arange(width) < (width - lengths)[:, None]  # [stems,width]
    tokens = torch.tensor([[0] * (width - len(prefix)) + list(prefix) for _, prefix in wave.stems])
    starts = torch.tensor([wave.prompts[p].next_position for p, _ in wave.stems])
    positions = (starts + lengths - width)[:, None] + torch.arange(width)
    positions = torch.where(padding, 0, positions).to(device)
    tokens, hidden_pad = tokens.to(device), padding.to(device)
    if bool(padding.any()):
        bias = torch.zeros(stems, cache.capacity, device=device)
        bias[:, :width].masked_fill_(hidden_pad, -torch.inf)
        cache.own_bias = bias[:, None, None]

    columns = torch.arange(width, device=device)
    step = max(1, batch_tokens // stems)
    last = hidden
    for start in range(0, width, step):
        end = min(width, start + step)
        masked = (columns[None, :end] > columns[start:end, None]) | hidden_pad[:, None, :end]  # [stems,Q,end]
        cache.query_bias = torch.zeros(masked.shape, device=device).masked_fill_(masked, -torch.inf)[:, None, None]
        out = decoder.body(
            inputs_embeds=decoder.embed_tokens(tokens[:, start:end]),
            position_ids=positions[:, start:end],
            past_key_values=cache,
            use_cache=True,
            shared_prompt=cache,
        )
        decoder.count(stems * (end - start))
        cache.filled = end
        last = out.last_hidden_state[:, -1]
    cache.query_bias = None
    return torch.where((lengths > 0).to(device)[:, None], last, hidden)
