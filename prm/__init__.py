"""Perceval: a perception-centric process reward model, in training and at test time (arXiv 2604.24583).

Built on the public names of mmcredit, which finds its components through the entry-point group `mmcredit.components`
and never imports this package. The names below are imported on first use:

    from prm import locate, parse_verification, to_token_spans, token_offsets
    said = parse_verification(raw)                       # strings, status: clean | flagged | parse_error | prm_error
    offsets = token_offsets(ids, tokenizer)              # exact for the sampled ids; mode="retokenize": the release's
    found = locate(said.strings, offsets.text)           # ladder=("exact",) for parity with the release
    mask = build_mask(to_token_spans(found.spans, offsets), len(ids))
    advantages = apply_span_penalty(advantages, mask, alpha=0.1)
"""

from importlib import import_module
from typing import Any

_HOME = {
    "Verification": "prm.parse",
    "parse_verification": "prm.parse",
    "reference_parse": "prm.parse",
    "token_offsets": "mmcredit.policy.offsets",
    "locate": "prm.spans",
    "to_token_spans": "prm.spans",
    "build_mask": "prm.spans",
    "apply_span_penalty": "prm.penalty",
    "macro_iou": "prm.metrics",
    "span_prf": "prm.metrics",
    "policy_format": "prm.metrics",
    "refine": "prm.refine",
}
__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'prm' has no attribute {name!r}")
