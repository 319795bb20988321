"""Attention entropy of chosen layers, taken while a pass runs: no forward is added and no attention map is kept.

For the query position s that predicts a token, with n visible keys and heads h = 1..H of one layer,

    abar_j = (1/H) sum_h softmax_j(q_s^h . k_j^h * scale),   E = -sum_j abar_j log abar_j,   e = E / log n   (n = 1: 0).

Heads are averaged first: two sharp heads on different keys give log 2, not 0 (arXiv 2605.07660). Flash and SDPA kernels
return no probabilities, so the attention function of the chosen layer hands its queries and keys to a `Recorder`, which
does the softmax again in float32, for a few queries at a time and only at positions that predict a response token.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from mmcredit.policy.seeing import allowed

if TYPE_CHECKING:
    from torch import Tensor

    from mmcredit.policy.layout import Layout, Rectangle

NAME = "attention_entropy"
PROMPT = "prompt_attention"  # instead: the sum of abar_j over the prompt's keys, in [0, 1]
SCORE_BYTES = 64 * 2**20  # float32 scores of all heads that exist at a time
# Attention that is not a softmax over scaled dot products alone.
_UNKNOWN = ("softcap", "s_aux", "position_bias")


@dataclass(frozen=True)
class Ask:
    """What is wanted: of which layer, and in which form."""

    layer: int | None = None  # from 0; none = the middle one
    normalised: bool = True  # over the log of the number of keys, in [0, 1]; else nats
    first: bool = True  # with the first key (often a sink); else the others, renormalised (a sum is only cut)
    kind: str = NAME

    @property
    def output(self) -> str:
        """Name of the pass output: ``attention_entropy[:LAYER][:nats][:no_first]``, ``prompt_attention[:LAYER]...``."""
        parts = [self.kind, "" if self.layer is None else str(self.layer)]
        parts += ["" if self.normalised else "nats", "" if self.first else "no_first"]
        return ":".join(p for p in parts if p)


def parse(output: str) -> Ask | None:
    """The ask behind an output name, None if it is the name of something else or malformed."""
    name, *parts = output.split(":")
    options = [p for p in parts if not p.isdigit()]
    layers = [int(p) for p in parts if p.isdigit()]
    known = {"nats", "no_first"} if name == NAME else {"no_first"}
    if name not in (NAME, PROMPT) or len(layers) > 1 or len(set(options)) < len(options) or set(options) - known:
        return None
    return Ask(layers[0] if layers else None, "nats" not in options, "no_first" not in options, name)


def softmax_layer(config: Any, layer: int | None) -> int:
    """The decoder layer an ask means: the given one, else floor(layers / 2), or the nearest with full attention.

    Raises ValueError for a layer that is not there, or one without a softmax.
    """
    count = int(config.num_hidden_layers)
    kinds = list(getattr(config, "layer_types", None) or ["full_attention"] * count)
    if layer is None:
        full = [i for i, kind in enumerate(kinds) if kind == "full_attention"]
        full = full or [i for i, kind in enumerate(kinds) if kind.endswith("_attention") and kind != "linear_attention"]
        if not full:
            raise ValueError(f"attention_entropy needs a softmax-attention layer; this model has {sorted(set(kinds))}")
        return min(full, key=lambda i: (abs(i - count // 2), i))
    if not 0 <= layer < count:
        raise ValueError(f"attention: layer must be 0..{count - 1} in this model, got {layer}")
    if kinds[layer] == "linear_attention" or not kinds[layer].endswith("_attention"):
        raise ValueError(f"attention: layer {layer} of this model is {kinds[layer]}, which has no softmax")
    return layer


@dataclass
class Recorder:
    """Takes queries and keys from the attention of the asked layers, and gives their entropies back afterwards.

    In the padded layout `spans` are the (first, last + 1) query position of each row, and `seen` [b,L] the keys that
    exist (real, and not hidden in this view); in the shared layout the layout itself says so.
    """

    asks: Mapping[str, Ask]
    layers: Mapping[str, int]
    spans: Sequence[tuple[int, int]] = ()
    seen: Tensor | None = None
    values: dict[str, Tensor] = field(default_factory=dict)  # [sum R] float32 per output name, after `harvest`
    _found: dict[str, Tensor] = field(default_factory=dict)
    _open: bool = True  # a checkpointed backward runs the layers once more

    @classmethod
    def of(cls, names: Sequence[str], config: Any) -> Recorder:
        """For these output names of one view."""
        asks = {name: ask for name in names if (ask := parse(name)) is not None}
        last = int(config.num_hidden_layers) - 1
        layers = {n: last if a.layer is None and a.kind == PROMPT else a.layer for n, a in asks.items()}
        return cls(asks, {name: softmax_layer(config, layer) for name, layer in layers.items()})

    @torch.no_grad()
    def take(
        self, layer: int, query: Tensor, key: Tensor, scale: float | None, layout: Layout | None, options: Mapping
    ) -> None:
        """Called by the attention function: query [b,H,L,d], key [b,K,L,d], rotated, before any repetition of heads.

        Raises NotImplementedError for attention with soft caps or sinks of its own.
        """
        asked = [self.asks[name] for name, number in self.layers.items() if number == layer]
        if not asked or not self._open:
            return
        present = [name for name in _UNKNOWN if options.get(name) is not None]
        if present:
            raise NotImplementedError(f"attention_entropy does not know attention with {', '.join(present)}")
        scale = query.shape[-1] ** -0.5 if scale is None else scale
        if layout is not None:
            found = _shared(query, key, scale, layout, options.get("sliding_window"), asked)
        else:
            found = _padded(query, key, scale, self.spans, self.seen, options.get("sliding_window"), asked)
        self._found |= {ask.output: values for ask, values in zip(asked, found, strict=True)}

    def harvest(self, source: Tensor | None) -> None:
        """Fill `values`; `source` as in `Layout.source`, None where rows were recorded in order.

        Raises ValueError if the architecture never called our attention function at an asked layer.
        """
        self._open = False
        missing = [name for name, ask in self.asks.items() if ask.output not in self._found]
        if missing:
            raise ValueError(
                f"{missing[0]} cannot be had from this architecture: its layer {self.layers[missing[0]]} does not "
                "hand keywords down to its attention function"
            )
        found = {name: self._found[ask.output] for name, ask in self.asks.items()}
        self._found = {}
        self.values = found if source is None else {name: v.index_select(0, source) for name, v in found.items()}


def _lengths(shape: Rectangle, device: torch.device) -> Tensor:
    """[count] int64: length of each piece of a rectangle."""
    if shape.padding is None:
        return torch.full((shape.count,), shape.length, device=device)
    return (~shape.padding).view(shape.count, shape.length).sum(1)


def _rows_of(x: Tensor) -> Callable[[slice], Tensor]:
    return lambda rows: x[rows]


def _shared(
    query: Tensor, key: Tensor, scale: float, layout: Layout, window: int | None, asks: Sequence[Ask]
) -> list[Tensor]:
    """[N] per ask, of the packed row; 0 at rows that predict nothing."""
    q, k = query[0].transpose(0, 1).detach(), key[0].transpose(0, 1).detach()
    device = q.device
    out = [torch.zeros(len(layout), dtype=torch.float32, device=device) for _ in asks]

    def pieces(x: Tensor, shape: Rectangle) -> Tensor:
        x = x[shape.start : shape.start + shape.rows]
        return (x if shape.pad is None else x.index_select(0, shape.pad)).view(shape.count, shape.length, *x.shape[1:])

    for batch in layout.batches:
        shape = batch.rectangle
        keys, queries, lengths = pieces(k, shape), pieces(q, shape), _lengths(shape, device)
        last = queries[torch.arange(shape.count, device=device), lengths - 1][:, None]
        inside = torch.arange(shape.length, device=device) < lengths[:, None]
        places = batch.places.to(device)
        reached = inside
        if window is not None:
            ends = places.gather(1, lengths[:, None] - 1)
            reached = inside & (places > ends - window)

        def prompt_only(rows: slice, _: slice, inside: Tensor = reached) -> Tensor:
            return inside[rows, None]

        found = _entropies(last, _rows_of(keys), prompt_only, scale, asks, keys.shape[1], keys.shape[1])
        predicting = shape.start + lengths.cumsum(0) - 1
        for values, new in zip(out, found, strict=True):
            values[predicting] = new[:, 0]
        for responses in batch.responses:
            own = responses.rectangle
            own_keys = pieces(k, own)
            owner = torch.zeros(own.count, dtype=torch.int64, device=device)
            owner = owner if responses.owner is None else responses.owner

            def all_keys(
                rows: slice, keys: Tensor = keys, owner: Tensor = owner, own_keys: Tensor = own_keys
            ) -> Tensor:
                return torch.cat([keys.index_select(0, owner[rows]), own_keys[rows]], 1)

            of_prompt, of_own = (x.to(device) for x in responses.places)

            def visible(
                rows: slice,
                at: slice,
                inside: Tensor = inside,
                owner: Tensor = owner,
                of_prompt: Tensor = of_prompt,
                of_own: Tensor = of_own,
            ) -> Tensor:
                asking = of_own[rows, at]  # padded rows come after every real query
                prompt = allowed(asking, of_prompt[rows], window) & inside[owner[rows]][:, None]
                return torch.cat([prompt, allowed(asking, of_own[rows], window)], 2)

            width = keys.shape[1]
            found = _entropies(pieces(q, own), all_keys, visible, scale, asks, width, width + own.length)
            for values, new in zip(out, found, strict=True):
                flat = new.reshape(-1)
                values[own.start : own.start + own.rows] = flat if own.unpad is None else flat[own.unpad]
    return out


def _padded(
    query: Tensor,
    key: Tensor,
    scale: float,
    spans: Sequence[tuple[int, int]],
    seen: Tensor | None,
    window: int | None,
    asks: Sequence[Ask],
) -> list[Tensor]:
    """[sum R] per ask, row after row."""
    assert seen is not None
    assert len(spans) == query.shape[0]
    parts: list[list[Tensor]] = []
    for row, (start, stop) in enumerate(spans):
        keys = key[row, :, :stop].transpose(0, 1)[None].detach()
        column = torch.arange(stop, device=key.device)

        def visible(_: slice, at: slice, row: int = row, start: int = start, column: Tensor = column) -> Tensor:
            place = column[start:][at, None]
            allowed = (column[None] <= place) & seen[row, : column.shape[0]]
            if window is not None:
                allowed = allowed & (place - column[None] < window)
            return allowed[None]

        queries = query[row, :, start:stop].transpose(0, 1)[None].detach()
        parts.append([v[0] for v in _entropies(queries, _rows_of(keys), visible, scale, asks, start + 1)])
    return [torch.cat([part[i] for part in parts]) for i in range(len(asks))]


def _entropies(
    queries: Tensor,
    keys: Callable[[slice], Tensor],
    visible: Callable[[slice, slice], Tensor],
    scale: float,
    asks: Sequence[Ask],
    prompt: int,
    width: int | None = None,
) -> list[Tensor]:
    """queries [n,R,H,d] -> [n,R] per ask. `keys(rows)` gives [m,S,K,d], the first `prompt` of S the prompt's;
    `visible(rows, queries)` [m,c,S] bool.

    Works on as many rows, else as many queries of one row, as fit into SCORE_BYTES.
    """
    n, length, heads, _ = queries.shape
    width = keys(slice(0, 1)).shape[1] if width is None else width
    at_once = max(1, SCORE_BYTES // (4 * heads * max(width, 1)))  # queries
    rows_at_once, columns = max(1, at_once // max(length, 1)), min(length, at_once)
    out = [torch.zeros(n, length, dtype=torch.float32, device=queries.device) for _ in asks]
    for row in range(0, n, rows_at_once):
        rows = slice(row, row + rows_at_once)
        seen_keys = keys(rows).float()
        for column in range(0, length, columns):
            at = slice(column, column + columns)
            found = entropies(queries[rows, at], seen_keys, visible(rows, at), scale, asks, prompt)
            for values, new in zip(out, found, strict=True):
                values[rows, at] = new
    return out


def entropies(
    queries: Tensor, keys: Tensor, visible: Tensor, scale: float, asks: Sequence[Ask], prompt: int = 0
) -> list[Tensor]:
    """queries [n,c,H,d], keys [n,S,K,d] (H a multiple of K), visible [n,c,S] bool -> [n,c] float32 per ask.

    `prompt`: how many of the first keys are the prompt's, for ``prompt_attention``."""
    n, c, heads, d = queries.shape
    grouped = queries.float().view(n, c, keys.shape[2], heads // keys.shape[2], d)
    scores = torch.einsum("nckrd,nskd->nkrcs", grouped, keys.float()) * scale
    scores = scores.masked_fill(~visible[:, None, None], -torch.inf)
    weights = scores.softmax(-1).mean((1, 2))
    return [
        of_prompt(weights, visible, ask, prompt) if ask.kind == PROMPT else of_weights(weights, visible, ask)
        for ask in asks
    ]


def of_prompt(weights: Tensor, visible: Tensor, ask: Ask, prompt: int) -> Tensor:
    """weights [...,S] -> [...] float32: their sum over the first `prompt` keys, without the very first if so asked."""
    if not ask.first:
        weights = weights.scatter(-1, visible.int().argmax(-1, keepdim=True), 0.0)
    return weights[..., :prompt].sum(-1)


def of_weights(weights: Tensor, visible: Tensor, ask: Ask) -> Tensor:
    """weights [...,S], the attention averaged over heads, 0 where not `visible` -> [...] float32."""
    if not ask.first:
        first = visible.int().argmax(-1, keepdim=True)  # the first of equal maxima
        weights = weights.scatter(-1, first, 0.0)
        weights = weights / weights.sum(-1, keepdim=True).clamp(min=1e-30)
    entropy = torch.special.entr(weights).sum(-1)
    if not ask.normalised:
        return entropy
    count = visible.sum(-1) - (0 if ask.first else 1)
    return torch.where(count > 1, entropy / count.clamp(min=2).log(), 0.0).clamp(0.0, 1.0)
