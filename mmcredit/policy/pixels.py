"""From a prompt's pixel values back to images, and from changed images to the prompt of another view.

The Qwen-VL processors resize to 8-bit pixels, then rescale, normalise and cut into patches: steps that can be undone
without loss. So a view needs no second reading of the file, no decoder and no resampling, and shows exactly the pixels
that the clean prompt shows wherever they are not changed. The way back is checked against the processor itself on the
first image and the first video.

Tiles overlap and are resized by themselves: there the picture is read again and changed before it is cut (`retiled`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from PIL import Image

from mmcredit.policy.vision import TILES, Item, items

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from mmcredit.policy.prompt import Prompt

# (frames, place among the prompt's media) -> frames of the same size; an image is one frame
Edit = Callable[[list[Image.Image], int], Sequence[Image.Image]]


class Retiles(Protocol):
    """What does this work where images are cut into tiles."""

    def __call__(self, prompt: Prompt, edit: Edit, tag: str) -> Prompt:
        """As `Pixels.edited`."""
        ...

    def picture(self, item: Item) -> Image.Image:
        """An image as the model sees it."""
        ...


_PIXELS = {"image": "pixel_values", "video": "pixel_values_videos"}


class Pixels:
    """Reads and writes the pixels of prompts made by one processor."""

    def __init__(self, processor: Any, retiling: Retiles | None = None) -> None:
        """`processor` has an `image_processor` and, for videos, a `video_processor`; `retiling` does the work where
        images are cut into tiles (`pixels_of` in `retiled` gives what a policy needs)."""
        self.processor = processor
        self.retiling = retiling
        self._layouts: dict[str, Patches] = {}
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
        if TILES in prompt.media and self.retiling is not None:
            return self.retiling(prompt, edit, tag)
        keys: list[str] = []
        parts: dict[str, list[Tensor]] = {}
        for place, item in enumerate(items(prompt)):
            before = self.frames(item, prompt.sample_id)
            try:
                after = list(edit(before, place))
            except ValueError as error:
                raise ValueError(f"sample {prompt.sample_id}: the view {tag}: {error}") from error
            check_frames(before, after, prompt.sample_id, tag)
            old, new = (np.stack([np.asarray(f) for f in frames]) for frames in (before, after))
            if np.array_equal(old, new):
                pixels, key = item.pixels, item.key
            else:
                layout = self._layout(item.kind, prompt.sample_id)
                pixels, key = layout.write(new), f"{item.key}|{tag}"
            keys.append(key)
            parts.setdefault(_PIXELS[item.kind], []).append(pixels)
        if tuple(keys) == prompt.media_keys:
            return prompt
        media = {**prompt.media, **{name: torch.cat(list_) for name, list_ in parts.items()}}
        return replace(prompt, media=media, media_keys=tuple(keys))

    def frames(self, item: Item, sample_id: str) -> list[Image.Image]:
        """The 8-bit RGB frames that the processor cut into patches; one for an image.

        Raises ValueError naming the sample if the pixels cannot be read back exactly.
        """
        layout = self._layout(item.kind, sample_id)
        if item.pixels.ndim != 2 or item.pixels.shape[1] != layout.width:
            raise self._unreadable(item.kind, sample_id)
        frames = layout.read(item)
        if item.kind not in self._checked:
            if not torch.equal(layout.write(frames), item.pixels):
                raise self._unreadable(item.kind, sample_id)
            self._checked.add(item.kind)
        return [Image.fromarray(frame) for frame in frames]

    def pictures(self, item: Item, sample_id: str) -> list[Image.Image]:
        """Frames to look at: those of `frames`, or the whole picture of an image that is cut into tiles."""
        return [self.retiling.picture(item)] if item.grid is None and self.retiling else self.frames(item, sample_id)

    def _layout(self, kind: str, sample_id: str) -> Patches:
        if kind not in self._layouts:
            processor = getattr(self.processor, f"{kind}_processor", None)
            assert processor is not None, f"the processor of the prompt has no {kind} part"
            names = ("patch_size", "merge_size", "temporal_patch_size")
            if any(not isinstance(getattr(processor, name, None), int) for name in names):
                raise self._unreadable(kind, sample_id)
            self._layouts[kind] = Patches(processor, kind)
        return self._layouts[kind]

    def _unreadable(self, kind: str, sample_id: str) -> ValueError:
        name = type(getattr(self.processor, f"{kind}_processor")).__name__
        return ValueError(
            f"sample {sample_id}: the pixels that {name} makes cannot be read back exactly, so there are no masked or "
            "corrupted views; docs/models.md names the families that have them (model.path)"
        )


def check_frames(before: Sequence[Image.Image], after: Sequence[Image.Image], sample_id: str, tag: str) -> None:
    """Raise ValueError, naming the sample, if an edit changed number, mode or size of frames."""
    wanted, found = [(f.mode, f.size) for f in before], [(f.mode, f.size) for f in after]
    if wanted != found:
        wrong = next((f for f, w in zip(found, wanted, strict=False) if f != w), f"{len(found)} frames")
        raise ValueError(
            f"sample {sample_id}: the view {tag} turned {len(wanted)} frames {wanted[0]} into {wrong}; a view must "
            "keep mode and size, or the number of visual tokens changes"
        )


class Patches:
    """How one image or video processor lays out pixels: [patches, 3 x frames x side x side], and the value of each.

    Patches stand in blocks of `merge` x `merge`, which become one token; a value depends on the channel and the 8-bit
    pixel alone, so that the processor itself, run once on a picture of all 256, gives the table.
    """

    def __init__(self, processor: Any, kind: str) -> None:
        self.image = kind == "image"
        self.side, self.merge, self.depth = processor.patch_size, processor.merge_size, processor.temporal_patch_size
        self.width = 3 * self.depth * self.side**2
        self.mean, self.std = torch.zeros(3), torch.ones(3)
        if processor.do_normalize:
            self.mean, self.std = torch.tensor(processor.image_mean), torch.tensor(processor.image_std)
        self.scale = processor.rescale_factor if processor.do_rescale else 1.0
        self.table = self._table(processor)

    def _table(self, processor: Any) -> Tensor:
        """[3,256] float32."""
        length = self.side * self.merge
        assert length**2 >= 256, f"one token is {length} x {length} pixels, too few for all values"
        count = 1 if self.image else self.depth
        ramp = np.arange(length * length, dtype=np.int64) % 256
        frame = ramp.astype(np.uint8).reshape(1, length, length, 1).repeat(3, axis=3).repeat(count, axis=0)
        if self.image:
            out = processor(images=[Image.fromarray(frame[0])], do_resize=False, return_tensors="pt")["pixel_values"]
        else:
            out = processor(videos=[frame], do_resize=False, do_sample_frames=False, return_tensors="pt")
            out = out["pixel_values_videos"]
        values = out.float().view(-1, 3, self.depth, self.side, self.side)
        whole = self._cut(frame).expand_as(values).long()
        table = torch.zeros(3, 256)
        for channel in range(3):
            table[channel, whole[:, channel].reshape(-1)] = values[:, channel].reshape(-1)
        return table

    def read(self, item: Item) -> NDArray[np.uint8]:
        """[frames, H, W, 3]: the nearest 8-bit pixels."""
        assert item.grid is not None, "tiles are no patches"
        steps, rows, columns = (int(n) for n in item.grid)
        patches = item.pixels.float().view(-1, 3, self.depth, self.side, self.side)
        if self.image:
            patches = patches[:, :, :1]  # an image is its own next frame
        scale, shift = (self.std / self.scale).view(3, 1, 1, 1), (self.mean / self.scale).view(3, 1, 1, 1)
        whole = (patches * scale).add_(shift).round_().clamp_(0, 255).to(torch.uint8)
        m, depth = self.merge, whole.shape[2]
        whole = whole.view(steps, rows // m, columns // m, m, m, 3, depth, self.side, self.side)
        # step, block row, block column, row, column, channel, frame, y, x -> step, frame, (rows), (columns), channel
        whole = whole.permute(0, 6, 1, 3, 7, 2, 4, 8, 5)
        return whole.reshape(steps * depth, rows * self.side, columns * self.side, 3).numpy()

    def write(self, frames: NDArray[np.uint8]) -> Tensor:
        """The pixel values of frames [frames, H, W, 3], as the processor makes them without resizing."""
        whole = self._cut(frames).int()
        offset = torch.arange(3, dtype=torch.int32).view(3, 1, 1, 1) * 256
        values = self.table.view(-1)[whole + offset]
        return values.expand(-1, -1, self.depth, -1, -1).reshape(values.shape[0], -1)

    def _cut(self, frames: NDArray[np.uint8]) -> Tensor:
        """[patches, 3, frames of a patch, side, side] uint8, in the order of `read`."""
        count, height, width, _ = frames.shape
        depth, m, side = 1 if self.image else self.depth, self.merge, self.side
        whole = torch.from_numpy(np.ascontiguousarray(frames))
        whole = whole.view(count // depth, depth, height // side // m, m, side, width // side // m, m, side, 3)
        return whole.permute(0, 2, 5, 3, 6, 8, 1, 4, 7).reshape(-1, 3, depth, side, side)
