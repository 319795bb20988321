"""TokenSelect: attention to a part of the cache, chosen per query by a soft vote of the heads.

arXiv 2411.02886, code pzs19/TokenSelect. Keys are stored rotated and keep their positions (no length extrapolation):
3-row positions of vision-language models cannot be re-derived for a selected set. Registered with transformers as the
attention function ``mmcredit_tokenselect``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch.nn.functional import cosine_similarity, max_pool1d, scaled_dot_product_attention
from transformers import AttentionInterface

if TYPE_CHECKING:
    from torch import Tensor

NAME = "mmcredit_tokenselect"
GqaMap = Literal["grouped", "mod"]


def soft_vote(query: Tensor, keys: Tensor, gqa_map: GqaMap = "grouped") -> Tensor:
    """[N]: sum over heads of softmax(Q_h . K_kv(h)) over the candidates, without 1/sqrt(d).

    query [H,d], keys [N,K,d]. `grouped`: consecutive query heads share a key head (as the weights of Llama and Qwen
    do); `mod`: head h reads key head h mod K, as the paper's kernel does.
    """
    heads, key_heads = query.shape[0], keys.shape[1]
    index = torch.arange(heads, device=query.device)
    index = index // (heads // key_heads) if gqa_map == "grouped" else index % key_heads
    logits = torch.einsum("hd,nhd->hn", query.float(), keys.float()[:, index])
    return logits.softmax(-1).sum(0)


def select(
    query: Tensor,
    keys: Tensor,
    k: int,
    *,
    n_init: int = 0,
    n_local: int = 0,
    gqa_map: GqaMap = "grouped",
    pool: int = 1,
    always_keep: Tensor | None = None,
) -> Tensor:
    """Positions that are attended to, ascending [M] int64: the first `n_init`, the k best candidates between, the last
    `n_local`, and where `always_keep` [N] bool is set. Everything where that covers the N keys.

    query [H,d] of one step (or the mean of a chunk), keys [N,K,d]. `pool`: width (odd) of a max-pool over the votes.
    """
    total = keys.shape[0]
    if n_init + k + n_local >= total:
        return torch.arange(total, device=keys.device)
    chosen = torch.zeros(total, dtype=torch.bool, device=keys.device)
    chosen[:n_init] = True
    chosen[total - n_local :] = True
    votes = soft_vote(query, keys[n_init : total - n_local], gqa_map)
    if pool > 1:
        votes = max_pool1d(votes[None, None], pool, 1, pool // 2)[0, 0]
    chosen[n_init + votes.topk(k).indices] = True
    if always_keep is not None:
        chosen |= always_keep
    return chosen.nonzero()[:, 0]


def reuses(query: Tensor, cached: Tensor | None, theta: float) -> bool:
    """Whether the selection of `cached` serves `query` too: cos >= theta, heads flattened."""
    return cached is not None and float(cosine_similarity(query.reshape(-1), cached.reshape(-1), dim=0)) >= theta


@dataclass
class Selector:
    """The settings, and per layer the last query with its selection. One per sequence."""

    k: int
    n_init: int = 128
    n_local: int = 512
    theta: float | None = 0.9
    chunk: int = 512
    gqa_map: GqaMap = "grouped"
    pool: int = 1
    share: float | None = None  # k is this share of the keys there are
    visual: Tensor | None = None  # [P] bool, prompt positions that are always kept
    last: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=lambda: {"selected": 0, "reused": 0, "keys": 0, "attended": 0})

    def of(self, layer: int, query: Tensor, keys: Tensor, decoding: bool) -> Tensor:
        """Positions [M] for query [H,d] over keys [N,K,d]."""
        total = keys.shape[0]
        k = self.k if self.share is None else max(1, round(self.share * total))
        known = self.last.get(layer) if decoding and self.theta is not None else None
        if known is not None and reuses(query, known[0], self.theta or 0.0):
            found = known[1]
            local = torch.arange(max(0, total - max(1, self.n_local)), total, device=keys.device)
            places = torch.cat([found, local]).unique()
            self.counts["reused"] += 1
        else:
            keep = None
            if self.visual is not None:
                keep = torch.zeros(total, dtype=torch.bool, device=keys.device)
                keep[: min(total, len(self.visual))] = self.visual[:total].to(keys.device)
            places = select(
                query, keys, k, n_init=self.n_init, n_local=max(self.n_local, int(decoding)), gqa_map=self.gqa_map,
                pool=self.pool, always_keep=keep,
            )  # fmt: skip
            if decoding:
                self.last[layer] = (query, places)
            self.counts["selected"] += 1
        self.counts["keys"] += total
        self.counts["attended"] += len(places)
        return places


def attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    kv_select: Selector | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """query [1,H,Q,d]; key, value [1,K,N,d], the last Q of them the queries' own -> [1,Q,H,d].

    One query: attention to the selected keys. Several: chunk by chunk, each over what its mean query selects of the
    keys before it, and causally over itself. Raises ValueError for attention that hands no keywords down, or has
    windows, soft caps or sinks.
    """
    odd = [name for name in ("sliding_window", "softcap", "s_aux") if kwargs.get(name) is not None]
    if kv_select is None or odd:
        raise ValueError(
            f"{type(module).__name__} cannot be decoded by tokenselect: "
            + (f"its attention has {', '.join(odd)}" if odd else "it does not pass keyword arguments to attention")
        )
    layer = int(module.layer_idx)  # type: ignore[arg-type]
    queries, total = query.shape[2], key.shape[2]
    keys = key[0].transpose(0, 1)  # [N,K,d]
    grouped = query.shape[1] != key.shape[1]
    out = []
    if queries == 1:
        places = kv_select.of(layer, query[0, :, 0], keys, True)
        found = scaled_dot_product_attention(
            query, key[:, :, places], value[:, :, places], scale=scaling, enable_gqa=grouped
        )
        return found.transpose(1, 2), None
    before = total - queries
    for start in range(0, queries, kv_select.chunk):
        stop = min(queries, start + kv_select.chunk)
        past = before + start
        own = torch.arange(past, before + stop, device=key.device)
        seen = torch.arange(0, device=key.device)
        if past:
            seen = kv_select.of(layer, query[0, :, start:stop].mean(1), keys[:past], False)
        places = torch.cat([seen, own])
        causal = torch.ones(stop - start, stop - start, dtype=torch.bool, device=key.device).tril()
        mask = torch.cat([torch.ones(stop - start, len(seen), dtype=torch.bool, device=key.device), causal], 1)
        out.append(
            scaled_dot_product_attention(
                query[:, :, start:stop],
                key[:, :, places],
                value[:, :, places],
                attn_mask=mask,
                scale=scaling,
                enable_gqa=grouped,
            )
        )
    return torch.cat(out, 2).transpose(1, 2), None


AttentionInterface.register(NAME, attend)


@contextmanager
def selecting(body: Any) -> Iterator[None]:
    """Inside the block the text body attends with `attend`."""
    before = body.config._attn_implementation
    body.config._attn_implementation = NAME
    try:
        yield
    finally:
        body.config._attn_implementation = before
