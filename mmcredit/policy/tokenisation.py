"""Tokenisation consistency: do sampled ids read back as themselves when their text is tokenised again?

Several id sequences can spell one text. Training here uses the ids as sampled, so a difference does no harm by itself;
whatever tokenises the text anew (a reward model, an HTTP client, another trainer) looks at other tokens than those
that carry the credit. The quantities follow "Say Anything but This" as our notes give them (drift, matched fraction,
length gap, boundary drift, class of each mismatching region); the exact rules for the classes are ours. Everything is
linear in the number of tokens.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import accumulate, chain, pairwise
from typing import Any

CLASSES = {
    "special_token": "a special token on one side, its spelling in ordinary tokens (or nothing) on the other",
    "partial_utf8": "a token border inside a character, or bytes that are no character at all",
    "normalised": "the normaliser (Unicode NFC, ...) or the decoder changed the text, or an id decodes to nothing",
    "whitespace": "a border beside white space moved",
    "digits": "a border beside a digit moved",
    "punctuation": "a border beside punctuation or another symbol moved",
    "word": "a border inside a word moved",
    "same_borders": "the same pieces of text under other ids",
}


@lru_cache(maxsize=1)
def symbol_bytes() -> Mapping[str, int]:
    """The byte behind every symbol of a byte-level BPE vocabulary (the table of GPT-2's encoder.py)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    symbols = {chr(byte): byte for byte in printable}
    symbols.update({chr(256 + i): byte for i, byte in enumerate(others)})
    return symbols


def is_byte_level(tokenizer: Any) -> bool:
    """Whether tokens are strings of bytes, written in GPT-2's symbols."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return backend is not None and "ByteLevel" in repr(backend.decoder)


@dataclass(frozen=True)
class Reading:
    """One response: its sampled ids beside those of its text, tokenised again. Offsets are bytes of the text."""

    tokens: int  # sampled ids
    again: int  # ids after tokenising anew
    prefix: int  # ids that agree before the first difference
    matched: int  # sampled tokens that occur in the new ids with the same (byte start, byte end, id)
    regions: tuple[tuple[int, int, str], ...]  # (byte start, byte end, class) where the two cut the text differently

    @property
    def drifted(self) -> bool:
        """Whether the ids differ at all."""
        return self.prefix < max(self.tokens, self.again)


@dataclass(frozen=True)
class DriftSummary:
    """What a set of responses comes to. Rates are 0 for an empty set, the matched fraction 1."""

    responses: int
    drift: float  # share of responses whose ids do not read back as themselves
    matched: float  # share of sampled tokens found again at their place
    length_gap: float  # mean of sampled minus new ids per response
    prefix: float  # mean number of ids before the first difference, over the responses that drift
    boundary: float  # share of responses whose first tokens merge with the end of the prompt; 0 if not looked at
    classes: Mapping[str, int] = field(default_factory=dict)  # mismatching regions by class

    def metrics(self) -> dict[str, float]:
        """For the log of a run."""
        numbers = {
            "tokenisation/drift": self.drift,
            "tokenisation/matched": self.matched,
            "tokenisation/length_gap": self.length_gap,
            "tokenisation/boundary": self.boundary,
        }
        return numbers | {f"tokenisation/mismatch/{name}": float(self.classes.get(name, 0)) for name in CLASSES}


class TokenisationCheck:
    """Compares sampled ids with the ids of their own text. Holds the tokens and texts that it has met."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.byte_level = is_byte_level(tokenizer)
        self.special = {*getattr(tokenizer, "all_special_ids", ()), *getattr(tokenizer, "added_tokens_decoder", {})}
        self._bytes: dict[int, bytes] = {}
        self._ids: dict[str, list[int]] = {}  # of the texts it has met

    def readings(self, responses: Sequence[Sequence[int]]) -> list[Reading]:
        """One per response (ids as sampled)."""
        if not responses:
            return []
        texts = self._texts(responses)
        encoded = self._encode(texts)
        self._learn({i for ids in (*responses, *encoded) for i in ids})
        return [
            self._compare(list(ids), text, again) for ids, text, again in zip(responses, texts, encoded, strict=True)
        ]

    def _texts(self, rows: Sequence[Sequence[int]]) -> list[str]:
        ids = [list(row) for row in rows]
        if getattr(self.tokenizer, "is_fast", False):  # `batch_decode` looks at the type of every id
            return self.tokenizer.backend_tokenizer.decode_batch(ids, skip_special_tokens=False)
        return self.tokenizer.batch_decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        new = [text for text in dict.fromkeys(texts) if text not in self._ids]  # a prompt's end comes once per response
        if new:
            found = self.tokenizer(new, add_special_tokens=False)["input_ids"]
            self._ids |= dict(zip(new, found, strict=True))
        return [self._ids[text] for text in texts]

    def text(self, ids: Sequence[int]) -> str:
        """The text that is tokenised again."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def boundary_drift(self, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]) -> list[bool]:
        """Per response: is the prompt's end read otherwise once the response stands behind it?

        Compares the text of (end of the prompt + start of the response), tokenised in one piece, with the two parts
        tokenised apart. Special tokens are never merged, so the prompt from its last one on is enough; of either side
        at most 64 tokens are looked at.
        """
        tails = [self._tail(prompt) for prompt in prompts]
        heads = [list(ids[:64]) for ids in responses]

        before, after = self._texts(tails), self._texts(heads)
        joined = self._encode([a + b for a, b in zip(before, after, strict=True)])
        apart = zip(self._encode(before), self._encode(after), strict=True)
        return [whole != left + right for whole, (left, right) in zip(joined, apart, strict=True)]

    def summary(
        self, responses: Sequence[Sequence[int]], prompts: Sequence[Sequence[int]] | None = None
    ) -> DriftSummary:
        """Drift of a batch; `prompts`, if given, go along with `responses` and add the boundary drift."""
        found = self.readings(responses)
        boundary = [] if prompts is None else self.boundary_drift(prompts, responses)
        return summarise(found, boundary)

    def _tail(self, prompt: Sequence[int]) -> list[int]:
        tail: list[int] = []
        for token in reversed(prompt[-64:]):
            if token in self.special:
                break
            tail.append(int(token))
        return tail[::-1]

    def _learn(self, ids: set[int]) -> None:
        new = sorted(ids - self._bytes.keys())
        for token, symbol in zip(new, self.tokenizer.convert_ids_to_tokens(new), strict=True):
            self._bytes[token] = self._spelling(token, symbol)

    def _spelling(self, token: int, symbol: str | None) -> bytes:
        """The bytes that a token adds to a text."""
        table = symbol_bytes()
        if symbol is None:  # an id beyond the vocabulary: it decodes to nothing
            return b""
        if token in self.special:
            return symbol.encode()
        if self.byte_level:
            return bytes(table[c] for c in symbol) if all(c in table for c in symbol) else symbol.encode()
        if len(symbol) == 6 and symbol.startswith("<0x") and symbol.endswith(">"):  # SentencePiece's byte fallback
            return bytes([int(symbol[3:5], 16)])
        return symbol.replace("▁", " ").encode()

    def _compare(self, ids: list[int], text: str, again: list[int]) -> Reading:
        if ids == again:
            return Reading(len(ids), len(again), len(ids), len(ids), ())
        shorter = min(len(ids), len(again))
        prefix = next((i for i in range(shorter) if ids[i] != again[i]), shorter)
        raw = text.encode()
        old = _own_spans([self._bytes[i] for i in ids], raw)
        new = _spans([self._bytes[i] for i in again])
        if b"".join(self._bytes[i] for i in again) != raw and getattr(self.tokenizer, "is_fast", False):
            # The normaliser changed the text: only the tokenizer knows which characters a token stands for.
            kept = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
            new = _character_spans(kept["offset_mapping"], text)
        there, own = set(zip(new, again, strict=True)), list(zip(old, ids, strict=True))
        matched = sum([key in there for key in own])
        regions = self._regions(raw, own, new, again)
        return Reading(len(ids), len(again), prefix, matched, tuple(regions))

    def _regions(
        self,
        raw: bytes,
        old: list[tuple[tuple[int, int], int]],
        new: list[tuple[int, int]],
        again: list[int],
    ) -> Iterator[tuple[int, int, str]]:
        """Stretches between borders that both sides share, wherever their tokens differ."""
        i = j = 0
        olds, news = len(old), len(new)
        while i < olds or j < news:
            if i < olds and j < news and old[i][1] == again[j] and old[i][0] == new[j]:
                i, j = i + 1, j + 1
                continue
            first_i, first_j = i, j
            start = min([*(s[0] for s, _ in old[i : i + 1]), *(s[0] for s in new[j : j + 1])])
            # Take tokens from the side that is behind until both end at the same byte.
            end_i = end_j = start
            while (i, j) == (first_i, first_j) or end_i != end_j:
                if i < olds and (end_i <= end_j or j == news):
                    end_i = max(end_i, old[i][0][1])
                    i += 1
                elif j < news:
                    end_j = max(end_j, new[j][1])
                    j += 1
                else:
                    break
            end = max(end_i, end_j)
            while i < olds and old[i][0] == (end, end):  # the rest of a broken character
                i += 1
            yield start, end, self._class(raw, start, end, old[first_i:i], new[first_j:j], again[first_j:j])

    def _class(
        self,
        raw: bytes,
        start: int,
        end: int,
        old: list[tuple[tuple[int, int], int]],
        new: list[tuple[int, int]],
        again: list[int],
    ) -> str:
        sampled = [i for _, i in old]
        if self.special.isdisjoint(sampled) != self.special.isdisjoint(again):
            return "special_token"
        spelt = b"".join([self._bytes[i] for i in sampled])
        if not _is_text(spelt):
            return "partial_utf8"
        if start == end or spelt != raw[start:end] or b"".join([self._bytes[i] for i in again]) != spelt:
            return "normalised"
        borders = set(chain.from_iterable(s for s, _ in old)) ^ set(chain.from_iterable(new))
        inside = [b for b in borders if start < b < end]
        if any(0x80 <= raw[b] < 0xC0 for b in inside):
            return "partial_utf8"
        beside = "".join(_before(raw, b) + _after(raw, b) for b in inside)
        if not beside:
            return "same_borders"
        if any(c.isspace() for c in beside):
            return "whitespace"
        if any(c.isdigit() for c in beside):
            return "digits"
        return "punctuation" if any(not c.isalnum() for c in beside) else "word"


def summarise(readings: Sequence[Reading], boundary: Sequence[bool] = ()) -> DriftSummary:
    """Rates and counts over responses."""
    n = len(readings)
    tokens = sum(r.tokens for r in readings)
    drifted = [r for r in readings if r.drifted]
    return DriftSummary(
        responses=n,
        drift=len(drifted) / max(1, n),
        matched=sum(r.matched for r in readings) / tokens if tokens else 1.0,
        length_gap=sum(r.tokens - r.again for r in readings) / max(1, n),
        prefix=sum(r.prefix for r in drifted) / max(1, len(drifted)),
        boundary=sum(boundary) / max(1, len(boundary)),
        classes=dict(Counter(kind for r in readings for *_, kind in r.regions)),
    )


def _spans(pieces: Sequence[bytes]) -> list[tuple[int, int]]:
    return list(pairwise(accumulate(map(len, pieces), initial=0)))


def _own_spans(pieces: Sequence[bytes], raw: bytes) -> list[tuple[int, int]]:
    """Byte spans of the sampled tokens in the text they decode to.

    Invalid bytes became one U+FFFD (3 bytes) per maximal run of a broken character; what the decoder left out (a
    leading space, ids it does not know) is skipped.
    """
    joined = b"".join(pieces)
    spans = _spans(pieces)
    if joined == raw:
        return spans
    place: list[int] = []  # byte of `joined` -> byte of the text
    rest, here, there = memoryview(joined), int(joined[:1] == b" " and raw[:1] != b" "), 0
    place += [0] * here
    while here < len(joined):
        try:
            str(rest[here:], "utf-8")
            good, broken = len(joined) - here, 0
        except UnicodeDecodeError as error:
            good, broken = error.start, error.end - error.start
        place += range(there, there + good)
        there += good
        if broken:  # a border inside falls behind its U+FFFD: nothing else of the text belongs to it
            place += [there, *[there + 3] * (broken - 1)]
            there += 3
        here += good + broken
    place.append(there)
    top = len(raw)
    return [(min(place[a], top), min(place[b], top)) for a, b in spans]


def _character_spans(offsets: Sequence[tuple[int, int]], text: str) -> list[tuple[int, int]]:
    """Character offsets of a tokenizer as byte offsets without gaps.

    Of several tokens on one character the last one gets it, the others are empty; characters that a normaliser took
    away belong to the token before them.
    """
    place = [0]
    for character in text:
        place.append(place[-1] + len(character.encode()))
    starts = [place[a] for a, _ in offsets]
    return list(zip(starts, [*starts[1:], place[-1]], strict=True))


def _is_text(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


def _before(raw: bytes, border: int) -> str:
    """The character that ends at a border."""
    start = border - 1
    while start > 0 and 0x80 <= raw[start] < 0xC0:
        start -= 1
    return raw[start:border].decode(errors="replace")


def _after(raw: bytes, border: int) -> str:
    return raw[border : border + 4].decode(errors="replace")[:1]
