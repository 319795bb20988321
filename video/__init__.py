"""Frames on demand: retrieval calls inside a response, video decoding, SD-GRPO, temporal grounding (arXiv 2605.26680).

Built on the public names of mmcredit, which finds its components through the entry-point group `mmcredit.components`
and never imports this package. The names below are imported on first use:

    from video import parse_call, add_tags
    call = parse_call("<span>62.00 - 68.00</span><fps>3</fps>")   # start, end, fps, status: ok | malformed | ...
    ids = add_tags(tokenizer, model)                               # four single tokens, initialised for both heads
"""

from importlib import import_module
from typing import Any

_HOME = {
    "Call": "video.retrieval",
    "parse_call": "video.retrieval",
    "format_call": "video.retrieval",
    "TagIds": "video.tags",
    "add_tags": "video.tags",
}
__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'video' has no attribute {name!r}")
