"""What a model is made of: its text decoder, the vision side beside it, and how it takes images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from mmcredit.policy.grids import Grids
from mmcredit.policy.tiles import Tiles
from mmcredit.policy.vision import Family, VisionEncoder, parameters_of
from mmcredit.policy.visual_tokens import pooled

if TYPE_CHECKING:
    from collections.abc import Iterator

DECODERS = ("language_model", "text_model")
TOWERS = ("visual", "vision_tower", "vision_model")
# Text queries see all tokens of an image at once, and each other's, in these: the mask is not causal inside an image.
BIDIRECTIONAL = ("gemma3",)


def decoder_name(base: nn.Module) -> str | None:
    """The name of the text decoder in the model body; None where the body is the decoder."""
    return next((name for name in DECODERS if isinstance(getattr(base, name, None), nn.Module)), None)


def tower_of(base: nn.Module) -> nn.Module | None:
    """The image encoder of a model body, None for a text model."""
    found = next((t for name in TOWERS if isinstance(t := getattr(base, name, None), nn.Module)), None)
    return found if decoder_name(base) is not None else None


def vision_parts(base: nn.Module) -> dict[str, nn.Module | nn.Parameter]:
    """Everything of the body beside the decoder: tower, projector, parameters of the body itself. Empty for text."""
    decoder = decoder_name(base)
    if decoder is None or tower_of(base) is None:
        return {}
    modules: dict[str, Any] = {name: module for name, module in base.named_children() if name != decoder}
    return modules | dict(base.named_parameters(recurse=False))


def vision_parameters(base: nn.Module) -> Iterator[nn.Parameter]:
    """Their parameters."""
    for part in vision_parts(base).values():
        yield from parameters_of(part)


def vision_encoder(base: nn.Module, limit_bytes: int) -> VisionEncoder | None:
    """The encoder of a model body that has `get_image_features`."""
    tower = tower_of(base)
    if tower is None or not hasattr(base, "get_image_features"):
        return None
    # Grids go with three rows of positions; models with tiles count tokens.
    family: Family = Grids(base, tower) if hasattr(base, "get_rope_index") else Tiles(base, tower)
    return VisionEncoder(pooled(family, base), tower, vision_parts(base), limit_bytes)


def sees_both_ways(model: Any) -> bool:
    """Whether tokens of one image attend to each other in both directions."""
    return getattr(model.config, "model_type", "") in BIDIRECTIONAL
