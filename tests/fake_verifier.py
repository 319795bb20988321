"""A verifier for tests: it flags the tokens that hold a letter, and can break; and a credit method that reads it."""

from __future__ import annotations

import threading
from typing import Literal

from pydantic import Field

from mmcredit.components import Needs, register
from mmcredit.credit.base import CreditMethod
from mmcredit.verifiers.base import Span, Verdict, Verifier

MADE = []  # the checkers that were opened, newest last


class FakeChecker:
    def __init__(self, config, context):
        self.config, self.context = config, context
        self.calls, self.closed, self.threads = [], False, set()
        self.called = threading.Event()
        self.gate = None  # an Event that `verify` waits for
        MADE.append(self)

    def verify(self, items):
        self.threads.add(threading.get_ident())
        self.calls.append(list(items))
        self.called.set()
        if self.gate is not None and not self.gate.wait(20):
            return [Verdict("prm_error", reason="gate") for _ in items]
        if self.config.breaks == "raise":
            raise OSError("no route to the verifier")
        found = [self._verdict(item) for item in items]
        return found[:-1] if self.config.breaks == "short" else found

    def _verdict(self, item):
        usage = {"calls": 1.0, "tokens": float(len(item.tokens))}
        if self.config.breaks == "parse":
            return Verdict("parse_error", reason="no answer block", detail="???", usage=usage)
        decode = self.context.tokenizer.decode
        hits = [i for i, token in enumerate(item.tokens) if self.config.letter in decode([token])]
        if not hits:
            return Verdict("clean", usage=usage)
        spans = (
            Span(self.config.letter, tuple((i, i + 1) for i in hits), rung="exact"),
            Span("elsewhere", fate="not_found"),
        )
        return Verdict("flagged", spans, detail=f"{len(hits)} tokens", usage=usage)

    def close(self):
        self.closed = True


@register("verifier", "fake_letters")
class FakeLetters(Verifier):
    """Flags tokens that hold a letter."""

    letter: str = Field("e")
    breaks: Literal["", "raise", "short", "parse"] = ""

    def open(self, context):
        return FakeChecker(self, context)


@register("credit", "fake_penalty")
class FakePenalty(CreditMethod):
    """A' = A - alpha |A| on flagged tokens."""

    alpha: float = 0.5
    every: bool = False

    def needs(self):
        settings = {"hallucinated": {"groups": "all"}} if self.every else {}
        return Needs(signals=("hallucinated",), settings=settings)

    def __call__(self, credit, rollouts, step):
        flagged = rollouts.signal("hallucinated") & credit.loss_mask
        before = credit.advantages
        return credit.replace(advantages=before.where(~flagged, before - self.alpha * before.abs()))
