"""A verifier at work in a run: responses of the rollout in, verdicts with token spans out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from mmcredit.policy.offsets import Offsets, TokenOffsets
from mmcredit.verifiers.base import Span, Verdict
from prm.spans import (
    TRAINING,
    Ladder,
    Located,
    Occurrence,
    Zone,
    build_mask,
    locate,
    to_token_spans,
    with_tokens,
)
from prm.verifier import Query, Verifier, query_of

if TYPE_CHECKING:
    from mmcredit.data.sample import Sample
    from mmcredit.verifiers.base import VerifyItem
    from prm.parse import Verification

Mode = Literal["sampled", "retokenize"]


@dataclass(frozen=True)
class SpanSettings:
    """How flagged strings become tokens; see `prm.spans.locate`. The release: retokenize, first, exact alone, all."""

    mode: Mode = "sampled"
    occurrence: Occurrence = "first"
    ladder: Ladder = TRAINING
    zone: Zone = "all"
    max_mask_frac: float = 1.0  # a verification that flags a larger share of the text's tokens is not believed


class PerceptionChecker:
    """`Checker` over a backend: asks it about the responses that apply, and finds what it flagged in their tokens."""

    def __init__(
        self,
        backend: Verifier,
        tokenizer: Any,
        settings: SpanSettings,
        refuses: Callable[[Sample], str] = lambda sample: "",
    ) -> None:
        """`refuses` says why a sample is not for this verifier ("no image"), or nothing."""
        self.backend, self.settings, self.refuses = backend, settings, refuses
        self.offsets = TokenOffsets(tokenizer)

    def verify(self, items: Sequence[VerifyItem]) -> list[Verdict]:
        """A verdict per item, in order."""
        out: list[Verdict | None] = [None] * len(items)
        asked: list[int] = []
        queries: list[Query] = []
        for i, item in enumerate(items):
            if reason := self.refuses(item.sample):
                out[i] = Verdict("skipped", reason=reason)
                continue
            asked.append(i)
            queries.append(query_of(item.sample, item.text))
        for i, said in zip(asked, self.backend.verify(queries), strict=True):
            out[i] = verdict(said, items[i], self.offsets, self.settings)
        assert all(each is not None for each in out)
        return [each for each in out if each is not None]

    def close(self) -> None:
        """Close the backend."""
        self.backend.close()


def verdict(said: Verification, item: VerifyItem, makes: TokenOffsets, settings: SpanSettings) -> Verdict:
    """The verifier's word on a response, with the tokens that it is about."""
    usage = {{"new_tokens": "tokens"}.get(name, name): float(value) for name, value in said.usage.items()}
    if said.dropped:
        usage["dropped_items"] = float(said.dropped)
    if said.status == "prm_error":
        reason = said.error.partition(":")[0]
        return Verdict("prm_error", reason=reason if len(reason) < 40 else "error", detail=said.error, usage=usage)
    if said.status == "parse_error":
        return Verdict("parse_error", reason="not in the format", detail=said.raw[:2000], usage=usage)
    if said.status == "clean":
        return Verdict("clean", detail=said.think[:2000], usage=usage)
    # Only here: most responses are clean, and offsets take longer than all the rest.
    offsets = makes.retokenised(item.tokens) if settings.mode == "retokenize" else makes.sampled(item.tokens)
    same = offsets.text == item.text
    if not same:
        said = replace(said, places=None)  # places in another spelling of the response
    located = find(said, offsets, settings)
    if settings.max_mask_frac < 1 and _share(located, offsets, len(item.tokens)) > settings.max_mask_frac:
        # Not believed: a verification that flags nearly everything says little about any token.
        claims = tuple(replace(claim, tokens=()) for claim in located.claims)
        spans = tuple(Span(claim.text, (), claim.spans, "too_much", claim.rung or "") for claim in claims)
        return Verdict("flagged", spans, detail=said.think[:2000], usage=usage)
    spans = tuple(
        Span(claim.text, claim.tokens, claim.spans if same else (), claim.fate, claim.rung or "")
        for claim in located.claims
    )
    return Verdict("flagged", spans, detail=said.think[:2000], usage=usage)


def _share(located: Located, offsets: Offsets, length: int) -> float:
    """The share of the tokens that hold text which the claims mark."""
    masked = build_mask([r for claim in located.claims for r in claim.tokens], length)
    return int(masked.sum()) / max(1, sum(start < end for start, end in offsets.spans))


def find(
    said: Verification, offsets: Offsets, settings: SpanSettings, protected: Sequence[tuple[int, int]] = ()
) -> Located:
    """The flagged strings in the text and in the tokens."""
    located = locate(
        said.strings,
        offsets.text,
        occurrence=settings.occurrence,
        ladder=settings.ladder,
        zone=settings.zone,
        protected=protected,
        places=said.places,
    )
    return with_tokens(located, to_token_spans(located.spans, offsets, settings.mode))


def needs_image(sample: Sample) -> str:
    """Why a sample is not for a verifier that reads images."""
    return "" if any(media.kind == "image" for media in sample.media) else "no image"


def needs_meta(*names: str) -> Callable[[Sample], str]:
    """A reason for samples that lack one of these keys of `meta`."""

    def refuses(sample: Sample) -> str:
        missing = [name for name in names if name not in sample.meta]
        return f"no meta {missing[0]!r}" if missing else ""

    return refuses


def only_where(where: Mapping[str, Sequence[Any]], refuses: Callable[[Sample], str]) -> Callable[[Sample], str]:
    """`refuses`, and also samples whose meta is not among the values of `where`."""

    def chosen(sample: Sample) -> str:
        for name, values in where.items():
            if sample.meta.get(name) not in values:
                return f"not in where: {name}"
        return refuses(sample)

    return chosen
