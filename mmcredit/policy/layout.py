"""The shared-prompt layout: one packed row holds every prompt once and its responses after it, without padding.

    p0 p0 p0 | r0 r0 | r1 | r2 r2 r2 || p1 p1 | r3 r3 | ...

Linear layers see exactly the tokens there are. Only attention needs rectangles, so the layout says which rows of the
packed row form them: prompts of similar length are batched for causal self-attention, responses of similar length for
attention over [prompt keys, own keys]. All indices are made once per micro-batch and shared by every layer.

The last token of a response predicts nothing and is left out; a response of one token adds no row at all: its only
log-prob comes from the last prompt position.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from mmcredit.policy.prompt import Prompt
from mmcredit.policy.seeing import additive, allowed, images
from mmcredit.rollouts import Inserted

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Row:
    """One response to score: its prompt (as this view shows it) and its real tokens, [R] int64, R >= 1.

    What was `inserted` into it has positions and media of its own (as this view shows them), and is not scored.
    """

    prompt: Prompt
    tokens: Tensor
    number: int  # equal numbers = the same prompt
    inserted: tuple[Inserted, ...] = ()

    @cached_property
    def positions(self) -> Tensor:
        """[R] or [3,R] int64. Behind a piece, as behind a prompt, they go on from its largest position."""
        shape, start, column = self.prompt.positions.shape[:-1], self.prompt.next_position, 0
        parts: list[Tensor] = []
        for one in (*self.inserted, None):
            count = (len(self.tokens) if one is None else one.at) - column
            parts.append((torch.arange(count) + start).expand(*shape, count))
            if one is not None:
                parts.append(one.piece.positions + (start + count))
                start, column = start + count + one.piece.next_position, one.end
        return torch.cat(parts, -1)

    @cached_property
    def visual(self) -> Tensor:
        """[R] bool: media placeholders."""
        found = torch.zeros(len(self.tokens), dtype=torch.bool)
        for one in self.inserted:
            found[one.at : one.end] = one.piece.visual
        return found

    @cached_property
    def scored(self) -> Tensor:
        """[R] bool: tokens that the policy said, here or before; those of pieces are none of its own."""
        found = torch.ones(len(self.tokens), dtype=torch.bool)
        for one in self.inserted:
            found[one.at : one.end] = False
        return found

    @property
    def targets(self) -> Tensor:
        """[S] int64: the tokens that are scored."""
        return self.tokens[self.scored] if self.inserted else self.tokens

    @property
    def shown(self) -> list[Prompt]:
        """The pieces, in order."""
        return [one.piece for one in self.inserted]


@dataclass(frozen=True)
class Rectangle:
    """`count` pieces of the packed row, consecutive from `start`, seen as [count, length] by right padding.

    `pad` and `unpad` are the two index maps; both are None where all pieces are equally long and a view does it.
    """

    start: int
    rows: int  # packed rows covered
    count: int
    length: int  # of the longest piece
    pad: Tensor | None  # [count*length] int64 into 0..rows-1; padding repeats a real row
    unpad: Tensor | None  # [rows] int64 into 0..count*length-1
    padding: Tensor | None  # [count*length] bool


@dataclass
class ResponseBatch:
    """Responses that attend together, and the prompt (by number in the prompt batch) of each."""

    rectangle: Rectangle
    owner: Tensor | None  # [count] int64; None where the prompt batch holds one prompt
    prompt_lengths: tuple[int, ...]  # per response
    prompt_width: int
    device: torch.device
    places: tuple[Tensor, Tensor]  # [count,P] of the prompt keys in their whole row, [count,R] of the own keys
    _masks: dict[tuple[torch.dtype, int, int | None], Tensor] = field(default_factory=dict)

    @property
    def plain(self) -> bool:
        """No prompt key is padding: the mask is causal, aligned to the lower right."""
        return all(n == self.prompt_width for n in self.prompt_lengths)

    def cuts(self, window: int | None) -> bool:
        """Whether a window hides any key from any query."""
        return window is not None and int(self.places[1].max()) >= window

    def mask(self, dtype: torch.dtype, repeats: int, window: int | None = None) -> Tensor:
        """[1 or count, 1, repeats*R, P+R] additive mask: own keys causal, prompt keys visible up to their length.

        `repeats` query heads share a key head and are folded into the query axis. `window`: one that `cuts`.
        """
        if (dtype, repeats, window) not in self._masks and window is not None:
            keys, at = self.places
            real = torch.arange(self.prompt_width) < torch.tensor(self.prompt_lengths)[:, None]
            see = torch.cat([allowed(at, keys, window) & real[:, None], allowed(at, at, window)], 2)
            self._masks[dtype, repeats, window] = additive(see, dtype).to(self.device).repeat(1, repeats, 1)[:, None]
        elif (dtype, repeats, window) not in self._masks:
            length, width = self.rectangle.length, self.prompt_width
            own = torch.ones(length, length, dtype=torch.bool, device=self.device).tril()
            lengths = torch.tensor(self.prompt_lengths[:1] if self.plain else self.prompt_lengths, device=self.device)
            prompt = torch.arange(width, device=self.device) < lengths[:, None]  # [n, P]
            n = prompt.shape[0]
            see = torch.cat([prompt[:, None].expand(n, length, width), own.expand(n, length, length)], 2)
            self._masks[dtype, repeats, None] = additive(see, dtype).repeat(1, repeats, 1)[:, None]
        return self._masks[dtype, repeats, window]


@dataclass(frozen=True)
class PromptBatch:
    """Prompts of similar length and the responses that attend to them."""

    rectangle: Rectangle
    responses: tuple[ResponseBatch, ...]
    places: Tensor  # [count,P] int64 of each token in its whole row, hidden tokens included; padding goes on behind
    images: Tensor | None  # [count,P] int64: its image, -1 for text; None where images are seen as text is
    device: torch.device
    _masks: dict[tuple[torch.dtype, int | None], Tensor] = field(default_factory=dict)

    def mask(self, dtype: torch.dtype, window: int | None) -> Tensor | None:
        """[count,1,P,P] additive mask, None where the attention is plainly causal."""
        if window is not None and int(self.places.max()) < window:
            window = None
        if window is None and self.images is None:
            return None
        if (dtype, window) not in self._masks:
            see = allowed(self.places, self.places, window, self.images, self.images)
            self._masks[dtype, window] = additive(see, dtype).to(self.device)[:, None]
        return self._masks[dtype, window]


@dataclass(frozen=True)
class Layout:
    """A packed row of N tokens."""

    tokens: Tensor  # [N] int64
    positions: Tensor  # [N] or [3,N] int64
    batches: tuple[PromptBatch, ...]
    visual: Tensor  # [M] int64, packed rows of visual tokens, ascending
    shown: tuple[Prompt, ...]  # prompts, and pieces of responses, in the order in which they stand in the row
    source: Tensor  # [sum S] int64: packed row that predicts each scored token, in the order of the rows given

    def __len__(self) -> int:
        return self.tokens.shape[0]


def _rectangle(start: int, lengths: Sequence[int], device: torch.device) -> Rectangle:
    count, length, rows = len(lengths), max(lengths), sum(lengths)
    if count * length == rows:
        return Rectangle(start, rows, count, length, None, None, None)
    sizes = torch.tensor(lengths)
    first = sizes.cumsum(0) - sizes
    column = torch.arange(length)
    real = column < sizes[:, None]
    pad = (first[:, None] + torch.minimum(column[None], sizes[:, None] - 1)).reshape(-1)
    unpad = real.reshape(-1).nonzero()[:, 0]
    return Rectangle(start, rows, count, length, pad.to(device), unpad.to(device), (~real).reshape(-1).to(device))


def _runs(lengths: Sequence[int], ratio: float, slack: int) -> list[slice]:
    """Cut ascending lengths into runs whose longest is at most ratio * shortest + slack."""
    runs, begin = [], 0
    for i, n in enumerate(lengths):
        if n > ratio * lengths[begin] + slack:
            runs.append(slice(begin, i))
            begin = i
    if lengths:
        runs.append(slice(begin, len(lengths)))
    return runs


def shown(prompt: Prompt, blind: bool) -> tuple[Tensor, Tensor]:
    """Tokens [P'] and positions [P'] or [3,P'] that a view keeps. Blind: visual tokens are taken out, the positions of
    the others stay; for attention decoders that equals hiding them (nothing can attend to what is not there)."""
    if not blind or not bool(prompt.visual.any()):
        return prompt.tokens, prompt.positions
    keep = ~prompt.visual
    if not bool(keep[-1]):
        raise ValueError(f"sample {prompt.sample_id}: the prompt ends in a visual token; nothing predicts the response")
    return prompt.tokens[keep], prompt.positions[..., keep]


def _padded_places(visual: Sequence[Tensor], blind: bool, width: int) -> Tensor:
    """[count,width] int64 for visual [L] bool of each: places of the shown tokens; those of padding come behind."""
    out = torch.arange(width) + torch.tensor([len(v) for v in visual])[:, None]
    for i, hidden in enumerate(visual):
        kept = (~hidden).nonzero()[:, 0] if blind else torch.arange(len(hidden))
        out[i, : len(kept)] = kept
    return out


def _padded_images(prompts: Sequence[Prompt], width: int) -> Tensor:
    out = torch.full((len(prompts), width), -1)
    for i, prompt in enumerate(prompts):
        out[i, : len(prompt)] = images(prompt.visual)
    return out


def shown_response(row: Row, blind: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of a response without its last token, which predicts nothing, what a view keeps: tokens [R'], positions [R'] or
    [3,R'], places of visual tokens among them, and the place that predicts each scored token: 0 is the last of the
    prompt, n the n-th of these."""
    tokens = row.tokens[:-1]
    if not row.inserted:
        step = torch.arange(len(tokens)) + row.prompt.next_position
        positions = step.expand(*row.prompt.positions.shape[:-1], len(tokens))
        return tokens, positions, torch.zeros(0, dtype=torch.int64), torch.arange(len(row.tokens))
    positions, visual = row.positions[..., :-1], row.visual[:-1]
    keep = ~visual if blind else torch.ones_like(visual)
    before = torch.cat([torch.zeros(1, dtype=torch.int64), keep.cumsum(0)])
    return tokens[keep], positions[..., keep], visual[keep].nonzero()[:, 0], before[row.scored]


def build_layout(rows: Sequence[Row], blind: bool, device: torch.device, both_ways: bool = False) -> Layout:
    """Pack the rows; prompts with the same number stand in it once. `both_ways`: tokens of an image see each other."""
    members: dict[int, list[int]] = {}
    for i, row in enumerate(rows):
        members.setdefault(row.number, []).append(i)
    views = {number: shown(rows[inside[0]].prompt, blind) for number, inside in members.items()}
    numbers = sorted(members, key=lambda n: (views[n][0].shape[0], n))
    prompt_lengths = [views[n][0].shape[0] for n in numbers]

    tokens: list[Tensor] = []
    positions: list[Tensor] = []
    visual: list[Tensor] = []
    in_order: list[Prompt] = []
    own = [shown_response(row, blind) for row in rows]
    batches: list[PromptBatch] = []
    source: list[Tensor | None] = [None] * len(rows)
    at = 0
    for run in _runs(prompt_lengths, 1.15, 4):
        inside, lengths = numbers[run], prompt_lengths[run]
        rectangle = _rectangle(at, lengths, device)
        last: dict[int, int] = {}
        packed = [rows[members[number][0]].prompt for number in inside]
        places = _padded_places([p.visual for p in packed], blind, rectangle.length)
        for number, n in zip(inside, lengths, strict=True):
            prompt = rows[members[number][0]].prompt
            tokens.append(views[number][0])
            positions.append(views[number][1])
            if not blind:
                visual.append(prompt.visual.nonzero()[:, 0] + at)
            in_order.append(prompt)
            at += n
            last[number] = at - 1
        todo = sorted(
            ((own[i][0].shape[0], j, i) for j, number in enumerate(inside) for i in members[number])
        )  # by length, then prompt, then row: deterministic
        for length, _, i in todo:
            if length == 0:
                source[i] = torch.full_like(own[i][3], last[rows[i].number])
        todo = [t for t in todo if t[0] > 0]
        responses = []
        for part in _runs([t[0] for t in todo], 1.5, 16):
            chosen = sorted(todo[part], key=lambda t: (t[1], t[2]))
            shape = _rectangle(at, [t[0] for t in chosen], device)
            for length, _, i in chosen:
                own_tokens, own_positions, own_visual, predicts = own[i]
                tokens.append(own_tokens)
                positions.append(own_positions)
                source[i] = torch.cat([torch.tensor([last[rows[i].number]]), torch.arange(at, at + length)])[predicts]
                if rows[i].inserted and not blind:
                    visual.append(own_visual + at)
                    in_order += rows[i].shown
                at += length
            owner = torch.tensor([t[1] for t in chosen], device=device) if len(inside) > 1 else None
            widths = tuple(lengths[t[1]] for t in chosen)
            inside_own = _padded_places([rows[t[2]].visual[:-1] for t in chosen], blind, shape.length)
            behind = inside_own + torch.tensor([len(packed[t[1]]) for t in chosen])[:, None]
            keys = places[torch.tensor([t[1] for t in chosen])]
            responses.append(ResponseBatch(shape, owner, widths, rectangle.length, device, (keys, behind)))
        seen = _padded_images(packed, rectangle.length) if both_ways and not blind else None
        batches.append(PromptBatch(rectangle, tuple(responses), places, seen, device))
    return Layout(
        tokens=torch.cat(tokens).to(device),
        positions=torch.cat(positions, -1).to(device),
        batches=tuple(batches),
        visual=(torch.cat(visual) if visual else torch.zeros(0, dtype=torch.int64)).to(device),
        shown=tuple(in_order),
        source=torch.cat([s for s in source if s is not None]).to(device),
    )
