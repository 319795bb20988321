"""From flagged strings to characters, and from characters to the tokens of the sampled response.

A string is looked for on a ladder; each rung is tried only if the ones before found nothing, and the rung that fired
is kept with the span:

    exact       the string as it stands
    trimmed     without quotes and white space around it, and punctuation at its end
    normalised  Unicode NFKC, runs of white space as one space, typographic quotes straight
    casefolded  as `normalised`, without regard to case
    fuzzy       at least 0.9 of the string (12 characters or more) in one piece, in one place
"""

from __future__ import annotations

import bisect
import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from mmcredit.policy.offsets import Offsets
from prm.normalise import Normalised, folded, normalised, trim

if TYPE_CHECKING:
    from torch import Tensor

Rung = Literal["exact", "trimmed", "normalised", "casefolded", "fuzzy"]
Ladder = tuple[Rung, ...]
EXACT: Ladder = ("exact",)
TRAINING: Ladder = ("exact", "trimmed", "normalised", "casefolded")
INFERENCE: Ladder = (*TRAINING, "fuzzy")
Occurrence = Literal["first", "all", "first_after_previous"]
Zone = Literal["all", "think"]
# located; nothing like it in the text; an empty string; only inside protected ranges; only outside the zone
Fate = Literal["located", "not_found", "empty", "protected", "outside_zone"]
Range = tuple[int, int]

_TAGS = re.compile(r"</?(?:think|answer)>")
_WORDS = re.compile(r"\w+|[^\w\s]")
_FUZZY_RATIO, _FUZZY_LENGTH, _FUZZY_LONGEST = 0.9, 12, 2000


@dataclass(frozen=True)
class CharSpan:
    """Characters [start, end) of the response that a claim stands for."""

    start: int
    end: int
    claim: int  # number of the flagged string
    rung: Rung


@dataclass(frozen=True)
class Claim:
    """One flagged string and what became of it: its provenance, kept through records and report."""

    text: str
    fate: Fate
    rung: Rung | None = None
    spans: tuple[Range, ...] = ()  # characters
    tokens: tuple[Range, ...] = ()  # token indices


@dataclass(frozen=True)
class Located:
    """The claims of one verification, found in the text."""

    claims: tuple[Claim, ...]
    spans: tuple[CharSpan, ...] = field(default=())

    def count(self, fate: Fate) -> int:
        """Claims with this fate."""
        return sum(claim.fate == fate for claim in self.claims)


def locate(
    strings: Sequence[str],
    text: str,
    *,
    occurrence: Occurrence = "first",
    ladder: Ladder = TRAINING,
    zone: Zone = "all",
    protected: Sequence[Range] = (),
    places: Sequence[Range] | None = None,
) -> Located:
    """Where the strings stand in the text.

    `occurrence`: the first place of each, all of them (not overlapping), or the first after the end of the string found
    before it. Places that lie wholly inside a `protected` range, or not wholly inside the zone, are passed over.
    `zone: think` is what stands in the think block, or before the answer block where there is none. `places`, one per
    string, are taken as they are where the verifier knows them.
    """
    area = (0, len(text)) if zone == "all" else think_zone(text)
    forms: dict[bool, Normalised] = {}

    def form(fold: bool) -> Normalised:
        if fold not in forms:
            forms[fold] = folded(text) if fold else normalised(text)
        return forms[fold]

    claims: list[Claim] = []
    spans: list[CharSpan] = []
    previous = 0
    for number, string in enumerate(strings):
        if not string:
            claims.append(Claim(string, "empty"))
            continue
        fate: Fate = "not_found"
        chosen: list[Range] = []
        rung: Rung | None = None
        for rung in ladder if places is None else EXACT:
            begin = previous if occurrence == "first_after_previous" else 0
            known = None if places is None else [places[number]]
            for place in known or _places(string, text, rung, form, begin):
                if not (area[0] <= place[0] and place[1] <= area[1]):
                    fate = "outside_zone" if fate == "not_found" else fate
                elif any(a <= place[0] and place[1] <= b for a, b in protected):
                    fate = "protected"
                else:
                    chosen.append(place)
                    if occurrence != "all":
                        break
            if chosen:
                break
        if not chosen:
            claims.append(Claim(string, fate))
            continue
        assert rung is not None
        previous = chosen[-1][1]
        if rung != "exact":  # only an exact match may cover structural tags
            chosen = [piece for place in chosen for piece in _without_tags(text, place)]
        claims.append(Claim(string, "located", rung, tuple(chosen)))
        spans += [CharSpan(a, b, number, rung) for a, b in chosen]
    return Located(tuple(claims), tuple(spans))


def think_zone(text: str) -> Range:
    """Characters of the think block's content; without one, what stands before the answer block."""
    start, end = text.find("<think>"), text.find("</think>")
    if start < 0 and end < 0:
        answer = text.find("<answer>")
        return 0, answer if answer >= 0 else len(text)
    begin = start + len("<think>") if start >= 0 and (end < 0 or start < end) else 0
    return begin, end if end >= 0 else len(text)


def words(text: str) -> Offsets:
    """A response cut into words and signs: the tokens of span measures where no tokenizer is given."""
    return Offsets(text, tuple(match.span() for match in _WORDS.finditer(text)))


