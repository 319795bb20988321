"""Split attention for the shared-prompt layout, as an attention function of transformers.

Registered under the name ``mmcredit``. Without a layout it is transformers' own sdpa, so generation and the padded
layout are untouched. With ``shared=Layout`` (a keyword that the language model hands down to its attention) it computes

* prompts: causal self-attention, prompts of similar length in one call;
* responses: queries over [keys of the prompt, own keys], the prompt part fully visible, the own part causal.

That is the attention of the repeated layout with the repeated work left out: no [L, L] mask, no key of another
response, no padding outside the attention itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from mmcredit.policy.layout import Layout, Rectangle, ResponseBatch

if TYPE_CHECKING:
    from torch import Tensor

    from mmcredit.policy.attention_entropy import Recorder

NAME = "mmcredit"
# What other attention kinds hand to their function. A split that ignored them would be silently wrong.
_UNSUPPORTED = ("softcap", "s_aux", "position_bias", "cache")


class _Pad(torch.autograd.Function):
    """Packed rows -> right-padded rectangle. Each real row is read once, so the gradient is a gather and not a
    scatter-add: exact and deterministic on every device."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, pad: Tensor, unpad: Tensor) -> Tensor:
        ctx.save_for_backward(unpad)
        return x.index_select(0, pad)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (unpad,) = ctx.saved_tensors
        return gradient.index_select(0, unpad), None, None


class _Unpad(torch.autograd.Function):
    """Right-padded rectangle -> packed rows; padding gets gradient 0."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, pad: Tensor, unpad: Tensor, padding: Tensor) -> Tensor:
        ctx.save_for_backward(pad, padding)
        return x.index_select(0, unpad)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        pad, padding = ctx.saved_tensors
        padded = gradient.index_select(0, pad)
        padded[padding] = 0
        return padded, None, None, None


def _padded(x: Tensor, shape: Rectangle) -> Tensor:
    """[N,H,d] -> [count, length, H, d]."""
    x = x[shape.start : shape.start + shape.rows]
    if shape.pad is not None:
        x = _Pad.apply(x, shape.pad, shape.unpad)
    return x.reshape(shape.count, shape.length, *x.shape[1:])


def _packed(x: Tensor, shape: Rectangle) -> Tensor:
    """[count, length, H, d] -> [rows, H, d]."""
    x = x.reshape(shape.count * shape.length, *x.shape[2:])
    return x if shape.pad is None else _Unpad.apply(x, shape.pad, shape.unpad, shape.padding)


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Any = None, **options: Any) -> Tensor:
    """[n,H,R,d], [n,K,S,d] twice -> [n,H,R,d]."""
    return scaled_dot_product_attention(q, k, v, attn_mask=mask, **options)


def _lower_right(q: Tensor, k: Tensor, v: Tensor, options: dict[str, Any]) -> Tensor:
    """The same without padded prompts: causal, aligned to the lower right. On CUDA the flash kernels take that, grouped
    heads included, and nothing is materialised."""
    bias = causal_lower_right(q.shape[1], k.shape[1])
    grouped = q.shape[2] != k.shape[2]
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    return _attend(q, k, v, bias, enable_gqa=grouped, **options).transpose(1, 2)


def _attend_responses(
    q: Tensor, k: Tensor, v: Tensor, batch: ResponseBatch, window: int | None, options: dict[str, Any]
) -> Tensor:
    """q [n,R,H,d], k and v [n,P+R,K,d] -> [n,R,H,d]. Query heads that share a key head are folded into the query axis,
    so that no key is copied for them and any backend takes the mask."""
    window = window if batch.cuts(window) else None
    if q.is_cuda and q.dtype in (torch.bfloat16, torch.float16) and batch.plain and window is None:
        return _lower_right(q, k, v, options)
    n, length, heads, d = q.shape
    key_heads = k.shape[2]
    repeats = heads // key_heads
    folded = q.view(n, length, key_heads, repeats, d).permute(0, 2, 3, 1, 4).reshape(n, key_heads, repeats * length, d)
    mask = batch.mask(q.dtype, repeats, window)
    out = _attend(folded, k.transpose(1, 2), v.transpose(1, 2), mask, **options)
    return out.view(n, key_heads, repeats, length, d).permute(0, 3, 1, 2, 4).reshape(n, length, heads, d)


def _shared(
    query: Tensor, key: Tensor, value: Tensor, layout: Layout, window: int | None, options: dict[str, Any]
) -> Tensor:
    """query [1,H,N,d], key and value [1,K,N,d] -> [1,N,H,d]."""
    assert query.shape[0] == 1, "not a packed row"
    assert query.shape[2] == len(layout) == key.shape[2], "not the packed row of this layout"
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    out: list[Tensor] = []
    for batch in layout.batches:
        pq, pk, pv = (_padded(x, batch.rectangle) for x in (q, k, v))
        grouped = pq.shape[2] != pk.shape[2]
        # Right padding needs no mask under causal attention: padded keys come after every real query.
        flipped = pq.transpose(1, 2), pk.transpose(1, 2), pv.transpose(1, 2)
        mask = batch.mask(q.dtype, window)
        own = _attend(*flipped, mask, is_causal=mask is None, enable_gqa=grouped, **options)
        out.append(_packed(own.transpose(1, 2), batch.rectangle))
        for responses in batch.responses:
            rq, rk, rv = (_padded(x, responses.rectangle) for x in (q, k, v))
            if responses.owner is None:
                seen_k, seen_v = (x.expand(rq.shape[0], -1, -1, -1) for x in (pk, pv))
            else:
                seen_k, seen_v = (x.index_select(0, responses.owner) for x in (pk, pv))
            keys, values = torch.cat([seen_k, rk], 1), torch.cat([seen_v, rv], 1)
            out.append(_packed(_attend_responses(rq, keys, values, responses, window, options), responses.rectangle))
    return torch.cat(out)[None]


def attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    shared: Layout | None = None,
    recorder: Recorder | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The attention function. Raises NotImplementedError for a shared layout with soft caps or sinks.

    A `recorder` is shown queries and keys of the layers it asks for.
    """
    if recorder is not None:
        recorder.take(getattr(module, "layer_idx", -1), query, key, scaling, shared, kwargs)
    if shared is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    present = [name for name in _UNSUPPORTED if kwargs.get(name) is not None]
    if present:
        raise NotImplementedError(f"the shared-prompt layout does not know attention with {', '.join(present)}")
    window = kwargs.get("sliding_window")
    return _shared(query, key, value, shared, window, {"dropout_p": dropout, "scale": scaling}), None


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
