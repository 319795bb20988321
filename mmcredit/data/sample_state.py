"""A sample as plain values and tensors, for the checkpoint of what remembers samples across steps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mmcredit.data.sample import Media, Sample


def pack(sample: Sample) -> dict[str, Any]:
    """JSON values and tensors; media that came as bytes become uint8 tensors, those from files stay paths."""
    return {
        "id": sample.id,
        "messages": [_plain(message) for message in sample.messages],
        "media": [_packed(media) for media in sample.media],
        "answer": sample.answer,
        "meta": _plain(sample.meta),
        "place": sample.place,
    }


def unpack(state: Mapping[str, Any]) -> Sample:
    """The sample that `pack` took apart."""
    media = tuple(_unpacked(item) for item in state["media"])
    return Sample(state["id"], tuple(state["messages"]), media, state["answer"], state["meta"], state.get("place", ""))


def _packed(media: Media) -> dict[str, Any]:
    return {
        "kind": media.kind,
        "name": media.name,
        "path": None if media.path is None else str(media.path),
        "data": None if media.data is None else torch.frombuffer(bytearray(media.data), dtype=torch.uint8),
        "frames": [_packed(frame) for frame in media.frames],
        "options": dict(media.options),
    }


def _unpacked(item: Mapping[str, Any]) -> Media:
    return Media(
        item["kind"],
        None if item["path"] is None else Path(item["path"]),
        None if item["data"] is None else bytes(item["data"].numpy()),
        item["name"],
        tuple(_unpacked(frame) for frame in item.get("frames", ())),
        dict(item.get("options", {})),
    )


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(v) for key, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return value
