"""Visual tokens in a fixed number: cross-attention pooling between the vision tower and the language model.

LookupViT (arXiv 2407.12753) placed behind a tower of the Qwen-VL families. Per image, and per frame of a video, the
h x w tokens of the tower become r x c (`pooled_grid`), of which the language model sees nothing else:

    Z0 = bilinear resize of the token grid L to r x c
    block:  G = q(LN Z) k(LN L)^T / sqrt(d_h);   Z += O1 softmax_N(G) v1(L)
            Z += SelfAttention(LN Z);   Z += MLP(LN Z)
            between blocks   L += O2 softmax_M(G^T) v2(Z);   L += MLP(LN L)

All output projections start at 0, so a new pooler is the plain resize, and with r x c = h x w the plain model, bit for
bit. Only Z leaves the last block, so it does not update L. Differs: the blocks stand behind the tower and its merger
instead of inside a vision transformer, and work in `width` channels.

A kept token stands at the position of the token in the middle of its cell: an image covers as much space in the three
rows of positions as before, and the text behind it stands where it stood. Deep-stack features (Qwen3-VL) are resized
with the grid, without weights.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.functional import gelu, interpolate, scaled_dot_product_attention

from mmcredit.policy.config import VisualTokens
from mmcredit.policy.vision import Family, Feature, Item

if TYPE_CHECKING:
    from torch import Tensor

NAME = "visual_pooler"  # in the model body
FILE = "visual_tokens.safetensors"  # beside the model's own weights


def pooled_grid(height: int, width: int, tokens: int) -> tuple[int, int]:
    """(rows, columns) of at most `tokens` cells over a grid: the most cells, then the shape nearest to the grid's."""
    if tokens >= height * width:
        return height, width
    found = []
    for rows in range(1, min(height, tokens) + 1):
        columns = min(width, tokens // rows)
        off = round(abs(math.log(rows * width / (columns * height))), 6)
        found.append((-rows * columns, off, rows, columns))
    return min(found)[2:]


def resized(features: Tensor, grid: tuple[int, int]) -> Tensor:
    """[n,h,w,d] -> [n,r*c,d], bilinear."""
    flat = interpolate(features.movedim(-1, 1), grid, mode="bilinear", align_corners=False)
    return flat.flatten(2).transpose(1, 2)


def cells(height: int, width: int, grid: tuple[int, int]) -> Tensor:
    """[r*c] int64: the token of an h x w grid in the middle of each cell, row by row."""
    rows, columns = ((2 * torch.arange(n) + 1) * m // (2 * n) for n, m in zip(grid, (height, width), strict=True))
    return (rows[:, None] * width + columns).flatten()


def lookup(scores: Tensor, values: Tensor, reuse: str | None = None) -> Tensor:
    """Attention from scores G [n,H,M,N]: softmax_N(G) v [n,H,N,e] -> [n,H,M,e]. With `reuse` the other way, from
    values [n,H,M,e] to [n,H,N,e]: `resoftmax` over the M, or `transpose` of the weights."""
    if reuse is None:
        return scores.softmax(-1) @ values
    weights = scores.transpose(-1, -2).softmax(-1) if reuse == "resoftmax" else scores.softmax(-1).transpose(-1, -2)
    return weights @ values


class Block(nn.Module):
    """One LookupViT block over Z [n,M,d] and L [n,N,d]; the `last` one leaves L as it is."""

    def __init__(self, dim: int, settings: VisualTokens, last: bool) -> None:
        super().__init__()
        width = settings.width or min(dim, 512)
        if width % settings.heads:
            raise ValueError(f"model.visual_tokens.heads {settings.heads} does not divide the width {width}")
        self.heads, self.reuse = settings.heads, settings.reuse
        self.norm_z, self.norm_l, self.norm_self, self.norm_mlp = (nn.LayerNorm(dim) for _ in range(4))
        self.q, self.k, self.v = (nn.Linear(dim, width) for _ in range(3))
        self.out = _zero(nn.Linear(width, dim))
        self.qkv, self.self_out = nn.Linear(dim, 3 * width), _zero(nn.Linear(width, dim))
        self.mlp_in, self.mlp_out = nn.Linear(dim, 4 * width), _zero(nn.Linear(4 * width, dim))
        self.last = last
        if not last:
            self.back, self.back_out = nn.Linear(dim, width), _zero(nn.Linear(width, dim))
            self.norm_light, self.light_in = nn.LayerNorm(dim), nn.Linear(dim, max(1, width // 2))
            self.light_out = _zero(nn.Linear(max(1, width // 2), dim))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(self, z: Tensor, l: Tensor) -> tuple[Tensor, Tensor]:  # noqa: E741
        query, key = self._heads(self.q(self.norm_z(z))), self._heads(self.k(self.norm_l(l)))
        scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
        z = z + self.out(lookup(scores, self._heads(self.v(l))).transpose(1, 2).flatten(2))
        own_q, own_k, own_v = (self._heads(x) for x in self.qkv(self.norm_self(z)).chunk(3, -1))
        z = z + self.self_out(scaled_dot_product_attention(own_q, own_k, own_v).transpose(1, 2).flatten(2))
        z = z + self.mlp_out(gelu(self.mlp_in(self.norm_mlp(z))))
        if not self.last:
            l = l + self.back_out(  # noqa: E741
                lookup(scores, self._heads(self.back(z)), self.reuse).transpose(1, 2).flatten(2)
            )
            l = l + self.light_out(gelu(self.light_in(self.norm_light(l))))  # noqa: E741
        return z, l


def _zero(layer: nn.Linear) -> nn.Linear:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class Pooler(nn.Module):
    """The blocks, for features of `dim` channels."""

    def __init__(self, dim: int, settings: VisualTokens) -> None:
        super().__init__()
        self.settings = settings
        self.blocks = nn.ModuleList(Block(dim, settings, i + 1 == settings.blocks) for i in range(settings.blocks))

    def forward(self, features: Tensor) -> Tensor:
        """[n,h,w,d] -> [n,r*c,d]."""
        z = resized(features, pooled_grid(features.shape[1], features.shape[2], self.settings.tokens))
        l = features.flatten(1, 2)  # noqa: E741
        for block in self.blocks:
            z, l = block(z, l)  # noqa: E741
        return z


class Pooled:
    """`Family` of grids whose features go through a pooler."""

    def __init__(self, inner: Any, pooler: Pooler) -> None:
        """`inner`: the family (`Grids`) that makes the features."""
        self.inner, self.pooler = inner, pooler

    def patches(self, item: Item) -> int:
        """Rows of the tower's input."""
        found: int = self.inner.patches(item)
        return found

    def blank(self, kind: str) -> Item:
        """The smallest image or video that the tower takes."""
        found: Item = self.inner.blank(kind)
        return found

    def encode(self, kind: str, todo: Sequence[Item]) -> list[Feature]:
        """A pooled feature for each item; items of one size go through the pooler together."""
        whole = self.inner.encode(kind, todo)
        sizes = [frames_of(item.grid, self.inner.merge) for item in todo if item.grid is not None]
        found: dict[int, Feature] = {}
        for size in dict.fromkeys(size[1:] for size in sizes):
            places = [i for i, own in enumerate(sizes) if own[1:] == size]
            grid = pooled_grid(*size, self.pooler.settings.tokens)
            rows = torch.cat([whole[i].embeds for i in places]).unflatten(0, (-1, *size))
            counts = [sizes[i][0] for i in places]
            pooled = self.pooler(rows).split(counts)
            for i, embeds in zip(places, pooled, strict=True):
                deep = [resized(layer.unflatten(0, (-1, *size)), grid).flatten(0, 1) for layer in whole[i].deepstack]
                found[i] = Feature(embeds.flatten(0, 1), tuple(deep))
        return [found[i] for i in range(len(todo))]


def frames_of(grid: Tensor, merge: int) -> tuple[int, int, int]:
    """(frames, rows, columns) of tokens of a grid [3] of patches."""
    frames, rows, columns = grid.tolist()
    return frames, rows // merge, columns // merge


def kept(types: Tensor, media: Mapping[str, Tensor], merge: int, tokens: int) -> Tensor:
    """[P'] int64: the tokens of a prompt that stay; `types` [P] is 0 for text, 1 in an image, 2 in a video."""
    stays = types == 0
    for kind, name in ((1, "image_grid_thw"), (2, "video_grid_thw")):
        if name not in media:
            continue
        places, start = (types == kind).nonzero()[:, 0], 0
        for grid in media[name]:
            frames, rows, columns = frames_of(grid, merge)
            own = cells(rows, columns, pooled_grid(rows, columns, tokens))
            for frame in range(frames):
                stays[places[start + frame * rows * columns + own]] = True
            start += frames * rows * columns
    return stays.nonzero()[:, 0]


def pooler_of(base: nn.Module) -> Pooler | None:
    """The pooler of a model body."""
    found = getattr(base, NAME, None)
    return found if isinstance(found, Pooler) else None


def pooled(family: Family, base: nn.Module) -> Family:
    """The family, behind the pooler of the body if it has one."""
    pooler = pooler_of(base)
    return family if pooler is None else Pooled(family, pooler)


def shrinker(base: nn.Module) -> Callable[[Tensor, Mapping[str, Tensor]], Tensor] | None:
    """`kept` for the prompts of a model body; None where all visual tokens stay."""
    pooler, tower = pooler_of(base), getattr(base, "visual", None)
    if pooler is None:
        return None
    merge = int(getattr(tower, "spatial_merge_size", 2))
    return lambda types, media: kept(types, media, merge, pooler.settings.tokens)


@contextmanager
def whole(vision: Any, encoder: Any) -> Iterator[bool]:
    """Inside the block prompts and features are those of the model without its pooler; whether it has one."""
    family = None if vision is None else vision.family
    if not isinstance(family, Pooled):
        yield False
        return
    shrink, encoder.shrink, vision.family = encoder.shrink, None, family.inner
    try:
        with vision.unremembered():
            vision.clear()
            yield True
    finally:
        encoder.shrink, vision.family = shrink, family


def attach(model: Any, asked: VisualTokens | None, folders: Sequence[str], seed: int, lora: bool) -> None:
    """Give a loaded model the pooler that its config asks for, or that its folder (the first of `folders` that has one)
    was saved with. `seed` draws new weights.

    Raises ValueError for a model without a grid of patches, a saved pooler of another shape, and new weights that
    `lora` would never train.
    """
    saved = next((path for path in (Path(folder) / FILE for folder in folders) if path.is_file()), None)
    settings = asked
    weights: dict[str, Tensor] = {}
    if saved is not None:
        own, weights = _read(saved)
        settings = asked or own
        odd = [n for n in ("blocks", "width", "heads", "reuse") if getattr(settings, n) != getattr(own, n)]
        if odd:
            raise ValueError(
                f"model.visual_tokens.{odd[0]} is {getattr(settings, odd[0])}, but {saved} was trained with "
                f"{getattr(own, odd[0])}; leave model.visual_tokens out, or change tokens alone"
            )
    if settings is None:
        return
    base = model.model
    if not hasattr(base, "get_rope_index") or not hasattr(base, "get_image_features"):
        raise ValueError(
            f"model.visual_tokens: {type(model).__name__} does not read images as one grid of patches; it is for the "
            "Qwen-VL families: leave it out"
        )
    if lora and settings.blocks and saved is None:
        raise ValueError(
            f"model.visual_tokens.blocks is {settings.blocks}, but with model.lora its new weights would never be "
            "trained; set blocks: 0, or train it first without model.lora (mmcredit sft)"
        )
    first = next(model.parameters())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pooler = Pooler(int(model.get_input_embeddings().weight.shape[1]), settings)
    if weights:
        pooler.load_state_dict(weights)
    setattr(base, NAME, pooler.to(first.device, first.dtype))


def _read(path: Path) -> tuple[VisualTokens, dict[str, Tensor]]:
    from safetensors import safe_open

    with safe_open(path, "pt") as content:
        settings = VisualTokens(**json.loads((content.metadata() or {})["settings"]))
        return settings, {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118


def write(model: Any, folder: Path, dtype: torch.dtype | None) -> None:
    """Write the pooler of a model beside its weights, if it has one."""
    pooler = pooler_of(model.model)
    if pooler is None:
        return
    from safetensors.torch import save_file

    state = {
        name: value.detach().cpu().to(dtype or value.dtype).contiguous() for name, value in pooler.state_dict().items()
    }
    save_file(state, str(folder / FILE), {"settings": pooler.settings.model_dump_json(), "format": "pt"})


@contextmanager
def apart(model: Any) -> Iterator[None]:
    """Inside the block the model is without its pooler, as transformers knows it."""
    pooler = pooler_of(model.model)
    if pooler is None:
        yield
        return
    delattr(model.model, NAME)
    try:
        yield
    finally:
        setattr(model.model, NAME, pooler)
