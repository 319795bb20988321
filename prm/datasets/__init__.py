"""Public annotations of hallucinations, from local files in their published formats, as one kind of sample.

Read `base` (what a sample is), then the file of a data set; `LOADERS` names them all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prm.datasets.amber import load_amber
from prm.datasets.base import LabelledSpan, Loaded, SpanSample
from prm.datasets.chair import load_chair
from prm.datasets.mhal_detect import load_mhal_detect, load_mhalo
from prm.datasets.mhalubench import load_mhalubench
from prm.datasets.pope import load_pope
from prm.datasets.rlhf_v import load_rlhf_v
from prm.datasets.spans_jsonl import load_spans

LOADERS: dict[str, Callable[..., Loaded]] = {
    "mhal_detect": load_mhal_detect,
    "mhalo": load_mhalo,
    "mhalubench": load_mhalubench,
    "rlhf_v": load_rlhf_v,
    "pope": load_pope,
    "chair": load_chair,
    "amber": load_amber,
    "spans": load_spans,
}

__all__ = ["LOADERS", "LabelledSpan", "Loaded", "SpanSample", "load"]


def load(entry: dict[str, Any]) -> Loaded:
    """Samples of a one-key mapping {loader: {field: value}}. Raises ValueError for what it gets wrong."""
    from mmcredit.components import nearest

    if not isinstance(entry, dict) or len(entry) != 1:
        raise ValueError(
            f"data is written as {{loader: {{field: value}}}}, got {entry!r}; loaders: {', '.join(LOADERS)}"
        )
    name, fields = next(iter(entry.items()))
    if name not in LOADERS:
        raise ValueError(f"unknown data set {name!r}; {nearest(str(name), LOADERS)}")
    try:
        return LOADERS[name](**(fields or {}))
    except TypeError as error:
        raise ValueError(f"data set {name!r}: {error}") from None
