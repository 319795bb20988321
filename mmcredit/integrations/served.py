"""Which credit methods a trainer of other people can serve, and what to say where it cannot."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmcredit.components import build, lookup, names

if TYPE_CHECKING:
    from mmcredit.credit import Pipeline
    from mmcredit.credit.base import CreditMethod
    from mmcredit.policy.passes import View


def refuse(pipeline: Pipeline, host: str, *, scores: bool, loss_mask: bool) -> None:
    """Raise ValueError, naming the method, for what the trainer `host` has no place for.

    `scores`: signals are computed for it (by our score passes over its model). `loss_mask`: its loss takes our mask of
    tokens.
    """
    own = "train with `mmcredit train`, which does"
    for method in pipeline.methods:
        name, needs = method.name, method.needs()
        if hasattr(method, "at_update") and method.acts_at_update:
            raise ValueError(
                f"credit: {name!r} revises credit at every mini-batch, which {host} gives no place for; {own}"
            )
        if method.fixes_ratio is not None:
            raise ValueError(f"credit: {name!r} fixes the ratio to {method.fixes_ratio!r}, which {host} lacks; {own}")
        if not loss_mask and "loss_mask" in method.changes:
            raise ValueError(f"credit: {name!r} takes tokens out of the loss, but {host} keeps its own mask; {own}")
        if needs.segments:
            raise ValueError(f"credit: {name!r} reads segments of responses, which {host} does not have; {own}")
        if not scores and (needs.signals or needs.old_logprobs or needs.sampler_logprobs):
            wanted = ", ".join(needs.signals) or ("old" if needs.old_logprobs else "sampler") + " log-probs"
            raise ValueError(f"credit: {name!r} reads {wanted}, which {host} does not hand to an estimator; {own}")
        for signal in needs.signals:
            _refuse_signal(method, signal, host, own)


def _refuse_signal(method: CreditMethod, signal: str, host: str, own: str) -> None:
    if signal not in names("signal"):
        makers = [
            f"{kind} {name!r}"
            for kind in ("strategy", "verifier")
            for name in names(kind)
            if signal in lookup(kind, name).gives  # type: ignore[attr-defined]
        ]
        from_where = f"comes from {' or '.join(makers)}" if makers else "nothing computes"
        raise ValueError(
            f"credit: {method.name!r} reads the signal {signal!r}, which {from_where}; {host} runs none of these; {own}"
        )
    if any(view.name == "teacher" for view in views_of(method, signal)):
        raise ValueError(
            f"credit: {method.name!r} reads {signal!r}, of prompts with a hint in them, which {host} does not make; "
            f"{own}"
        )


def views_of(method: CreditMethod, signal: str) -> list[View]:
    """The views that a signal of a method is read from."""
    settings = method.needs().settings
    found = build("signal", {signal: settings[signal]} if signal in settings else signal)
    return [each.view for each in found.passes()]  # type: ignore[attr-defined]
