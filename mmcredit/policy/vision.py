"""Vision features: each image through the tower once, and remembered for as long as that is right.

A feature is good for ever when the tower is frozen, and for one version of the weights when it is trained. With
gradient through the tower nothing is remembered: the features belong to that graph.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

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
    pixels: Tensor  # [patches, channels * ...], or [tiles, channels, height, width]
    grid: Tensor | None  # [3] int64: frames, rows, columns of patches; None for tiles
    extra: Mapping[str, Tensor] = field(default_factory=dict)  # what else goes with tiles


class Family(Protocol):
    """How models of one kind take preprocessed images: `grids` and `tiles` are the two there are."""

    def encode(self, kind: str, todo: Sequence[Item]) -> list[Feature]:
        """A feature for each item, by the model's own `get_image_features` (or `get_video_features`)."""
        ...

    def blank(self, kind: str) -> Item:
        """The smallest item of a kind that the tower takes."""
        ...

    def patches(self, item: Item) -> int:
        """What an item costs the tower, in patches."""
        ...


KINDS = ("image", "video")
TILES = "image_tiles"  # [images] int64, tiles of each image: its presence says that pixels are tiles
_MEDIA = {"image": ("pixel_values", "image_grid_thw"), "video": ("pixel_values_videos", "video_grid_thw")}


def media_kinds(prompt: Prompt) -> list[str]:
    """Which kinds of media a prompt has."""
    if TILES in prompt.media:
        return ["image"]
    return [kind for kind in KINDS if _MEDIA[kind][1] in prompt.media]


def _tiles(prompt: Prompt) -> list[Item]:
    counts = prompt.media[TILES].tolist()
    by_tile = {"pixel_values", "pixel_attention_mask"}
    parts = {
        name: value.split(counts if name in by_tile else [1] * len(counts))
        for name, value in prompt.media.items()
        if name != TILES
    }
    return [
        Item("", "image", parts["pixel_values"][i], None,
             {k: v[i] if k in by_tile else v[i][0] for k, v in parts.items() if k != "pixel_values"})
        for i in range(len(counts))
    ]  # fmt: skip


def items(prompt: Prompt) -> list[Item]:
    """The media of a prompt in the order of `media_keys`: images first, then videos, each in order of appearance."""
    found: list[Item] = _tiles(prompt) if TILES in prompt.media else []
    for kind, (pixels_name, grid_name) in _MEDIA.items():
        if grid_name not in prompt.media:
            continue
        grids = prompt.media[grid_name]
        pieces = prompt.media[pixels_name].split(grids.prod(-1).tolist())
        found += [Item("", kind, pixels, grid) for pixels, grid in zip(pieces, grids, strict=True)]
    if len(found) != len(prompt.media_keys):
        raise UnsupportedModel(
            f"sample {prompt.sample_id}: {len(prompt.media_keys)} media, but the processor describes {len(found)} "
            f"by patches or tiles (it gives {', '.join(sorted(prompt.media)) or 'nothing'}): images of this model can "
            "be encoded, but not trained on; docs/models.md names the families that can (model.path)"
        )
    return [replace(item, key=key) for key, item in zip(prompt.media_keys, found, strict=True)]


def parameters_of(part: nn.Module | nn.Parameter) -> Iterator[nn.Parameter]:
    """The parameters of a part of the vision side: a module, or a parameter itself (LLaVA-OneVision's new line)."""
    return iter([part]) if isinstance(part, nn.Parameter) else part.parameters()


class VisionEncoder:
    """The tower of one model, with its memory of features."""

    def __init__(self, family: Family, tower: nn.Module, parts: Mapping[str, Any], limit_bytes: int) -> None:
        """`tower`: the encoder itself; `parts`: all modules and parameters that features are made with, by name in the
        model body; `limit_bytes` bounds the memory of features."""
        self.family = family
        self.tower = tower
        self.parts = dict(parts)
        self.limit = limit_bytes
        self.size = sum(p.numel() for p in self.tower.parameters())
        self._policy_frozen = self.frozen
        self._cache: OrderedDict[tuple[str, str], Feature] = OrderedDict()
        self._held = 0

    @property
    def frozen(self) -> bool:
        """No parameter that features are made with (adapters and projector included) is trained."""
        return not any(p.requires_grad for part in self.parts.values() for p in parameters_of(part))

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
                    (found[kind],) = self.family.encode(kind, [self.family.blank(kind)])
                continue
            todo = [item for key, item in wanted.items() if item.kind == kind and key not in found]
            if not todo:
                continue
            with torch.set_grad_enabled(with_graph):
                made = self.family.encode(kind, todo)
            cost.tower_calls += 1
            patches = sum(self.family.patches(item) for item in todo)
            cost.patches += patches
            cost.flops += 2.0 * self.size * patches * (3 if with_graph else 1)
            for item, feature in zip(todo, made, strict=True):
                found[item.key] = feature
                if not with_graph:
                    self._remember((tag, item.key), feature)
        return found

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
