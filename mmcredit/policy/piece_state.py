"""What was inserted into responses as plain values and tensors: for frozen batches, checkpoints and other ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmcredit.policy.prompt import Clip, Prompt
from mmcredit.rollouts import Inserted


def pack_pieces(inserted: Sequence[Sequence[Inserted]] | None) -> dict[str, Any] | None:
    """Every piece once, and per response where which one stands. Tensors stay tensors."""
    if inserted is None:
        return None
    distinct: dict[int, int] = {}
    pieces: list[Prompt] = []
    for one in (one for own in inserted for one in own):
        if id(one.piece) not in distinct:
            distinct[id(one.piece)] = len(pieces)
            pieces.append(one.piece)
    return {
        "pieces": [_pack(piece) for piece in pieces],
        "places": [[[one.at, distinct[id(one.piece)]] for one in own] for own in inserted],
    }


def unpack_pieces(state: Mapping[str, Any] | None) -> tuple[tuple[Inserted, ...], ...] | None:
    """What `pack_pieces` took apart."""
    if state is None:
        return None
    pieces = [_unpack(item) for item in state["pieces"]]
    return tuple(tuple(Inserted(int(at), pieces[int(number)]) for at, number in own) for own in state["places"])


def _pack(piece: Prompt) -> dict[str, Any]:
    return {
        "name": piece.sample_id,
        "tokens": piece.tokens,
        "positions": piece.positions,
        "next_position": piece.next_position,
        "visual": piece.visual,
        "media": dict(piece.media),
        "keys": list(piece.media_keys),
        "clips": [[list(clip.times), clip.duration] for clip in piece.clips],
    }


def _unpack(item: Mapping[str, Any]) -> Prompt:
    return Prompt(
        item["name"],
        item["tokens"],
        item["positions"],
        int(item["next_position"]),
        item["visual"],
        dict(item["media"]),
        tuple(item["keys"]),
        clips=tuple(Clip(tuple(times), duration) for times, duration in item.get("clips", ())),
    )
