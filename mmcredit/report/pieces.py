"""The text of single tokens, fragments of a character included."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmcredit.policy.tokenisation import is_byte_level, symbol_bytes


def token_pieces(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """The decoded text of each token, special tokens included; joined they give the text.

    A token of a byte-level vocabulary may hold part of a character: its bytes are then written ``<0xE2><0x96>``, as
    SentencePiece does, since half a character has no text. Other vocabularies: the tokenizer's own decoding.
    """
    special = set(getattr(tokenizer, "all_special_ids", ()))
    added = getattr(tokenizer, "added_tokens_decoder", {})
    byte_level = is_byte_level(tokenizer)
    pieces: list[str] = []
    for token_id, symbol in zip(ids, tokenizer.convert_ids_to_tokens(list(ids)), strict=True):
        if symbol is None:
            pieces.append(f"<id {token_id}>")
        elif token_id in special or token_id in added:
            pieces.append(str(symbol))
        elif byte_level:
            pieces.append(_decode(symbol))
        else:
            pieces.append(tokenizer.decode([token_id], skip_special_tokens=False, clean_up_tokenization_spaces=False))
    return pieces


def _decode(symbol: str) -> str:
    table = symbol_bytes()
    if any(character not in table for character in symbol):
        return symbol
    raw = bytes(table[character] for character in symbol)
    text = ""
    while raw:
        try:
            return text + raw.decode("utf-8")
        except UnicodeDecodeError as error:
            stop = max(error.end, error.start + 1)
            text += raw[: error.start].decode("utf-8") + "".join(f"<0x{byte:02X}>" for byte in raw[error.start : stop])
            raw = raw[stop:]
    return text
