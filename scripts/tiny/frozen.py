"""Image features of a frozen vision tower, computed once: the language model is then trained without running it."""

from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.utils import ModelOutput


class Features:
    """What the tower of `model` makes of pictures of one size; stands in for `Pixels`."""

    @torch.no_grad()
    def __init__(self, model: PreTrainedModel, pixels: Any, count: int, batch: int = 100) -> None:
        parts: list[torch.Tensor] = []
        for start in range(0, count, batch):
            inputs = pixels.inputs(list(range(start, min(start + batch, count))))
            out = model.model.get_image_features(**inputs, return_dict=True)
            rows = len(inputs["image_grid_thw"])
            levels = [out.pooler_output, *(getattr(out, "deepstack_features", None) or ())]
            flat = [level if torch.is_tensor(level) else torch.cat(list(level)) for level in levels]
            parts.append(torch.stack([level.reshape(rows, -1, level.shape[-1]) for level in flat]))
        self.levels = torch.cat(parts, 1)  # [1 + deep-stack levels, images, tokens, hidden]
        self.kind: type[ModelOutput] = type(out)
        self.grid = inputs["image_grid_thw"][0]

    def inputs(self, images: list[int]) -> dict[str, Any]:
        """The model inputs for the images with these indices, in this order."""
        chosen = self.levels[:, images]
        out = self.kind(pooler_output=list(chosen[0]))
        if len(chosen) > 1:
            out.deepstack_features = [list(level) for level in chosen[1:]]
        return {"mm_encoder_outputs": {"image": out}, "image_grid_thw": self.grid.expand(len(images), 3)}
