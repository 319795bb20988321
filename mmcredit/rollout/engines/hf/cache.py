"""Keys and values of a wave of responses: every prompt stored once, the responses' own tokens in place.

Shapes: P prompts, N rows (responses still sampled), L prompt tokens (right padded), T own tokens, K key-value heads,
D head width. A row's prompt is never copied: rows stand in prompt order, and `rows_to_slots` lays them out as P x S
slots, so that one matrix product serves all rows of a prompt. With 1,000 visual tokens and 8 responses the prompt's
share of memory and of memory traffic falls by 8.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from transformers.cache_utils import Cache, LinearAttentionLayer

from mmcredit.policy.seeing import additive, allowed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


@dataclass(frozen=True)
class Block:
    """Own keys and values of rows that left together, per layer [n,K,C,D], and [n,C] bool: columns that are used."""

    keys: list[Tensor]
    values: list[Tensor]
    filled: Tensor


class SharedPromptCache(Cache):
    """The cache that model bodies write to while `stage` says which tokens they read.

    `stage` "prompt": a batch of prompts, right padded; the layer's keys and values are kept as they come. `stage`
    "own": the next tokens of all rows; they are written in place behind the rows' earlier ones, and `update` returns
    views of the filled part. The attention function reads the prompt part from here.
    """

    def __init__(self, capacity: int) -> None:
        """`capacity`: own tokens a row may grow to. Memory is taken in doubling steps, not at once."""
        super().__init__(layers=[])
        self.capacity = capacity
        self.stage: Literal["prompt", "own"] = "prompt"
        self.filled = 0  # own tokens of every row (left padded where prefixes differ)
        self.prompt_keys: list[Any] = []  # per layer: [P*K,L,D] (while prompts are read: a list of batches)
        self.prompt_values: list[Any] = []
        self.own_keys: list[Tensor | None] = []  # per layer: [N,K,allocated,D]
        self.own_values: list[Tensor | None] = []
        self.prompt_bias: Tensor | None = None  # [P*K,1,L] f32, -inf at padding; None if all prompts are equally long
        self.own_bias: Tensor | None = None  # [N,1,1,capacity] f32, -inf at prefix padding; None if there is none
        self.query_bias: Tensor | None = None  # [N,1,1,Q,T] f32, the mask of a forward over several own tokens
        self.images: Tensor | None = None  # [p,L] int64 of the prompts being read: image of a token, -1 for text
        self.starts: Tensor | None = None  # [N] int64: place of each row's first own column in its whole sequence
        self._far: tuple[tuple[int, int, int | None], Tensor | None] | None = None  # of the present forward
        # Layers of linear attention carry states along the row instead; attention layers are counted past them.
        self._attention: dict[int, int] = {}  # number of a layer -> its place in the lists above
        self._states: list[list[Any]] = []  # while prompts are read: the layers' states of each batch
        self.row_prompt = torch.zeros(0, dtype=torch.int64)  # [N] on the CPU, ascending
        self.prompts = 0
        self.slots = 0
        self.slot_rows: Tensor | None = None  # [P*S] row in each slot (any row where empty); None: rows are slots
        self.row_slots: Tensor | None = None  # [N] slot of each row
        self.keeps_prompts = False  # rows that are set aside may come back to any prompt

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.filled

    def slot(self, layer_idx: int) -> int:
        """Where the keys of an attention layer are, in the lists of this cache."""
        return self._attention.setdefault(layer_idx, len(self._attention))

    def begin_states(self, layers: int) -> None:
        """Before a batch of prompts of a model with linear attention: states of all its layers start anew."""
        self.layers = [LinearAttentionLayer() for _ in range(layers)]
        self._states.append(self.layers)

    def set_states(self, prompts: Tensor) -> None:
        """The states that rows start with: those behind their prompts (CPU [N] int64, in the order read)."""
        first, *others = self._states
        for place, layer in enumerate(first):
            if not layer.is_conv_states_initialized[0]:
                continue  # a layer that attends
            for name in ("conv_states", "recurrent_states"):
                parts = [getattr(batch[place], name)[0] for batch in (first, *others)]
                getattr(layer, name)[0] = torch.cat(parts)
        self.layers, self._states = first, []
        self._reorder(prompts)

    def _reorder(self, index: Any) -> None:
        layers: list[Any] = self.layers
        for layer in layers:
            if layer.is_conv_states_initialized[0]:
                layer.reorder_cache(index)

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Store a layer's new keys and values ([B,K,Q,D]); what attention of this stage reads comes back."""
        layer_idx = self.slot(layer_idx)
        if self.stage == "prompt":
            if layer_idx == len(self.prompt_keys):
                self.prompt_keys.append([])
                self.prompt_values.append([])
                self.own_keys.append(None)
                self.own_values.append(None)
            self.prompt_keys[layer_idx].append(key_states)
            self.prompt_values[layer_idx].append(value_states)
            return key_states, value_states
        end = self.filled + key_states.shape[2]
        keys, values = self.own_keys[layer_idx], self.own_values[layer_idx]
        if keys is None or values is None or keys.shape[2] < end:
            keys = self.own_keys[layer_idx] = self._grown(keys, key_states, end)
            values = self.own_values[layer_idx] = self._grown(values, value_states, end)
        keys[:, :, self.filled : end] = key_states
        values[:, :, self.filled : end] = value_states
        return keys[:, :, :end], values[:, :, :end]

    def _grown(self, old: Tensor | None, new: Tensor, end: int) -> Tensor:
        size = min(self.capacity, max(end, 64, 0 if old is None else 2 * old.shape[2]))
        n, k, _, d = new.shape
        grown = new.new_empty(n, k, size, d)
        if old is not None:
            grown[:, :, : self.filled] = old[:, :, : self.filled]
        elif self.filled:  # cannot be: every forward of stage "own" visits every layer
            raise AssertionError("own tokens were counted before a layer stored them")
        return grown

    def reading_mask(self, length: int, window: int | None, dtype: torch.dtype, device: torch.device) -> Tensor | None:
        """[1 or p,1,L,L] additive mask of the prompts being read; None where plain causality is right."""
        window = None if window is None or length <= window else window
        if window is None and self.images is None:
            return None
        place = torch.arange(length, device=device)
        return additive(allowed(place, place, window, self.images, self.images), dtype).view(-1, 1, length, length)

    def far_bias(self, queries: int, own: int, window: int | None) -> Tensor | None:
        """[N,1,1,Q,L+own] f32, -inf at keys that a window hides from the last Q own tokens; None if it hides none."""
        if window is None or self.starts is None:
            return None
        name = (queries, own, window)
        if self._far is None or self._far[0] != name:
            self._far = (name, self._far_bias(queries, own, window))
        return self._far[1]

    def _far_bias(self, queries: int, own: int, window: int) -> Tensor | None:
        assert self.starts is not None
        if int(self.starts.max()) + own <= window:
            return None
        column = torch.arange(own, device=self.starts.device)
        at = self.starts[:, None] + column
        prompt = torch.arange(self.prompt_keys[0].shape[1], device=at.device).expand(len(at), -1)
        see = allowed(at[:, own - queries :], torch.cat([prompt, at], 1), window)
        # Causality among own tokens, and what is padding, other masks say.
        see[..., prompt.shape[1] :] |= column > column[own - queries :, None]
        return additive(see, torch.float32)[:, None, None]

    def finish_prompts(self, lengths: list[int]) -> None:
        """Join the prompt batches into one padded block per layer. `lengths`: of all prompts, in the order read."""
        longest = max(lengths)
        for store in (self.prompt_keys, self.prompt_values):
            for layer, batches in enumerate(store):
                padded = [torch.nn.functional.pad(b, (0, 0, 0, longest - b.shape[2])) for b in batches]
                block = padded[0] if len(padded) == 1 else torch.cat(padded)
                store[layer] = block.reshape(-1, longest, block.shape[-1])
        self.prompts = len(lengths)
        self.images = None
        if min(lengths) < longest:
            keys = self.prompt_keys[0]
            heads = keys.shape[0] // self.prompts
            columns = torch.arange(longest, device=keys.device)
            padding = columns >= torch.tensor(lengths, device=keys.device)[:, None]
            bias = torch.zeros(padding.shape, device=keys.device).masked_fill_(padding, -torch.inf)
            self.prompt_bias = bias.repeat_interleave(heads, 0)[:, None]
        self.stage = "own"

    def set_rows(self, row_prompt: Tensor) -> None:
        """Say which prompt each row reads (CPU [N] int64, ascending), and lay the rows out."""
        self.row_prompt = row_prompt
        counts = torch.bincount(row_prompt, minlength=self.prompts)
        self.slots = int(counts.max())
        if int(counts.min()) == self.slots:
            self.slot_rows = self.row_slots = None
            return
        starts = counts.cumsum(0) - counts
        within = torch.arange(len(row_prompt)) - starts[row_prompt]
        row_slots = row_prompt * self.slots + within
        slot_rows = torch.zeros(self.prompts * self.slots, dtype=torch.int64)
        slot_rows[row_slots] = torch.arange(len(row_prompt))
        device = self.prompt_keys[0].device
        self.row_slots, self.slot_rows = row_slots.to(device), slot_rows.to(device)

    def select_rows(self, keep: Tensor) -> None:
        """Keep these rows only (CPU [N'] int64, ascending, repeats allowed).

        Prompts that no row reads any more go once they are half of all: that copies the others.
        """
        index = keep.to(self.prompt_keys[0].device)
        for store in (self.own_keys, self.own_values):
            for layer, block in enumerate(store):
                if block is not None:
                    store[layer] = block.index_select(0, index)
        self._reorder(keep)
        self._far = None
        if self.starts is not None:
            self.starts = self.starts.index_select(0, index)
        if self.own_bias is not None:
            self.own_bias = self.own_bias.index_select(0, index)
        row_prompt = self.row_prompt[keep]
        used, renumbered = torch.unique(row_prompt, return_inverse=True)
        if 2 * len(used) <= self.prompts and not self.keeps_prompts:
            self._select_prompts(used)
            row_prompt = renumbered
        self.set_rows(row_prompt)

    def _select_prompts(self, used: Tensor) -> None:
        first = self.prompt_keys[0]
        heads = first.shape[0] // self.prompts
        index = (used[:, None] * heads + torch.arange(heads)).flatten().to(first.device)
        for store in (self.prompt_keys, self.prompt_values):
            for layer, block in enumerate(store):
                store[layer] = block.index_select(0, index)
        if self.prompt_bias is not None:
            self.prompt_bias = self.prompt_bias.index_select(0, index)
        self.prompts = len(used)

    # Rows that wait, and come back with more to read (see `waiting`).

    def block(self, rows: Tensor, columns: list[int]) -> Block:
        """Copies of the own keys and values of `rows` (CPU [n] int64); row i has filled `columns[i]`, padding apart."""
        device, width = self.prompt_keys[0].device, max(columns)
        index = rows.to(device)
        filled = torch.arange(width) < torch.tensor(columns)[:, None]
        if self.own_bias is not None:
            filled &= (self.own_bias.index_select(0, index)[:, 0, 0, :width] == 0).cpu()
        copies: list[list[Tensor]] = []
        for store, prompts in ((self.own_keys, self.prompt_keys), (self.own_values, self.prompt_values)):
            copies.append([])
            for part, prompt in zip(store, prompts, strict=True):
                if part is None:  # stopped by the first token: nothing of its own was read yet
                    part = prompt.new_zeros(len(self.row_prompt), prompt.shape[0] // self.prompts, 0, prompt.shape[-1])
                copies[-1].append(part[:, :, :width].index_select(0, index))
        return Block(copies[0], copies[1], filled)

    def take_up(self, rows: Sequence[tuple[Block, int]], prompts: Sequence[int], more: int) -> int:
        """Replace the batch by these rows of blocks, holes closed, and make room for `more` tokens. `prompts`: which
        one each reads, ascending. Returns the columns in use, those of the longest row; others hide what is behind
        theirs."""
        device = self.prompt_keys[0].device
        places = [block.filled[row].nonzero()[:, 0] for block, row in rows]
        width = max(len(own) for own in places)
        self.capacity = width + more
        self.own_bias = self.query_bias = None
        self.filled = width
        layers = len(self.prompt_keys)
        self.own_keys, self.own_values = [None] * layers, [None] * layers
        for layer in range(layers if width else 0):
            made: tuple[list[Tensor], list[Tensor]] = ([], [])
            for (block, row), own in zip(rows, places, strict=True):
                index, after = own.to(device), (0, 0, 0, width - len(own))
                for held, out in zip((block.keys, block.values), made, strict=True):
                    out.append(torch.nn.functional.pad(held[layer][row].index_select(1, index), after))  # [K,W,D]
            self.own_keys[layer], self.own_values[layer] = torch.stack(made[0]), torch.stack(made[1])
        self.set_rows(torch.tensor(list(prompts)))
        lengths = torch.tensor([len(own) for own in places])
        self.hide(0, (torch.arange(width) >= lengths[:, None]).to(device))
        return width

    def hide(self, first: int, hidden: Tensor) -> None:
        """Nobody looks at these own columns from `first` on: hidden [N,W] bool."""
        if not bool(hidden.any()):
            return
        if self.own_bias is None:
            self.own_bias = torch.zeros(hidden.shape[0], 1, 1, self.capacity, device=hidden.device)
        self.own_bias[:, 0, 0, first : first + hidden.shape[1]].masked_fill_(hidden, -torch.inf)

    def mask_block(self, start: int, end: int) -> None:
        """Set the mask of a forward over own columns start..end-1: causal, without hidden columns."""
        n, device = len(self.row_prompt), self.prompt_keys[0].device
        columns = torch.arange(end, device=device)
        bias = torch.zeros(n, end - start, end, device=device)
        bias.masked_fill_(columns[None, :] > columns[start:end, None], -torch.inf)
        if self.own_bias is not None:
            bias += self.own_bias[:, 0, :, :end]
        self.query_bias = bias[:, None, None]
