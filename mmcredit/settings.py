"""Whether a folder's settings are those of now: what differs, by dotted name, as one line tells it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

MOST = 3  # differences that a line names
LONGEST = 60  # characters of one value in it
_ABSENT = object()


def changes(there: Any, now: Any, defaults: Any = None, place: str = "") -> dict[str, str]:
    """Where two plain values differ: dotted name -> "old -> new", in the order of the names.

    A setting that one side does not have counts as its default in `defaults` (see `defaults_of`): what was made before
    a setting existed is not other because of it.
    """
    if isinstance(there, Mapping) and isinstance(now, Mapping):
        found: dict[str, str] = {}
        known = defaults if isinstance(defaults, Mapping) else {}
        for key in sorted({*there, *now}):
            default = known.get(key, _ABSENT)
            old, new = there.get(key, default), now.get(key, default)
            found |= changes(old, new, default, f"{place}.{key}" if place else str(key))
        return found
    return {} if there == now else {place: f"{_short(there)} -> {_short(now)}"}


def told(found: Mapping[str, str], most: int = MOST) -> str:
    """`a.b 1 -> 2; c 3 -> 4`, at most `most` of them, then how many more there are."""
    words = [f"{name} {change}" for name, change in list(found.items())[:most]]
    more = len(found) - len(words)
    return "; ".join([*words, *([f"and {more} more"] if more else [])])


def defaults_of(schema: type[BaseModel]) -> dict[str, Any]:
    """The defaults of a schema and of the blocks in it, as plain values; fields without a default are left out."""
    found: dict[str, Any] = {}
    for name, field in schema.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found[name] = defaults_of(field.annotation)
        elif not field.is_required():
            value = field.get_default(call_default_factory=True, validated_data={})
            found[name] = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    plain: dict[str, Any] = json.loads(json.dumps(found, default=str))
    return plain


def below(found: Mapping[str, str], places: Sequence[str]) -> dict[str, str]:
    """Those of `changes` that lie at or below one of the dotted `places`."""
    return {k: v for k, v in found.items() if any(k == p or k.startswith(f"{p}.") for p in places)}


def _short(value: Any) -> str:
    if value is _ABSENT:
        return "(not set)"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."
