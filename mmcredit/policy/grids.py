"""Models that read an image or video as a grid of patches: [patches, values] beside rows of (frames, rows, columns).

The Qwen-VL families: `get_image_features(pixels, grid)`, one token per `spatial_merge_size` squared patches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from mmcredit.policy.vision import Feature, Item

if TYPE_CHECKING:
    from torch import nn


class Grids:
    """`Family` of models with grids of patches."""

    def __init__(self, model: Any, tower: nn.Module) -> None:
        self.model = model
        self.tower: Any = tower

    @property
    def merge(self) -> int:
        """Patches along a side of a token."""
        return int(getattr(self.tower, "spatial_merge_size", 2))

    def patches(self, item: Item) -> int:
        """Rows of the tower's input."""
        return int(item.pixels.shape[0])

    def blank(self, kind: str) -> Item:
        """The smallest image or video that the tower takes."""
        config: Any = self.tower.config
        depth = int(getattr(config, "in_channels", 3)) * int(getattr(config, "temporal_patch_size", 1))
        pixels = torch.zeros(self.merge**2, depth * int(config.patch_size) ** 2)
        return Item("", kind, pixels, torch.tensor([1, self.merge, self.merge]))

    def encode(self, kind: str, todo: Sequence[Item]) -> list[Feature]:
        """A feature for each of `todo`, from one call of the tower."""
        device = next(self.tower.parameters()).device
        pixels = torch.cat([item.pixels for item in todo]).to(device)
        grid = torch.stack([item.grid for item in todo if item.grid is not None]).to(device)
        encode: Any = self.model.get_image_features if kind == "image" else self.model.get_video_features
        out = encode(pixels, grid, return_dict=True)
        embeds = out.pooler_output
        sizes = [int(e.shape[0]) for e in embeds] if isinstance(embeds, list | tuple) else None
        if sizes is None or len(sizes) != len(todo):
            sizes = [item.pixels.shape[0] // self.merge**2 for item in todo]
            embeds = torch.cat(list(embeds)) if isinstance(embeds, list | tuple) else embeds
            embeds = embeds.split(sizes)
        # transformers 5.17 gives one tensor per deep-stack layer, 5.19 and later a list per layer, split by image
        layers = [
            torch.cat(list(layer)).split(sizes) if isinstance(layer, list | tuple) else layer.split(sizes)
            for layer in getattr(out, "deepstack_features", None) or ()
        ]
        return [Feature(e, tuple(layer[i] for layer in layers)) for i, e in enumerate(embeds)]
