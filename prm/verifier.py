"""What a verifier is: questions with images and responses in, the substrings that contradict the image out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from mmcredit.data.dropped import UnusableSample
from mmcredit.data.media import content_key
from prm.parse import Verification, failed, parse_verification

if TYPE_CHECKING:
    from mmcredit.data.sample import Media, Sample

IMAGE_TAG = "<image>"


@dataclass(frozen=True)
class Query:
    """One response to verify. `meta` is what is known of the sample (a scene graph); only oracles read it."""

    question: str  # the user's turns, with <image> where an image stands
    response: str
    images: tuple[Media, ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)
    sample_id: str = ""
    attempt: int = 0  # a repeated question: other seed, other cache entry

    def key(self, version: str) -> str:
        """A hash of all that decides the answer: image contents, question, response, verifier version.

        Raises ValueError (UnusableSample) if an image cannot be read.
        """
        images = [content_key(image) for image in self.images]
        meta = json.dumps(self.meta, sort_keys=True, default=str) if not images else ""
        text = json.dumps([version, images, self.question, self.response, self.attempt, meta])
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def query_of(sample: Sample, response: str, attempt: int = 0) -> Query:
    """The query of a sample and one response to it."""
    turns = [message for message in sample.messages if message["role"] == "user"]
    question = "\n".join(_text(message["content"]) for message in turns)
    return Query(question, response, sample.media, sample.meta, sample.id, attempt)


def _text(content: Any) -> str:
    """Text of a message; a literal tag in it is no image and is written otherwise (`escape`)."""
    if isinstance(content, str):
        return escape(content)
    parts = []
    for part in content:
        parts.append(escape(part["text"]) if part["type"] == "text" else f"<{part['type']}>")
    return "".join(parts)


def escape(text: str) -> str:
    """Text in which `<image>` and `<video>` are words and stand for no medium."""
    return text.replace("<image>", "< image >").replace("<video>", "< video >")


class Verifier(Protocol):
    """A backend. `version` names the verifier and everything that changes its answers (model, prompt, decoding)."""

    version: str

    def verify(self, queries: Sequence[Query]) -> list[Verification]:
        """One verification per query, in order. Never raises for a single query: that is a status (`prm_error`)."""
        ...

    def close(self) -> None:
        """Free what the backend holds."""
        ...


class ScriptedVerifier:
    """Answers from a function or from a list of outputs, in turn; for tests and rehearsals."""

    def __init__(self, script: Callable[[Query], str | Verification] | Sequence[str | Verification]) -> None:
        self.version = "scripted"
        self.script = script if callable(script) else None
        self.outputs = [] if callable(script) else list(script)
        self.asked: list[Query] = []

    def verify(self, queries: Sequence[Query]) -> list[Verification]:
        """The script's answers, parsed where they are raw output."""
        found = []
        for query in queries:
            self.asked.append(query)
            if self.script is None and not self.outputs:
                raise ValueError(f"the script has no answer left for query {len(self.asked)}")
            said = self.script(query) if self.script is not None else self.outputs.pop(0)
            found.append(parse_verification(said) if isinstance(said, str) else said)
        return found

    def close(self) -> None:
        """Nothing is held."""


def sound_queries(queries: Sequence[Query]) -> tuple[list[int], list[Verification | None]]:
    """Which queries are worth a call, and the verifications of those that are not.

    An empty response holds no claim (clean, nothing is asked); an image that cannot be read is an error.
    """
    asked: list[int] = []
    known: list[Verification | None] = [None] * len(queries)
    for i, query in enumerate(queries):
        if not query.response.strip():
            known[i] = Verification(usage={"empty_responses": 1.0})
            continue
        try:
            for image in query.images:
                content_key(image)
        except UnusableSample as error:
            known[i] = failed(f"image: {error}")
            continue
        asked.append(i)
    return asked, known
