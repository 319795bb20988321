"""From a prompt's pixel values back to images, and from changed images to the prompt of another view.

The Qwen-VL processors resize to 8-bit pixels, then rescale, normalise and cut into patches: steps that can be undone
without loss. So a view needs no second reading of the file, no decoder and no resampling, and shows exactly the pixels
that the clean prompt shows wherever they are not changed. The way back is checked against the processor itself on the
first image and the first video.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from mmcredit.policy.vision import Item, items

if TYPE_CHECKING:
    from torch import Tensor

    from mmcredit.policy.prompt import Prompt

# (frames, place among the prompt's media) -> frames of the same size; an image is one frame
Edit = Callable[[list[Image.Image], int], Sequence[Image.Image]]

_PIXELS = {"image": "pixel_values", "video": "pixel_values_videos"}


class Pixels:
    """Reads and writes the pixels of prompts made by one processor."""

    def __init__(self, processor: Any) -> None:
        """`processor` has an `image_processor` and, for videos, a `video_processor`."""
        self.processor = processor
        self._checked: set[str] = set()

    def edited(self, prompt: Prompt, edit: Edit, tag: str) -> Prompt:
        """`prompt` with `edit` applied to each of its images and videos, in the order of `media_keys`.

        The frames handed to `edit` are RGB, at the size the model sees. `tag` goes into the media keys of what changed:
        the same tag must mean the same pixels. A prompt that `edit` leaves as it is, or that has no media, is returned
        itself. Raises ValueError naming the sample: an edit that changes size, mode or number of frames; a processor
        whose pixels cannot be read back.
        """
        if not prompt.media_keys:
            return prompt
        keys: list[str] = []
        parts: dict[str, list[Tensor]] = {}
        for place, item in enumerate(items(prompt)):
            before = self.frames(item, prompt.sample_id)
            try:
                after = list(edit(before, place))
            except ValueError as error:
                raise ValueError(f"sample {prompt.sample_id}: the view {tag}: {error}") from error
            self._check_frames(before, after, prompt.sample_id, tag)
            if all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in zip(before, after, strict=True)):
                pixels, key = item.pixels, item.key
            else:
                pixels, key = self._encode(item.kind, after), f"{item.key}|{tag}"
                if pixels.shape != item.pixels.shape:
                    raise ValueError(
                        f"sample {prompt.sample_id}: the view {tag} makes patches of {list(pixels.shape)}, "
                        f"but the clean prompt {list(item.pixels.shape)}; a view must not change the number of tokens"
                    )
            keys.append(key)
            parts.setdefault(_PIXELS[item.kind], []).append(pixels)
        if tuple(keys) == prompt.media_keys:
            return prompt
        media = {**prompt.media, **{name: torch.cat(list_) for name, list_ in parts.items()}}
        return replace(prompt, media=media, media_keys=tuple(keys))

    def frames(self, item: Item, sample_id: str) -> list[Image.Image]:
        """The 8-bit RGB frames that the processor cut into patches; one for an image."""
        frames = self._decode(item)
        if item.kind not in self._checked:
            again = self._encode(item.kind, frames)
            if again.shape != item.pixels.shape or not torch.equal(again.to(item.pixels.dtype), item.pixels):
                raise ValueError(
                    f"sample {sample_id}: the pixels that {type(self._processor(item.kind)).__name__} makes cannot be "
                    "read back exactly, so there are no masked or corrupted views; the verified families are "
                    "Qwen2.5-VL and Qwen3-VL (model.path)"
                )
            self._checked.add(item.kind)
        return frames

    def _processor(self, kind: str) -> Any:
        found = getattr(self.processor, f"{kind}_processor", None)
        assert found is not None, f"the processor of the prompt has no {kind} part"
        return found

    def _decode(self, item: Item) -> list[Image.Image]:
        processor = self._processor(item.kind)
        side, merge, depth = processor.patch_size, processor.merge_size, processor.temporal_patch_size
        steps, rows, columns = (int(n) for n in item.grid)
        patches = item.pixels.float().view(
            steps, rows // merge, columns // merge, merge, merge, 3, depth, side, side
        )  # [step, block row, block column, row, column, channel, frame, y, x]
        frames = patches.permute(0, 6, 1, 3, 7, 2, 4, 8, 5).reshape(steps * depth, rows * side, columns * side, 3)
        if item.kind == "image":
            frames = frames[:1]  # an image is its own next frame
        if processor.do_normalize:
            frames = frames * torch.tensor(processor.image_std) + torch.tensor(processor.image_mean)
        scale = processor.rescale_factor if processor.do_rescale else 1.0
        whole = (frames / scale).round_().clamp_(0, 255).to(torch.uint8).numpy()
        return [Image.fromarray(frame) for frame in whole]

    def _encode(self, kind: str, frames: Sequence[Image.Image]) -> Tensor:
        processor = self._processor(kind)
        if kind == "image":
            return processor(images=[frames[0]], do_resize=False, return_tensors="pt")["pixel_values"]
        stacked = np.stack([np.asarray(frame) for frame in frames])
        out = processor(videos=[stacked], do_resize=False, do_sample_frames=False, return_tensors="pt")
        return out["pixel_values_videos"]

    @staticmethod
    def _check_frames(before: Sequence[Image.Image], after: Sequence[Image.Image], sample_id: str, tag: str) -> None:
        wanted, found = [(f.mode, f.size) for f in before], [(f.mode, f.size) for f in after]
        if wanted != found:
            wrong = next((f for f, w in zip(found, wanted, strict=False) if f != w), f"{len(found)} frames")
            raise ValueError(
                f"sample {sample_id}: the view {tag} turned {len(wanted)} frames {wanted[0]} into {wrong}; a view must "
                "keep mode and size, or the number of visual tokens changes"
            )


__all__ = ["Edit", "Pixels"]
