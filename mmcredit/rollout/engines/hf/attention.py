"""Attention of the rollout engine: a row's queries read the prompt's shared keys and the row's own keys.

One softmax runs over both parts, so the result is that of ordinary attention over their concatenation. Query heads of
a key-value head stand side by side in one matrix product; keys are not repeated for them, nor prompts for rows.

Registered with transformers' attention interface as ``mmcredit_rollout``. No mask function goes with it: bodies then
build no mask at all, since prompts are right padded (causality hides the padding) and the cache knows the rest: which
keys a sliding layer no longer sees, and which tokens of a prompt are one image.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from mmcredit.rollout.engines.hf.cache import SharedPromptCache

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

NAME = "mmcredit_rollout"


def attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    shared_prompt: SharedPromptCache | None = None,
    softcap: float | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention output [B,Q,H,D] for query [B,H,Q,D] and the key, value [B,K,.,D] that the cache returned.

    Raises ValueError if the architecture does not hand keyword arguments on to its attention, or needs attention
    sinks, which this function does not have.
    """
    if shared_prompt is None or softcap is not None or kwargs.get("s_aux") is not None:
        raise ValueError(
            f"{type(module).__name__} cannot be sampled by engine 'hf': it "
            + ("does not pass keyword arguments to attention" if shared_prompt is None else "uses soft caps or sinks")
        )
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if shared_prompt.stage == "prompt":
        grouped = query.shape[1] != key.shape[1]
        mask = shared_prompt.reading_mask(query.shape[2], sliding_window, query.dtype, query.device)
        out = scaled_dot_product_attention(
            query, key, value, mask, is_causal=mask is None, scale=scale, enable_gqa=grouped
        )
        return out.transpose(1, 2), None
    layer_idx: Any = module.layer_idx
    layer = shared_prompt.slot(layer_idx)
    return _attend_both(query * scale, key, value, shared_prompt, layer, sliding_window), None


def _attend_both(
    query: Tensor, key: Tensor, value: Tensor, cache: SharedPromptCache, layer: int, window: int | None
) -> Tensor:
    n, h, q, d = query.shape
    k, own = key.shape[1], key.shape[2]
    r = h // k * q  # queries per key-value head
    query = query.reshape(n, k, r, d)
    prompt_key, prompt_value = cache.prompt_keys[layer], cache.prompt_values[layer]
    length = prompt_key.shape[1]

    to_prompt = _product(_to_slots(query, cache), prompt_key.transpose(1, 2))  # [P*K,S*R,L]
    if cache.prompt_bias is not None:
        to_prompt = to_prompt + cache.prompt_bias
    to_own = _product(query.view(n * k, r, d), key.reshape(n * k, own, d).transpose(1, 2)).view(n, k, r, own)
    if cache.query_bias is not None:
        to_own = (to_own.view(n, k, h // k, q, own) + cache.query_bias).view(n, k, r, own)
    elif cache.own_bias is not None:
        to_own = to_own + cache.own_bias[..., :own]
    scores = torch.cat((_to_rows(to_prompt, cache, n, k, r), to_own), -1)
    far = cache.far_bias(q, own, window)
    if far is not None:
        scores = (scores.view(n, k, h // k, q, length + own) + far).view(n, k, r, length + own)
    weights = scores.softmax(-1).to(value.dtype)

    from_prompt = torch.bmm(_to_slots(weights[..., :length], cache), prompt_value)  # [P*K,S*R,D]
    from_own = torch.matmul(weights[..., length:], value)  # [N,K,R,D]
    out = from_own + _to_rows(from_prompt, cache, n, k, r)
    return out.view(n, h, q, d).transpose(1, 2)


def _product(a: Tensor, b: Tensor) -> Tensor:
    """Batched product with a float32 result: scores rounded to bfloat16 would differ from the score passes'."""
    if a.dtype in (torch.float32, torch.float64):
        return torch.bmm(a, b)
    if a.is_cuda:
        return torch.bmm(a, b, out_dtype=torch.float32)
    return torch.bmm(a.float(), b.float())


def _to_slots(x: Tensor, cache: SharedPromptCache) -> Tensor:
    """[N,K,R,X] by rows -> [P*K,S*R,X] by prompts."""
    if cache.slot_rows is not None:
        x = x.index_select(0, cache.slot_rows)
    _, k, r, width = x.shape
    if k > 1:
        x = x.view(cache.prompts, cache.slots, k, r, width).transpose(1, 2)
    return x.reshape(cache.prompts * k, cache.slots * r, width)


def _to_rows(x: Tensor, cache: SharedPromptCache, n: int, k: int, r: int) -> Tensor:
    """[P*K,S*R,X] by prompts -> [N,K,R,X] by rows."""
    if k > 1:
        x = x.view(cache.prompts, k, cache.slots, r, -1).transpose(1, 2)
    x = x.reshape(cache.prompts * cache.slots, k, r, -1)
    return x if cache.row_slots is None else x.index_select(0, cache.row_slots)


AttentionInterface.register(NAME, attend)


@contextmanager
def rollout_attention(body: PreTrainedModel) -> Iterator[None]:
    """Inside the block the text body attends with `attend` and is in eval mode; both are put back afterwards."""
    config, training = body.config, body.training
    before = config._attn_implementation
    if training:
        body.eval()
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = before
        if training:
            body.train()
