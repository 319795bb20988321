"""Where each sampled token stands in the text of its response.

Offsets come from the sampled ids themselves, byte by byte: one text can be spelt by several id sequences, and those
of a second tokenisation belong to other tokens. `retokenised` is that second tokenisation, for parity with the release.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mmcredit.policy.tokenisation import is_byte_level, symbol_bytes

REPLACEMENT = "�"


@dataclass(frozen=True)
class Offsets:
    """The text of a response and the characters [start, end) that each token has a part in.

    Tokens that share a character both hold it whole; a token that adds nothing (a special token, an unknown id) is
    empty: start == end.
    """

    text: str
    spans: tuple[tuple[int, int], ...]

    def __len__(self) -> int:
        return len(self.spans)


class TokenOffsets:
    """Offsets for the responses of one tokenizer; remembers the bytes of the tokens it has met."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.byte_level = is_byte_level(tokenizer)
        added = getattr(tokenizer, "added_tokens_decoder", {})
        special = {i for i, token in added.items() if getattr(token, "special", False)}
        self.special = special | set(getattr(tokenizer, "all_special_ids", ()))
        self._bytes: dict[int, bytes] = {}

    def sampled(self, ids: Sequence[int]) -> Offsets:
        """Offsets of ids exactly as sampled; the text is their decoding without special tokens.

        Raises ValueError if the tokenizer decodes the ids to a text that their pieces do not make up.
        """
        ids = [int(i) for i in ids]
        text = self.text(ids)
        if self.byte_level:
            self._learn(set(ids))
            found = _from_bytes([self._bytes[i] for i in ids])
            if found.text == text:
                return found
        return self._by_decoding(ids, text)

    def retokenised(self, ids: Sequence[int]) -> Offsets:
        """Offsets of the text, tokenised again by a fast tokenizer: what the public release takes for the tokens'."""
        text = self.text([int(i) for i in ids])
        if not getattr(self.tokenizer, "is_fast", False):
            raise ValueError("mode retokenize needs a fast tokenizer, which knows offsets; use mode sampled")
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        return Offsets(text, tuple((int(a), int(b)) for a, b in encoded["offset_mapping"]))

    def text(self, ids: Sequence[int]) -> str:
        """The response as a verifier sees it."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def _learn(self, ids: set[int]) -> None:
        new = sorted(ids - self._bytes.keys())
        table = symbol_bytes()
        for token, symbol in zip(new, self.tokenizer.convert_ids_to_tokens(new), strict=True):
            if symbol is None or token in self.special:
                self._bytes[token] = b""
            elif all(c in table for c in symbol):
                self._bytes[token] = bytes(table[c] for c in symbol)
            else:  # an added token written in plain text
                self._bytes[token] = symbol.encode()

    def _by_decoding(self, ids: list[int], text: str) -> Offsets:
        """For tokenizers that are not byte-level: what each further id adds to the decoded text."""
        spans: list[tuple[int, int]] = []
        before, partial = 0, False
        for i in range(len(ids)):
            known = self.text(ids[: i + 1])
            after = _common_prefix(known, text)
            # The text so far may end in a character that is not complete yet: a U+FFFD that the whole text replaces.
            pending = len(known) > after and known[after:].strip(REPLACEMENT) == ""
            after = max(after, before)
            grew = after > before
            end = after + 1 if pending and after < len(text) else after
            spans.append((before, max(end, before)) if grew or pending or partial else (before, before))
            before, partial = after, pending
        if ids and before != len(text):
            raise ValueError(f"the tokenizer decodes the ids to {text[-40:]!r}, which its pieces do not make up")
        return Offsets(text, tuple(spans))


def token_offsets(ids: Sequence[int], tokenizer: Any, mode: Literal["sampled", "retokenize"] = "sampled") -> Offsets:
    """Offsets of one response; for many, keep a `TokenOffsets`."""
    both = TokenOffsets(tokenizer)
    return both.sampled(ids) if mode == "sampled" else both.retokenised(ids)


def _from_bytes(pieces: Sequence[bytes]) -> Offsets:
    """Character spans of byte pieces, decoded as UTF-8; bytes that are no text become U+FFFD as the decoder makes them.

    A piece that ends inside a character shares it with the next one.
    """
    raw = b"".join(pieces)
    text, owner = _characters(raw)
    spans: list[tuple[int, int]] = []
    at = 0
    for piece in pieces:
        if piece:
            spans.append((owner[at], owner[at + len(piece) - 1] + 1))
            at += len(piece)
        else:
            here = owner[at] if at < len(raw) else len(text)
            spans.append((here, here))
    return Offsets(text, tuple(spans))


def _characters(raw: bytes) -> tuple[str, list[int]]:
    """The text, and for every byte the character it belongs to."""
    if raw.isascii():
        return raw.decode(), list(range(len(raw)))
    characters: list[str] = []
    owner: list[int] = []
    try:
        characters = list(raw.decode())
        sizes = [len(c.encode()) for c in characters]
    except UnicodeDecodeError:
        sizes, at = [], 0
        while at < len(raw):
            character, size = _next_character(raw[at : at + 4])
            characters.append(character)
            sizes.append(size)
            at += size
    for number, size in enumerate(sizes):
        owner += [number] * size
    return "".join(characters), owner


def _next_character(raw: bytes) -> tuple[str, int]:
    """The first character of up to four bytes, and how many it takes; of broken ones the longest run that is one."""
    try:
        character = raw.decode()[0]
    except UnicodeDecodeError as error:
        if error.start == 0:
            return REPLACEMENT, error.end
        character = raw[: error.start].decode()[0]
    return character, len(character.encode())


def _common_prefix(a: str, b: str) -> int:
    shorter = min(len(a), len(b))
    if a[:shorter] == b[:shorter]:
        return shorter
    return next(i for i in range(shorter) if a[i] != b[i])
