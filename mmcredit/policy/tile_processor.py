"""Processors of models that read tiles: one image at a time, and the text that stands for it in the prompt.

The processor of transformers is asked for both, so an image is cut, and its tags (rows, columns, crops) are written,
as it does; only the order of work is ours: an image is read once, whatever text goes with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from mmcredit.policy.tiles import canonical
from mmcredit.policy.vision import TILES, UnsupportedModel

if TYPE_CHECKING:
    from torch import Tensor

WRITTEN = "written"  # [n] uint8: the text that stands for an image, in UTF-8


class TileProcessor:
    """The processor of one model, by image."""

    def __init__(self, processor: Any, tokenizer: Any, token_id: int | None) -> None:
        """`token_id`: the placeholder whose embeddings the model replaces by features."""
        self.processor, self.tokenizer, self.token_id = processor, tokenizer, token_id
        kinds = getattr(processor, "valid_processor_kwargs", None)
        self.options: dict[str, Any] = dict((getattr(kinds, "_defaults", None) or {}).get("images_kwargs", {}))
        self.options.pop("return_tensors", None)

    @property
    def minds_company(self) -> bool:
        """Whether an image is cut in another way where it is not the only one of its prompt."""
        return "batch_num_images" in getattr(self.processor.image_processor, "model_input_names", ())

    def read(self, image: Any, several: bool) -> dict[str, Tensor]:
        """The tiles of an image (see `tiles`), and what is written for it.

        Raises UnsupportedModel where the processor gives something else, or does not say what it writes.
        """
        if self.token_id is None or not hasattr(self.processor, "replace_image_token"):
            raise UnsupportedModel(
                f"{type(self.processor).__name__} does not say what stands for an image in a prompt: images of this "
                "model cannot be trained on; docs/models.md names the families (model.path)"
            )
        shown = [[image, image]] if several and self.minds_company else [[image]]
        out = self.processor.image_processor(images=shown, return_tensors="pt", **self.options)
        found = canonical(out, several)
        written = self.processor.replace_image_token(out, 0).encode()
        return {**found, WRITTEN: torch.frombuffer(bytearray(written), dtype=torch.uint8)}

    def expanded(self, text: str, images: Sequence[Mapping[str, Tensor]]) -> str:
        """A prompt's text with what is written for each image in the place of its placeholder."""
        pieces = text.split(self.processor.image_token)
        whole = pieces[0]
        for image, piece in zip(images, pieces[1:], strict=True):
            whole += bytes(image[WRITTEN].tolist()).decode() + piece
        return whole

    def joined(self, images: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """The media of a prompt. One image stays the remembered tensors: prompts that share it share its memory."""
        names = [name for name in images[0] if name != WRITTEN]
        if len(images) == 1:
            return {name: images[0][name] for name in names}
        return {name: torch.cat([image[name] for image in images]) for name in names}

    def whole(self, text: str, images: Sequence[Any]) -> dict[str, Any]:
        """What the processor itself makes of a prompt."""
        return dict(
            self.processor(
                text=[text], images=[list(images)], return_tensors="pt", text_kwargs={"add_special_tokens": False}
            )
        )

    def difference(self, text: str, images: Sequence[Any], tokens: Tensor, media: Mapping[str, Tensor]) -> str | None:
        """What differs from the processor's own prompt; None if nothing does."""
        out = self.whole(text, images)
        ids = out["input_ids"][0]
        if ids.shape != tokens.shape or bool((ids != tokens).any()):
            return f"{ids.shape[0]} tokens against {tokens.shape[0]}, or others in their places"
        pixels = out["pixel_values"]
        pixels = pixels.flatten(0, 1) if pixels.ndim == 5 else pixels
        own = media["pixel_values"]
        if pixels.shape != own.shape or not torch.allclose(pixels, own, atol=1e-5):
            return f"pixels {list(pixels.shape)} against {list(own.shape)}, or of other values"
        return None if int(media[TILES].sum()) == own.shape[0] else "tiles that belong to no image"
