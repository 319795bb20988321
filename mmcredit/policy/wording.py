"""Does the model read what the user wrote?"""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmcredit.data.sample import Sample
    from mmcredit.policy.prompt import Prompt


def as_read(prompt: Prompt, tokenizer: Any) -> str:
    """The prompt as the model reads it, special tokens spelled out; runs of visual tokens as `<image: 64 tokens>`."""
    kinds = _kinds(prompt)
    pieces: list[str] = []
    text: list[int] = []
    run = 0
    for token, visual in zip(prompt.tokens.tolist(), prompt.visual.tolist(), strict=True):
        if visual:
            if text:
                pieces.append(tokenizer.decode(text, skip_special_tokens=False))
                text = []
            run += 1
            continue
        if run:
            pieces.append(f"<{kinds}: {run} tokens>")
            run = 0
        text.append(token)
    if run:
        pieces.append(f"<{kinds}: {run} tokens>")
    if text:
        pieces.append(tokenizer.decode(text, skip_special_tokens=False))
    return "".join(pieces)


def text_of(prompt: Prompt, tokenizer: Any) -> str:
    """The text of a prompt, special tokens spelled out, without its visual tokens."""
    return tokenizer.decode(prompt.tokens[~prompt.visual].tolist(), skip_special_tokens=False)


def _kinds(prompt: Prompt) -> str:
    kinds = {m.kind for m in prompt.sample.media} if prompt.sample is not None else set()
    return " or ".join(sorted(kinds)) or "media"


def unread(sample: Sample, prompt: Prompt, tokenizer: Any) -> str | None:
    """The first text of a user or system message that is not in the encoded prompt; None if all of them are.

    White space is not compared, and what the tokenizer itself cannot spell (normal forms, unknown characters) counts
    as read if the text by itself reads back the same way.
    """
    read = _plain(tokenizer.decode(prompt.tokens.tolist(), skip_special_tokens=False))
    for message in sample.messages:
        if message["role"] not in ("user", "system"):
            continue
        content = message["content"]
        texts = [content] if isinstance(content, str) else [p["text"] for p in content if p["type"] == "text"]
        for text in texts:
            if _plain(text) in read:
                continue
            alone = tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"], skip_special_tokens=False)
            if _plain(alone) not in read:
                return text
    return None


def _plain(text: str) -> str:
    return "".join(unicodedata.normalize("NFKC", text).split())
