"""Vision features: each image through the tower once, and remembered for as long as that is right.

A feature is good for ever when the tower is frozen, and for one version of the weights when it is trained. With
gradient through the tower nothing is remembered: the features belong to that graph.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from mmcredit.policy.costs import ViewCost
from mmcredit.policy.prompt import Prompt

if TYPE_CHECKING:
    from torch import Tensor


class UnsupportedModel(ValueError):
    """The model cannot be trained on what the data holds: no sample will do, so none is replaced by the next."""


@dataclass(frozen=True)
class Feature:
    """What the tower made of one image or video: [n,d] embeddings, and one [n,d] per deep-stack layer (Qwen3-VL)."""

    embeds: Tensor
    deepstack: tuple[Tensor, ...] = ()

    @property
    def bytes(self) -> int:
        """Memory held."""
        return sum(t.numel() * t.element_size() for t in (self.embeds, *self.deepstack))

    def detach(self) -> Feature:
        """Without the graph."""
        return Feature(self.embeds.detach(), tuple(d.detach() for d in self.deepstack))


@dataclass(frozen=True)
class Item:
    """One image or video of a prompt, preprocessed."""

    key: str
    kind: str  # image | video
    pixels: Tensor  # [patches, channels * ...]
    grid: Tensor  # [3] int64: frames, rows, columns of patches


KINDS = ("image", "video")
_MEDIA = {"image": ("pixel_values", "image_grid_thw"), "video": ("pixel_values_videos", "video_grid_thw")}


def media_kinds(prompt: Prompt) -> list[str]:
    """Which kinds of media a prompt has."""
    return [kind for kind in KINDS if _MEDIA[kind][1] in prompt.media]


def items(prompt: Prompt) -> list[Item]:
    """The media of a prompt in the order of `media_keys`: images first, then videos, each in order of appearance."""
    found: list[Item] = []
    for kind, (pixels_name, grid_name) in _MEDIA.items():
        if grid_name not in prompt.media:
            continue
        grids = prompt.media[grid_name]
        pieces = prompt.media[pixels_name].split(grids.prod(-1).tolist())
        found += [Item("", kind, pixels, grid) for pixels, grid in zip(pieces, grids, strict=True)]
    if len(found) != len(prompt.media_keys):
        raise UnsupportedModel(
            f"sample {prompt.sample_id}: {len(prompt.media_keys)} media, but the processor describes {len(found)} "
            f"by grids of patches (it gives {', '.join(sorted(prompt.media)) or 'nothing'}): images of this model can "
            "be encoded, but not trained on; the verified vision families are Qwen2.5-VL and Qwen3-VL (model.path)"
        )
    return [Item(key, i.kind, i.pixels, i.grid) for key, i in zip(prompt.media_keys, found, strict=True)]


class VisionEncoder:
    """The tower of one model, with its memory of features."""

    def __init__(self, model: nn.Module, limit_bytes: int) -> None:
        """`model` has `get_image_features` (and `get_video_features`); `limit_bytes` bounds the memory of features."""
        self.model = model
        self.limit = limit_bytes
        tower = getattr(model, "visual", None) or getattr(model, "vision_tower", None)
        assert isinstance(tower, nn.Module), "the model has no vision tower"
        self.tower = tower
        self.size = sum(p.numel() for p in self.tower.parameters())
        self._policy_frozen = self.frozen
        self._cache: OrderedDict[tuple[str, str], Feature] = OrderedDict()
        self._held = 0

    @property
    def frozen(self) -> bool:
        """No parameter of the tower (adapters included) is trained."""
        return not any(p.requires_grad for p in self.tower.parameters())

    def weights_changed(self) -> None:
        """Forget what a trained tower made with the old weights (features of other weights than the policy's stay)."""
        if not self.frozen:
            for key in [k for k in self._cache if k[0] == "policy"]:
                self._held -= self._cache.pop(key).bytes

    def clear(self) -> None:
        """Forget everything."""
        self._cache.clear()
        self._held = 0

    def forget(self, keys: Collection[str]) -> None:
        """Forget the features of these media keys, of whatever weights."""
        for key in [k for k in self._cache if k[1] in keys]:
            self._held -= self._cache.pop(key).bytes

    @contextmanager
    def unremembered(self) -> Iterator[None]:
        """What is encoded inside the block leaves no trace in the memory of features."""
        kept, held = self._cache.copy(), self._held
        try:
            yield
        finally:
            self._cache, self._held = kept, held

    def features(
        self, prompts: Sequence[Prompt], weights: str, cost: ViewCost, kinds: Sequence[str] = ()
    ) -> dict[str, Feature]:
        """The feature of every medium of the prompts, by media key. One tower call for all images that are not
        remembered, one for all videos. With gradient enabled and a trained tower the graph reaches into it.

        Every kind of `kinds` gets its call: one that no prompt has gets a blank, returned under the kind's name.
        """
        if weights == "policy":
            self._policy_frozen = self.frozen  # not asked under the reference: adapters switched off look frozen
        # A frozen tower is the same in the reference: only adapters or trained weights tell them apart.
        tag = "policy" if self._policy_frozen else weights
        with_graph = torch.is_grad_enabled() and not self._policy_frozen
        wanted: dict[str, Item] = {}
        for prompt in prompts:
            if prompt.media_keys:
                wanted |= {item.key: item for item in items(prompt)}
        found: dict[str, Feature] = {}
        if not with_graph:
            for key in wanted:
                if (tag, key) in self._cache:
                    self._cache.move_to_end((tag, key))
                    found[key] = self._cache[tag, key]
        for kind in KINDS:
            if kind in kinds and not any(item.kind == kind for item in wanted.values()):
                with torch.set_grad_enabled(with_graph):
                    (found[kind],) = self._encode(kind, [self._blank(kind)])
                continue
            todo = [item for key, item in wanted.items() if item.kind == kind and key not in found]
            if not todo:
                continue
            with torch.set_grad_enabled(with_graph):
                made = self._encode(kind, todo)
            cost.tower_calls += 1
            patches = sum(item.pixels.shape[0] for item in todo)
            cost.patches += patches
            cost.flops += 2.0 * self.size * patches * (3 if with_graph else 1)
            for item, feature in zip(todo, made, strict=True):
                found[item.key] = feature
                if not with_graph:
                    self._remember((tag, item.key), feature)
        return found

    def _blank(self, kind: str) -> Item:
        """The smallest image or video that the tower takes."""
        config: Any = self.tower.config
        merge = int(getattr(self.tower, "spatial_merge_size", 2))
        depth = int(getattr(config, "in_channels", 3)) * int(getattr(config, "temporal_patch_size", 1))
        pixels = torch.zeros(merge**2, depth * int(config.patch_size) ** 2)
        return Item("", kind, pixels, torch.tensor([1, merge, merge]))

    def _encode(self, kind: str, todo: Sequence[Item]) -> list[Feature]:
        device = next(self.tower.parameters()).device
        pixels = torch.cat([item.pixels for item in todo]).to(device)
        grid = torch.stack([item.grid for item in todo]).to(device)
        encode: Any = self.model.get_image_features if kind == "image" else self.model.get_video_features
        out = encode(pixels, grid, return_dict=True)
        embeds = out.pooler_output
        sizes = [int(e.shape[0]) for e in embeds] if isinstance(embeds, list | tuple) else None
        if sizes is None or len(sizes) != len(todo):
            merge = int(getattr(self.tower, "spatial_merge_size", 2)) ** 2
            sizes = [item.pixels.shape[0] // merge for item in todo]
            embeds = torch.cat(list(embeds)) if isinstance(embeds, list | tuple) else embeds
            embeds = embeds.split(sizes)
        # transformers 5.17 gives one tensor per deep-stack layer, 5.19 and later a list per layer, split by image
        layers = [
            torch.cat(list(layer)).split(sizes) if isinstance(layer, list | tuple) else layer.split(sizes)
            for layer in getattr(out, "deepstack_features", None) or ()
        ]
        return [Feature(e, tuple(layer[i] for layer in layers)) for i, e in enumerate(embeds)]

    def _remember(self, key: tuple[str, str], feature: Feature) -> None:
        # A clone: the pieces are views of one tensor, and would keep all of it alive.
        kept = Feature(feature.embeds.detach().clone(), tuple(d.detach().clone() for d in feature.deepstack))
        if kept.bytes > self.limit:
            return
        self._cache[key] = kept
        self._held += kept.bytes
        while self._held > self.limit:
            _, old = self._cache.popitem(last=False)
            self._held -= old.bytes


def prompt_feature(prompt: Prompt, features: Mapping[str, Feature], kinds: Mapping[str, int]) -> Feature:
    """Features of all visual tokens of a prompt, in the order of the tokens. `kinds`: placeholder id per kind."""
    parts = [(item.kind, features[item.key]) for item in items(prompt)]
    tokens = prompt.tokens[prompt.visual]
    ordered = [f for _, f in parts]
    index: Tensor | None = None
    if len({kind for kind, _ in parts}) > 1:
        places = torch.cat([(tokens == kinds[kind]).nonzero()[:, 0] for kind in ("image", "video")])
        index = places.argsort().to(ordered[0].embeds.device)

    def joined(pieces: list[Tensor]) -> Tensor:
        whole = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
        return whole if index is None else whole[index]

    feature = Feature(
        joined([f.embeds for f in ordered]),
        tuple(joined(list(layer)) for layer in zip(*(f.deepstack for f in ordered), strict=True)),
    )
    if feature.embeds.shape[0] != tokens.shape[0]:
        raise ValueError(
            f"sample {prompt.sample_id}: {tokens.shape[0]} visual tokens in the prompt, but the vision tower made "
            f"{feature.embeds.shape[0]}; processor and model do not belong together (model.path)"
        )
    return feature
