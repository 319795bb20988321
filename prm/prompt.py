"""What a verifier model is asked. Two layouts: `full` for general models, `short` for small ones trained on it."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any, Literal

from prm.verifier import Query, escape

Layout = Literal["full", "short"]

SYSTEM = """\
You check whether a response to a question about one or more images says anything that the images contradict.

Work in steps.
1. Read the response and break it into statements that the images can confirm or refute: which objects are there, their
colors, numbers, sizes, positions, relations, actions, text, places.
2. Compare every statement with the images. Look closely; do not rely on what is usual or on what the response says.
3. Collect the statements that are clearly wrong: something that is not there, a wrong property, a wrong reading.

Leave alone: style, opinions, reasonable interpretations, conclusions that follow from what was seen, and anything you
cannot decide. Something that the response does not mention is not an error.

Answer in exactly this form:
<think>
Claims identified in the response: ...
Checking each claim against the images: ...
Issues identified: ...
</think>
<answer>["first wrong piece", "second wrong piece"]</answer>

The answer is a Python list of strings. Copy every wrong piece from the response character for character, as short as
it can be (a sentence, a clause or a phrase), in the order of the response. If nothing is wrong, answer
<answer>The response is correct.</answer>"""

_PLACEHOLDER = re.compile(r"(<image>)")


def parts_of(query: Query, layout: Layout) -> tuple[str, list[dict[str, Any]]]:
    """(system text, parts of the user turn): `{"type": "text", "text"}` and `{"type": "image"}` in placeholder order.

    Images without a placeholder of their own come before the text. A literal `<image>` in the response stays text.
    """
    response = escape(query.response)
    if layout == "full":
        before, between = "- Question and visual content: ", "\n- Response to verify: "
    else:
        before, between = "", "\nResponse: "
    pieces = [piece for piece in _PLACEHOLDER.split(query.question) if piece]
    slots = sum(piece == "<image>" for piece in pieces)
    extra = len(query.images) - slots
    if extra < 0:
        raise ValueError(f"the question mentions {slots} images, {len(query.images)} came with it")
    parts: list[dict[str, Any]] = [{"type": "text", "text": before}] if before else []
    parts += [{"type": "image"}] * extra
    for piece in pieces:
        parts.append({"type": "image"} if piece == "<image>" else {"type": "text", "text": piece})
    parts.append({"type": "text", "text": f"{between}{response}"})
    return (SYSTEM if layout == "full" else ""), _joined(parts)


def _joined(parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Neighbouring texts as one part."""
    joined: list[dict[str, Any]] = []
    for part in parts:
        if joined and part["type"] == joined[-1]["type"] == "text":
            joined[-1] = {"type": "text", "text": joined[-1]["text"] + part["text"]}
        else:
            joined.append(dict(part))
    return joined


def prompt_version(layout: Layout) -> str:
    """A short hash of the wording: another wording is another verifier."""
    sample = Query("q <image> a", "r", ())
    text = json.dumps([SYSTEM if layout == "full" else "", sample.question, "1", layout])
    return hashlib.sha256(text.encode()).hexdigest()[:8]
