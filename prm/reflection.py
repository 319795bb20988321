"""The sentence that is put in where a response was cut: look again, and what was wrong."""

from __future__ import annotations

import re
from collections.abc import Sequence

OPENERS = ("Wait, let me look again:", "Hold on, let me check the image once more:", "Wait, that needs another look:")
_CUES = re.compile(
    r"(?<!\w)(?:not|no|isn't|aren't|doesn't|don't|cannot|can't|never|none|nothing|without|instead|rather|but|however|"
    r"actually|wrong|incorrect|false|contradicts?|inaccurate|mismatch)(?!\w)",
    re.IGNORECASE,
)
_ANSWERS = re.compile(r"(?<!\w)(?:answer|option|choice|correct is|should be)(?!\w)", re.IGNORECASE)
_TAG = re.compile(r"<[^<>]*>")
_WORD = re.compile(r"\w+")


def reflection(claim: str, think: str, opener: str = OPENERS[0], most_words: int = 40) -> str:
    """One line: the opener, and why the claim is wrong, at most `most_words` words.

    The reason is the sentence of the verifier's thoughts that shares most words with the claim and denies or contrasts
    something; sentences that speak of the answer are left out, since a note must not give it away. Without such a
    sentence the claim itself is denied in general words. Tags never enter.
    """
    reason = _evidence(claim, think)
    if reason is None:
        said = _plain(claim).rstrip(".!?;,: ")
        reason = f'the statement "{said}" is not supported by the image.' if said else "something does not match."
    words = f"{opener} {reason}".split()
    return " ".join(words[:most_words])


def _evidence(claim: str, think: str) -> str | None:
    wanted = set(_WORD.findall(claim.casefold()))
    best: tuple[int, str] | None = None
    for sentence in _sentences(think):
        shared = len(wanted & set(_WORD.findall(sentence.casefold())))
        if not _CUES.search(sentence) or _ANSWERS.search(sentence) or 2 * shared < len(wanted) or not shared:
            continue
        if best is None or shared > best[0]:
            best = (shared, sentence)
    return None if best is None else best[1]


def _sentences(text: str) -> Sequence[str]:
    pieces = re.split(r"\n+|(?<=[.!?])\s+", _TAG.sub(" ", text))
    return [plain for piece in pieces if (plain := re.sub(r"^[\s\-*•\d.)]+", "", _plain(piece)))]


def _plain(text: str) -> str:
    return " ".join(_TAG.sub(" ", text).split())
