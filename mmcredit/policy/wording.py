"""Prompts as text, for people and for what looks for words in them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
