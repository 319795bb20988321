"""Models that read an image as one or several square tiles, each encoded by itself: the LLaVAs, InternVL, Idefics3 and
SmolVLM, Gemma 3.

Their processors differ in the shape of what they give. Here an image is always `pixel_values` [tiles,C,H,W] and
`image_tiles` [1], with what else its model's `get_image_features` asks for; images of a prompt are concatenated.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from mmcredit.policy.vision import TILES, Feature, Item, UnsupportedModel

if TYPE_CHECKING:
    from torch import Tensor, nn

MASK = "pixel_attention_mask"  # [tiles,H,W]: pixels that are not padding (Idefics3, SmolVLM)
SIZES = "image_sizes"  # [1,2]: height and width before tiles were cut (LLaVA-OneVision unpads by it)
SEVERAL = "image_several"  # [1] bool: one of several images of its prompt (LLaVA-OneVision then cuts no tiles)


class Tiles:
    """`Family` of models with tiles."""

    def __init__(self, model: Any, tower: nn.Module) -> None:
        self.model = model
        self.tower: Any = tower
        asked = inspect.signature(self.model.get_image_features).parameters
        self._nested = MASK in asked  # [prompts, tiles, C, H, W]
        self._sized = SIZES in asked and asked[SIZES].default is inspect.Parameter.empty

    @property
    def _vision(self) -> Any:
        return self.model.config.vision_config

    def patches(self, item: Item) -> int:
        """Patches of all tiles."""
        side = self._vision.patch_size
        height, width = side if isinstance(side, list | tuple) else (side, side)
        return int(item.pixels.shape[0]) * (item.pixels.shape[-2] // height) * (item.pixels.shape[-1] // width)

    def blank(self, kind: str) -> Item:
        """A grey tile: one of zeros is taken for padding by Idefics3."""
        side = self._vision.image_size
        height, width = side if isinstance(side, list | tuple) else (side, side)
        pixels = torch.full((1, int(getattr(self._vision, "num_channels", 3)), height, width), 0.5)
        extra = {SIZES: torch.tensor([height, width]), SEVERAL: torch.tensor(True)} if self._sized else {}
        return Item("", kind, pixels, None, extra)

    def encode(self, kind: str, todo: Sequence[Item]) -> list[Feature]:
        """A feature for each of `todo`. One call of the tower; two where some have companions in their prompt."""
        found: dict[int, Feature] = {}
        alone = [i for i, item in enumerate(todo) if not _several(item)]
        company = [i for i, item in enumerate(todo) if _several(item)]
        if alone:
            found |= zip(alone, self._encode([todo[i] for i in alone], None), strict=True)
        if company:
            # The number of images is what tells the model; a single one left to encode stands twice.
            chosen = company * 2 if len(company) == 1 else company
            made = self._encode([todo[i] for i in chosen], len(chosen))
            found |= zip(company, made, strict=False)
        return [found[i] for i in range(len(todo))]

    def _encode(self, todo: Sequence[Item], images: int | None) -> list[Feature]:
        device, dtype = self.model.device, self.model.dtype
        pixels = torch.cat([item.pixels for item in todo]).to(device, dtype)
        options: dict[str, Any] = {}
        if self._nested:
            # A tile of zeros (black, without normalisation) would be dropped as padding; this value changes nothing.
            empty = ~pixels.flatten(1).any(1)
            pixels[:, 0, 0, 0] += empty * torch.finfo(pixels.dtype).tiny
            pixels = pixels[None]
            if all(MASK in item.extra for item in todo):
                options[MASK] = torch.cat([item.extra[MASK] for item in todo]).to(device)[None]
        if self._sized:
            options[SIZES] = torch.stack([item.extra[SIZES] for item in todo]).to(device)
            if images is not None:
                options["batch_num_images"] = [images]
        out = self.model.get_image_features(pixels, return_dict=True, **options)
        return [Feature(e) for e in _by_item(out.pooler_output, [item.pixels.shape[0] for item in todo])]


def _several(item: Item) -> bool:
    return SEVERAL in item.extra and bool(item.extra[SEVERAL])


def _by_item(embeds: Any, tiles: Sequence[int]) -> list[Tensor]:
    """[n,d] per image from what a model gives: [tiles,n,d], or a list of [n,d] per tile or per image."""
    if isinstance(embeds, list | tuple):
        if len(embeds) == len(tiles):
            return [e.flatten(0, -2) for e in embeds]
        embeds = torch.stack(list(embeds))
    if embeds.shape[0] != sum(tiles):
        raise ValueError(f"the vision tower made features of {embeds.shape[0]} tiles out of {sum(tiles)}")
    return [piece.flatten(0, -2) for piece in embeds.split(list(tiles))]


def canonical(out: Mapping[str, Any], several: bool = False) -> dict[str, Tensor]:
    """What a processor made of one image (or of two equal ones, of which the first counts), in the form of this file.

    Raises UnsupportedModel for a form that is not known.
    """
    pixels = out.get("pixel_values")
    # Padded whole images beside their sizes (Pixtral's tower) are no tiles.
    if not isinstance(pixels, torch.Tensor) or pixels.ndim not in (4, 5) or (pixels.ndim == 4 and SIZES in out):
        shape = list(pixels.shape) if isinstance(pixels, torch.Tensor) else sorted(out)
        raise UnsupportedModel(
            f"the image processor gives neither tiles [n, C, H, W] nor a grid of patches, but {shape}: images of this "
            "model can be encoded, but not trained on; docs/models.md names the families that can (model.path)"
        )
    known: dict[str, Tensor] = {}
    if pixels.ndim == 5:
        pixels = pixels[0]
        if MASK in out:
            known[MASK] = out[MASK][0]
    if SIZES in out:
        known[SIZES] = torch.as_tensor(out[SIZES])[:1]
        known[SEVERAL] = torch.tensor([several])
    return {"pixel_values": pixels, TILES: torch.tensor([pixels.shape[0]]), **known}