def token_spans(spans: Sequence[CharSpan | Range], offsets: Offsets) -> list[Range]:
    """[start, end) token indices per character span: every token that shares a byte with it; (0, 0) where none does."""
    # Of tokens that hold text both ends never decrease, so the first and the last one are found by bisection.
    held = [i for i, (start, end) in enumerate(offsets.spans) if start < end]
    starts = [offsets.spans[i][0] for i in held]
    ends = [offsets.spans[i][1] for i in held]
    found = []
    for span in spans:
        a, b = (span.start, span.end) if isinstance(span, CharSpan) else span
        first, last = bisect.bisect_right(ends, a), bisect.bisect_left(starts, b)
        found.append((held[first], held[last - 1] + 1) if a < b and first < last else (0, 0))
    return found


def reference_token_spans(spans: Sequence[CharSpan | Range], offsets: Offsets) -> list[Range]:
    """The token spans of the public release, from offsets of the text tokenised again; (0, 0) for its "error".

    The start is the token that holds the first character, the end is behind the first token that reaches the span's
    end (or at the token that begins there); failing that the next token at or after the border, else the last. Of a
    last character that is spread over several tokens only the first is taken.
    """
    found = []
    for span in spans:
        a, b = (span.start, span.end) if isinstance(span, CharSpan) else span
        first = last = None
        for i, (start, end) in enumerate(offsets.spans):
            if first is None and start <= a < end:
                first = i
            if start < b <= end or start == b:
                last = i if start == b else i + 1
                break  # a start behind this token is not looked for
        size = len(offsets.spans)
        if first is None:
            first = next((i for i, (start, _) in enumerate(offsets.spans) if start >= a), size)
        if last is None:
            last = next((i for i, (start, _) in enumerate(offsets.spans) if start >= b), size)
        found.append((first, last) if first <= last else (0, 0))
    return found


def to_token_spans(
    spans: Sequence[CharSpan | Range], offsets: Offsets, mode: Literal["sampled", "retokenize"] = "sampled"
) -> list[Range]:
    """[start, end) token indices per character span, by bytes or as the release has them."""
    return reference_token_spans(spans, offsets) if mode == "retokenize" else token_spans(spans, offsets)


def build_mask(spans: Sequence[Range], length: int) -> Tensor:
    """[length] bool: the union of token spans; ends are clamped to the row, spans that begin behind it are ignored."""
    import torch  # not above: rewards run in processes without it

    mask = torch.zeros(length, dtype=torch.bool)
    for start, end in spans:
        if 0 <= start < min(end, length):  # the release pads ragged lists with -100
            mask[start : min(end, length)] = True
    return mask


def with_tokens(located: Located, tokens: Sequence[Range]) -> Located:
    """The claims with the token spans of `located.spans`, given in that order."""
    by_claim: dict[int, list[Range]] = {}
    for span, token_range in zip(located.spans, tokens, strict=True):
        by_claim.setdefault(span.claim, []).append(token_range)
    claims = [replace(claim, tokens=tuple(by_claim.get(i, ()))) for i, claim in enumerate(located.claims)]
    return Located(tuple(claims), located.spans)


def _places(string: str, text: str, rung: Rung, form: object, begin: int) -> Iterator[Range]:
    if rung == "exact":
        yield from _find(string, text, begin)
    elif rung == "trimmed":
        bare = trim(string)
        if bare and bare != string:
            yield from _find(bare, text, begin)
    elif rung == "fuzzy":
        yield from _fuzzy(string, form(True), begin)  # type: ignore[operator]
    else:
        where: Normalised = form(rung == "casefolded")  # type: ignore[operator]
        make = folded if rung == "casefolded" else normalised
        tried = ""
        for wanted in (make(string).text.strip(), make(trim(string)).text.strip()):
            if not wanted or wanted == tried:
                continue
            tried = wanted
            any_found = False
            for a, b in _find(wanted, where.text, 0):
                place = where.original(a, b)
                if place[0] >= begin:
                    any_found = True
                    yield place
            if any_found:
                return


def _find(string: str, text: str, begin: int) -> Iterator[Range]:
    at = text.find(string, begin)
    while at >= 0:
        yield at, at + len(string)
        at = text.find(string, at + len(string))


def _fuzzy(string: str, where: Normalised, begin: int) -> Iterator[Range]:
    wanted = folded(trim(string)).text
    if not _FUZZY_LENGTH <= len(wanted) <= _FUZZY_LONGEST:
        return
    matcher = difflib.SequenceMatcher(None, where.text, wanted, autojunk=False)
    best = matcher.find_longest_match(0, len(where.text), 0, len(wanted))
    if best.size < _FUZZY_RATIO * len(wanted):
        return
    # Unique: no other stretch of the string is as long, no other place has this one.
    places = [
        place
        for offset in range(len(wanted) - best.size + 1)
        for place in _find(wanted[offset : offset + best.size], where.text, 0)
    ]
    if len(places) == 1:
        place = where.original(*places[0])
        if place[0] >= begin:
            yield place


def _without_tags(text: str, place: Range) -> Iterator[Range]:
    """The place in pieces between structural tags."""
    start, end = place
    for tag in _TAGS.finditer(text):
        if tag.end() <= start or tag.start() >= end:
            continue
        if start < tag.start():
            yield start, tag.start()
        start = max(start, tag.end())
    if start < end:
        yield start, end
