"""Image features of a frozen vision tower, computed once: the language model can then be trained without it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from transformers import PreTrainedModel


class Features:
    """What `model` makes of pictures of one size; stands in for `Pixels` within `frozen_tower`."""

    @torch.no_grad()
    def __init__(self, model: PreTrainedModel, pixels: Any, count: int, batch: int = 100) -> None:
        parts: list[torch.Tensor] = []
        for start in range(0, count, batch):
            inputs = pixels.inputs(list(range(start, min(start + batch, count))))
            out = model.model.get_image_features(**inputs, return_dict=True)
            levels = [out.pooler_output, *(getattr(out, "deepstack_features", None) or ())]
            rows = len(inputs["image_grid_thw"])
            flat = [level if torch.is_tensor(level) else torch.cat(list(level)) for level in levels]
            parts.append(torch.stack([level.reshape(rows, -1, level.shape[-1]) for level in flat]))
        self.levels = torch.cat(parts, 1)  # [1 + deep-stack levels, images, tokens, hidden]
        self.grid = inputs["image_grid_thw"][0]
        self.first = 0  # number of the first picture, counted over all `Features` of a `frozen_tower`

    def inputs(self, images: list[int]) -> dict[str, torch.Tensor]:
        """Model inputs for these images: their numbers in the place of their pixels."""
        return {"pixel_values": torch.tensor(images) + self.first, "image_grid_thw": self.grid.expand(len(images), 3)}


@contextmanager
def frozen_tower(model: PreTrainedModel, known: Sequence[Features]) -> Iterator[None]:
    """Within it, the model takes the inputs that these features make, and no pixels."""
    first = 0
    for features in known:
        features.first, first = first, first + features.levels.shape[1]

    def look_up(pixel_values: torch.Tensor, image_grid_thw: torch.Tensor, **_: Any) -> Any:
        # The model casts nothing on the way: whole numbers come as they were made.
        features = next(f for f in reversed(known) if int(pixel_values[0]) >= f.first)
        chosen = features.levels[:, pixel_values - features.first]
        return SimpleNamespace(
            pooler_output=list(chosen[0]), deepstack_features=[level.flatten(0, 1) for level in chosen[1:]]
        )

    model.model.get_image_features = look_up
    try:
        yield
    finally:
        del model.model.get_image_features
