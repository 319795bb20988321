"""Class numbers back to class names, where a data set says what its numbers mean."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any


def from_schema(metadata: Mapping[bytes, bytes] | None) -> dict[str, list[str]]:
    """Class names per column, from the note that Hugging Face `datasets` leaves in an Arrow schema, if there is one."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        return {
            name: list(feature["names"])
            for name, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
        }
    except (KeyError, TypeError, AttributeError, ValueError):  # no note, or another writer's: numbers stay numbers
        return {}


def class_name(value: Any, names: Sequence[str] | None) -> Any:
    """The name of class number `value`; None for -1, which stands for "no label". Other values as they are."""
    if names is None or not isinstance(value, int):
        return value
    return names[value] if 0 <= value < len(names) else None
