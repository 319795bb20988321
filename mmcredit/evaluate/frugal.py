"""Prompts with their least telling words left out: a stress test, the text side of corrupted images.

FrugalPrompt (arXiv 2510.16439) keeps the k % most salient words of a prompt to save tokens, which ruins mathematics
(GSM8K .772 -> .264 at 60 %). So it is no saving here but a test of how much an answer rests on each word: numbers,
operators and options are protected.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmcredit.data.sample import Sample

Protect = Callable[[str], bool]

# Digits; operators and relations; single capitals and (A) of options; anything with a special placeholder in it.
_PROTECTED = re.compile(r"\d|[+\-*/=<>^%×÷≤≥√]|\\[a-zA-Z]|^[(\[]?[A-Z][)\].:]?$|<[^>]+>|\$")


def is_protected(word: str) -> bool:
    """Whether a word must stay: it has a digit, an operator, LaTeX or a placeholder in it, or names an option."""
    return _PROTECTED.search(word) is not None


def prompt_filter(
    words: Sequence[str], scores: Sequence[float], keep: float, protect: Protect | None = None
) -> list[str]:
    """The round(n keep) words of the highest scores, in their order; of equal scores the earlier first.

    Rounding is Python's (half to even). With `protect` its words stay as well, inside the count where there is room and
    beyond it where there is not. Raises ValueError for counts that differ or a `keep` outside (0, 1].
    """
    if len(words) != len(scores):
        raise ValueError(f"{len(words)} words have {len(scores)} scores")
    if not 0 < keep <= 1:
        raise ValueError(f"keep must lie in (0, 1], got {keep} (--frugal)")
    count = round(len(words) * keep)
    fixed = [] if protect is None else [i for i, word in enumerate(words) if protect(word)]
    rest = sorted(set(range(len(words))) - set(fixed), key=lambda i: (-scores[i], i))
    kept = {*fixed, *rest[: max(0, count - len(fixed))]}
    return [words[i] for i in sorted(kept)]


def min_max(scores: Sequence[float]) -> list[float]:
    """Scores in [0, 1]; equal ones all 1 (nothing tells them apart)."""
    low, high = min(scores, default=0.0), max(scores, default=0.0)
    return [(s - low) / (high - low) if high > low else 1.0 for s in scores]


def rarity(texts: Iterable[str]) -> Callable[[str], float]:
    """A salience without a model: 1 / (how often a word, in lower case, stands in all questions). Ours; the paper's
    attributions (DecompX, GlobEnc) need a classifier of their own."""
    counts = Counter(word.lower().strip(".,;:?!") for text in texts for word in text.split())
    return lambda word: 1.0 / max(1, counts[word.lower().strip(".,;:?!")])


def shortened(text: str, keep: float, salience: Callable[[str], float], protect: Protect = is_protected) -> str:
    """The text with its least salient words left out; line breaks stay."""
    if keep == 1:
        return text
    lines = text.split("\n")
    words = [word for line in lines for word in line.split()]
    kept = _kept([salience(word) for word in words], words, keep, protect)
    out, at = [], 0
    for line in lines:
        own = line.split()
        out.append(" ".join(w for i, w in enumerate(own) if at + i in kept))
        at += len(own)
    return "\n".join(out)


def _kept(scores: Sequence[float], words: Sequence[str], keep: float, protect: Protect) -> set[int]:
    numbered = prompt_filter([str(i) for i in range(len(words))], scores, keep, lambda i: protect(words[int(i)]))
    return {int(i) for i in numbered}


def frugal(sample: Sample, keep: float, salience: Callable[[str], float]) -> Sample:
    """The sample with its last user text shortened; other turns and all media stay."""
    messages: list[dict[str, Any]] = [dict(message) for message in sample.messages]
    at = max((i for i, m in enumerate(messages) if m["role"] == "user"), default=None)
    if at is None:
        return sample
    content = messages[at]["content"]
    if isinstance(content, str):
        messages[at]["content"] = shortened(content, keep, salience)
    else:
        messages[at]["content"] = [
            {**part, "text": shortened(part["text"], keep, salience)} if part["type"] == "text" else part
            for part in content
        ]
    return replace(sample, messages=tuple(messages))
