"""Other views of images that are cut into tiles: the picture is read again, changed, and cut as the clean one was.

It is changed at the size that its tiles have together, so that a severity means the same for every source; at its own
size where another one would be cut in another way, and so make other tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from mmcredit.policy.pixels import Edit, Pixels, check_frames
from mmcredit.policy.tile_processor import WRITTEN, TileProcessor
from mmcredit.policy.tiles import SIZES
from mmcredit.policy.vision import TILES, Item, items

if TYPE_CHECKING:
    from torch import Tensor

    from mmcredit.data.sample import Media
    from mmcredit.policy.policy import Policy
    from mmcredit.policy.prompt import Prompt


def pixels_of(policy: Policy) -> Pixels:
    """What reads and changes the pixels of a policy's prompts."""
    tiles = policy.encoder.tiles
    return Pixels(policy.processor, None if tiles is None else Retiling(tiles, policy.encoder.load_image))


class Retiling:
    """Makes the prompt with changed pictures; the part of `Pixels` for models with tiles."""

    def __init__(self, tiles: TileProcessor, load_image: Callable[[Media], Any]) -> None:
        self.tiles, self.load_image = tiles, load_image

    def __call__(self, prompt: Prompt, edit: Edit, tag: str) -> Prompt:
        """As `Pixels.edited`."""
        found = items(prompt)
        if prompt.sample is None or len(prompt.sample.media) != len(found):
            raise ValueError(
                f"sample {prompt.sample_id}: its images are not at hand, so there is no view {tag} of them"
            )
        keys, made = [], []
        for place, (item, media) in enumerate(zip(found, prompt.sample.media, strict=True)):
            picture = self._at_size(self.load_image(media).convert("RGB"), item, len(found) > 1)
            try:
                after = list(edit([picture], place))
            except ValueError as error:
                raise ValueError(f"sample {prompt.sample_id}: the view {tag}: {error}") from error
            check_frames([picture], after, prompt.sample_id, tag)
            same = np.array_equal(np.asarray(picture), np.asarray(after[0]))
            keys.append(item.key if same else f"{item.key}|{tag}")
            made.append(None if same else self.tiles.read(after[0], len(found) > 1))
        if tuple(keys) == prompt.media_keys:
            return prompt
        return replace(prompt, media=self._media(prompt, made), media_keys=tuple(keys))

    def picture(self, item: Item) -> Image.Image:
        """An image as the model sees it, RGB: the tile that shows all of it."""
        processor = self.tiles.processor.image_processor
        tile = item.pixels[0 if SIZES in item.extra else -1].float()
        if getattr(processor, "do_normalize", True):
            mean, std = (torch.tensor(list(v)).view(-1, 1, 1) for v in (processor.image_mean, processor.image_std))
            tile = tile * std + mean
        tile = tile / (processor.rescale_factor if getattr(processor, "do_rescale", True) else 1.0)
        return Image.fromarray(tile.round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy())

    def _media(self, prompt: Prompt, made: Sequence[dict[str, Tensor] | None]) -> dict[str, Tensor]:
        counts = prompt.media[TILES].tolist()
        out = {}
        for name, whole in prompt.media.items():
            by_tile = whole.shape[0] == sum(counts) and name not in (TILES,) and whole.ndim > 2
            pieces = whole.split(counts if by_tile else [1] * len(counts))
            out[name] = torch.cat([old if new is None else new[name] for old, new in zip(pieces, made, strict=True)])
        return out

    def _at_size(self, picture: Image.Image, item: Item, several: bool) -> Image.Image:
        """The picture at the size of its tiles together, without the one that shows all of it."""
        count, _, height, width = item.pixels.shape
        area = max(1, count - 1) * height * width
        scale = math.sqrt(area / (picture.width * picture.height))
        if scale >= 1:
            return picture
        size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
        smaller = picture.resize(size, Image.Resampling.BICUBIC)
        cut = [self.tiles.read(p, several) for p in (picture, smaller)]
        alike = all(torch.equal(cut[0][name], cut[1][name]) for name in (WRITTEN, TILES))
        return smaller if alike else picture
