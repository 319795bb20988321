"""Which keys a query sees beside causality: windows of sliding layers, and images that see themselves both ways.

One rule for every place that attends: the padded and the shared layout and the rollout engine. Places are counted in
the whole row, hidden tokens included, as transformers counts them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import Tensor

FULL, SLIDING, LINEAR = "full_attention", "sliding_attention", "linear_attention"


def allowed(
    query: Tensor,
    key: Tensor,
    window: int | None = None,
    query_image: Tensor | None = None,
    key_image: Tensor | None = None,
) -> Tensor:
    """[...,Q,K] bool for places query [...,Q] and key [...,K] int64.

    `window`: keys reach back that far, the query's own place included. `query_image`, `key_image`: number of the image
    that a token belongs to, -1 for text; tokens of one image see each other.
    """
    q, k = query[..., :, None], key[..., None, :]
    see = k <= q
    if query_image is not None and key_image is not None:
        mine = query_image[..., :, None]
        see = see | ((mine == key_image[..., None, :]) & (mine >= 0))
    return see if window is None else see & (k > q - window)


def images(visual: Tensor) -> Tensor:
    """[...,L] int64: the number of the run of visual tokens that each token stands in, -1 outside. visual [...,L]."""
    before = torch.nn.functional.pad(visual, (1, 0))[..., :-1]
    return torch.where(visual, (visual & ~before).long().cumsum(-1) - 1, -1)


def additive(see: Tensor, dtype: torch.dtype) -> Tensor:
    """The mask to add to scores: 0 where `see`, -inf elsewhere."""
    return torch.zeros(see.shape, dtype=dtype, device=see.device).masked_fill_(~see, -torch.inf)


def windows(config: Any) -> dict[str, int | None]:
    """By kind of layer, the window of a decoder's config.

    Raises NotImplementedError for a kind that is not known.
    """
    kinds = set(getattr(config, "layer_types", None) or ())
    size = getattr(config, "sliding_window", None)
    if not kinds:
        return {"": None if size is None else int(size)}
    unknown = sorted(kinds - {FULL, SLIDING, LINEAR})
    if unknown:
        raise NotImplementedError(f"layers of {', '.join(unknown)} are not known")
    return {kind: int(size) if kind == SLIDING and size is not None else None for kind in sorted(kinds)}


def masks(config: Any, see: Tensor) -> Tensor | dict[str, Tensor]:
    """What a decoder takes as `attention_mask` for `see` [b,L,L] bool: one mask, or one for each kind of its layers.

    Rows that see nothing see themselves, so that no softmax is empty.
    """
    place = torch.arange(see.shape[-1], device=see.device)
    itself = torch.eye(see.shape[-1], dtype=torch.bool, device=see.device)
    made = {
        kind: ((see if window is None else see & (place[None] > place[:, None] - window)) | itself)[:, None]
        for kind, window in windows(config).items()
    }
    # Decoders whose layers are all alike take one mask under any name.
    return made if SLIDING in made and FULL in made else next(iter(made.values()))


def is_hybrid(config: Any) -> bool:
    """Whether some layers carry a state along the row instead of attending."""
    return LINEAR in (getattr(config, "layer_types", None) or ())
