"""Responses of a wave that stop for a reaction: set aside with their keys and values, and taken up again together.

A response that waits leaves the batch. When few others are left that go on (see `STRAGGLERS`), all that wait are given
what was promised, read it behind what they hold (nothing before it is read again), and form the next batch with those
few. So which responses are computed side by side depends on what they say and never on how long a reaction takes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import pad

from mmcredit.rollout.engines.hf.loop import Finished, Rows
from mmcredit.rollout.engines.hf.prefill import Prefilled
from mmcredit.rollout.history import History
from mmcredit.rollout.reaction import STRAGGLERS, Promised, Reply, Said

if TYPE_CHECKING:
    from torch import Tensor

    from mmcredit.policy.forward import EmbeddedPrompt
    from mmcredit.policy.prompt import Prompt
    from mmcredit.rollout.engine import Request
    from mmcredit.rollout.engines.hf.cache import Block, SharedPromptCache
    from mmcredit.rollout.engines.hf.decoder import Decoder


@dataclass
class Waiting:
    """A response between two batches."""

    response: int
    reply: Reply | Promised
    column: int  # own keys that it has: all its tokens but the newest
    position: int  # of the newest token
    prompt: int  # in the cache
    prefix: Sequence[int]  # everything it holds, the request's prefix first
    uniforms: Tensor  # [T] f64, of the tokens that it may still sample
    held: tuple[Block, int] | None = None  # where its keys and values are: the row of a block


class Reactions:
    """The reactions to the responses of one wave."""

    def __init__(
        self,
        requests: Sequence[Request],
        order: Sequence[tuple[int, int]],
        vocabulary: int,
        device: torch.device,
        counts: dict[str, int],
    ) -> None:
        """`order`: request and member of each response number. `counts` is added to."""
        self.requests, self.order, self.counts, self.device = requests, order, counts, device
        self.stops = torch.zeros(vocabulary, dtype=torch.bool, device=device)
        for request in requests:
            if request.reaction is not None:
                self.stops[list(request.reaction.stops)] = True
        self.histories: dict[int, History] = {}
        self.waiting: list[Waiting] = []
        self._halted: dict[int, Waiting] = {}  # still in the batch, by response
        self.seconds = 0.0  # waited for replies

    def history(self, response: int) -> History:
        """What the response has behind it."""
        if response not in self.histories:
            reaction = self.requests[self.order[response][0]].reaction
            self.histories[response] = History(room=0 if reaction is None else reaction.room)
        return self.histories[response]

    def halt(self, rows: Rows, step: int, ended: Tensor, cache: SharedPromptCache, positions: Tensor) -> Tensor:
        """[N] bool: rows that wait from now on, of those that have not `ended`."""
        found = torch.zeros_like(ended)
        candidates = (self.stops[rows.tokens[step]] & ~ended).nonzero()[:, 0].tolist()
        for row in candidates:
            response = int(rows.responses[row])
            number, member = self.order[response]
            request = self.requests[number]
            said = rows.tokens[: step + 1, row].tolist()
            if request.reaction is None or said[-1] not in request.reaction.stops:
                continue
            history = self.history(response)
            left = int(rows.limits[row]) - step - 1
            now = (*history.tokens, *said)
            given = Said(request.prompt, request.tag, member, now, tuple(history.inserted), history.room, left)
            with torch.inference_mode(False):  # tensors that it makes are for training, too
                reply = request.reaction(given)
            if isinstance(reply, Reply) and reply.piece is None and not reply.end:
                history.notes |= reply.notes
                continue
            found[row] = True
            self._wait(row, reply, rows, step, cache, positions)
        waiting = len(self.waiting) + len(self._halted)
        if waiting:
            going = (~ended & ~found).nonzero()[:, 0].tolist()
            if going and waiting >= STRAGGLERS * len(going):
                for row in going:
                    found[row] = True
                    self._wait(row, Reply(), rows, step, cache, positions)
        return found

    def _wait(
        self, row: int, reply: Reply | Promised, rows: Rows, step: int, cache: SharedPromptCache, positions: Tensor
    ) -> None:
        response, left = int(rows.responses[row]), int(rows.limits[row]) - step - 1
        self._halted[response] = Waiting(
            response,
            reply,
            cache.filled,
            int(positions[row, 0]),
            int(cache.row_prompt[row]),
            [*rows.prefixes[row], *rows.tokens[: step + 1, row].tolist()],
            rows.uniforms[step + 1 : step + 1 + left, row],
        )

    def set_aside(self, rows: Rows, lengths: Tensor, cache: SharedPromptCache, leaving: Tensor) -> Tensor:
        """Of the rows that leave (CPU [n] int64) those that do not wait; the others' keys and values are kept."""
        waits = [int(rows.responses[i]) in self._halted for i in leaving.tolist()]
        staying = leaving[torch.tensor(waits, dtype=torch.bool)]
        if not len(staying):
            return leaving
        own = [self._halted.pop(int(rows.responses[i])) for i in staying.tolist()]
        block = cache.block(staying, [one.column for one in own])
        for row, (one, place) in enumerate(zip(own, staying.tolist(), strict=True)):
            one.held = block, row
            history, length = self.history(one.response), int(lengths[place])
            history.say(rows.tokens[:length, place].tolist(), rows.logprobs[:length, place].tolist())
        self.waiting += own
        return leaving[~torch.tensor(waits, dtype=torch.bool)]

    def whole(self, one: Finished) -> Finished:
        """A response with all that it said and was given."""
        history = self.histories.get(one.response)
        if history is None:
            return one
        return Finished(
            one.response,
            history.tokens + one.tokens,
            history.logprobs + one.logprobs,
            one.stopped,
            tuple(history.inserted),
            history.notes,
        )

    def go_on(
        self, decoder: Decoder, cache: SharedPromptCache, finish: Callable[[list[Finished]], None], batch_tokens: int
    ) -> tuple[Prefilled, Rows] | None:
        """The next batch: all that wait, behind what they are given. None if none goes on; `finish` gets those."""
        waiting, self.waiting = sorted(self.waiting, key=lambda one: (one.prompt, one.response)), []
        began = time.perf_counter()
        replies = [one.reply if isinstance(one.reply, Reply) else one.reply.result() for one in waiting]
        self.seconds += time.perf_counter() - began
        going: list[tuple[Waiting, Prompt | None]] = []
        for one, reply in zip(waiting, replies, strict=True):
            history = self.history(one.response)
            history.notes |= reply.notes
            if reply.end:
                finish([Finished(one.response, [], [], True)])
                continue
            if reply.piece is not None:
                self._insert(one, history, reply.piece)
            going.append((one, reply.piece))
        if not going:
            return None
        return self._read(decoder, cache, going, batch_tokens), self._rows(going)

    def _insert(self, one: Waiting, history: History, piece: Prompt) -> None:
        history.give(piece, self.requests[self.order[one.response][0]].prompt.sample_id)
        one.prefix = [*one.prefix, *piece.tokens.tolist()]
        self.counts["insertions"] += 1
        self.counts["inserted_tokens"] += len(piece)

    def _rows(self, going: Sequence[tuple[Waiting, Prompt | None]]) -> Rows:
        count, most = len(going), max(len(one.uniforms) for one, _ in going)
        return Rows(
            responses=torch.tensor([one.response for one, _ in going]),
            prefixes=[one.prefix for one, _ in going],
            tokens=torch.zeros(most, count, dtype=torch.int64, device=self.device),
            logprobs=torch.zeros(most, count, device=self.device),
            uniforms=torch.stack([pad(one.uniforms, (0, most - len(one.uniforms))) for one, _ in going], 1),
            limits=torch.tensor([len(one.uniforms) for one, _ in going], device=self.device),
        )

    def _read(
        self,
        decoder: Decoder,
        cache: SharedPromptCache,
        going: Sequence[tuple[Waiting, Prompt | None]],
        batch_tokens: int,
    ) -> Prefilled:
        """Every row reads its newest token and its piece, left padded, in blocks of columns."""
        device, n = self.device, len(going)
        distinct = {id(piece): piece for _, piece in going if piece is not None}
        embedded = dict(zip(distinct, decoder.policy.embed(list(distinct.values())), strict=True))
        rows = [_Feed.of(decoder, one, embedded.get(id(piece)), piece) for one, piece in going]
        width = max(len(row) for row in rows)
        held = [one.held for one, _ in going if one.held is not None]
        assert len(held) == n, "a row waits without its keys"
        more = width + max(len(one.uniforms) for one, _ in going)
        first = cache.take_up(held, [one.prompt for one, _ in going], more)
        padding = torch.tensor([[width - len(row)] for row in rows]) > torch.arange(width)  # [N,W]
        embeds = torch.stack([pad(row.embeds, (0, 0, width - len(row), 0)) for row in rows])
        dims = max(row.positions.ndim for row in rows)
        positions = torch.stack([pad(_as(row.positions, dims), (width - len(row), 0)) for row in rows], -2).to(device)
        visual = torch.stack([pad(row.visual, (width - len(row), 0)) for row in rows])
        deepstack = [torch.cat(list(layer)) for layer in zip(*(r.deepstack for r in rows if r.deepstack), strict=True)]
        numbers = (visual.view(-1).cumsum(0) - 1).view(visual.shape)  # of each visual token among all
        cache.hide(first, padding.to(device))
        hidden = embeds[:, 0]
        step = max(1, batch_tokens // n)
        for start in range(0, width, step):
            end = min(width, start + step)
            cache.mask_block(first + start, first + end)
            extra = {}
            if deepstack:
                seen = visual[:, start:end]
                picked = numbers[:, start:end][seen].to(device)
                extra = {
                    "visual_pos_masks": seen.to(device),
                    "deepstack_visual_embeds": [layer.index_select(0, picked) for layer in deepstack],
                }
            out = decoder.body(
                inputs_embeds=embeds[:, start:end],
                position_ids=positions[..., start:end],
                past_key_values=cache,
                use_cache=True,
                shared_prompt=cache,
                **extra,
            )
            decoder.count(n * (end - start))
            cache.filled = first + end
            hidden = out.last_hidden_state[:, -1]
        cache.query_bias = None
        self.counts["resumed"] += n
        following = torch.tensor([[row.following] for row in rows], device=device)
        return Prefilled(cache, hidden, following)


@dataclass(frozen=True)
class _Feed:
    """What a row reads when it is taken up: its newest token, and a piece."""

    embeds: Tensor  # [n,d]
    positions: Tensor  # [n] or [3,n]
    visual: Tensor  # [n] bool
    deepstack: tuple[Tensor, ...]
    following: int  # position of the next token

    def __len__(self) -> int:
        return self.embeds.shape[0]

    @staticmethod
    def of(decoder: Decoder, one: Waiting, embedded: EmbeddedPrompt | None, piece: Prompt | None) -> _Feed:
        newest = one.prefix[-1] if piece is None else one.prefix[-1 - len(piece)]
        embeds = decoder.embed_tokens(torch.tensor([newest], device=decoder.device))
        positions = torch.tensor([one.position])
        if piece is None or embedded is None:
            return _Feed(embeds, positions, torch.zeros(1, dtype=torch.bool), (), one.position + 1)
        dims = piece.positions.ndim
        return _Feed(
            torch.cat([embeds, embedded.embeds.to(embeds.dtype)]),
            torch.cat([_as(positions, dims), piece.positions + one.position + 1], -1),
            torch.cat([torch.zeros(1, dtype=torch.bool), piece.visual]),
            embedded.deepstack,
            one.position + 1 + piece.next_position,
        )


def _as(positions: Tensor, dims: int) -> Tensor:
    """[n] as [3,n] where three rows are wanted."""
    return positions.expand(3, -1) if positions.ndim < dims else positions
