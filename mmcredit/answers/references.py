r"""The accepted answers of an item, taken out of the wrapping in which data sets store them."""

from __future__ import annotations

import re

from mmcredit.answers.extract import Extraction, after_thoughts, box_spans, extract, last_tag
from mmcredit.answers.item import RewardItem

ANSWERS_KEY = "answers"

_HASHES = re.compile(r"####(?!#)[ \t]*([^\n]*)\Z")
_PLACEHOLDERS = frozenset({"", "...", "…", r"\ldots", r"\dots", "answer", "your answer", "final answer", "the answer"})
_SAYS = re.compile(
    r"(?:=|:|\b(?:is|are|was|be|equals|get|have|obtain|answer|therefore|thus|so|hence))\s*[$(\\[{]*\s*\Z"
)
_MARKUP = re.compile(r"\\(?:text|mathrm|mathbf|textbf)\s*\{\s*\Z|[$*\s]|\\[()\[\],;!]|\\(?:displaystyle|quad)")


def references(item: RewardItem, key: str = ANSWERS_KEY, tag: str = "answer") -> list[str]:
    """The accepted answers: `item.answer` and the list ``item.meta[key]``, unwrapped, without blanks and repetitions.

    None, an empty text and white space are no answer. An empty result means that the reward is not applicable. Raises
    ValueError if ``meta[key]`` is not a list of texts and numbers (None in it is left out).
    """
    more = item.meta.get(key)
    if more is not None and not isinstance(more, list | tuple):
        raise ValueError(f"accepted answers (meta[{key!r}]) must be a list of strings or numbers, got {more!r}")
    found: dict[str, None] = {}
    for each in (item.answer, *(more or ())):
        if each is not None and not isinstance(each, str | int | float):
            raise ValueError(f"accepted answers (meta[{key!r}]) must be a list of strings or numbers, got {more!r}")
        text = "" if each is None else unwrapped(str(each), tag)
        if text.strip():
            found.setdefault(text)
    return list(found)


def answer_in(response: str, how: Extraction, tag: str = "answer") -> str | None:
    r"""The answer of a response: what `extract` finds, and out of it once more where that is nothing but a wrapping.

    ``<answer>\boxed{red}</answer>`` says red under `tag` and under `boxed`. With `whole` the response stays as it is.
    """
    found = extract(response, how, tag)
    return found if found is None or how == "whole" else bare(found, tag)


def unwrapped(reference: str, tag: str = "answer") -> str:
    r"""The final answer of a reference that is stored wrapped; any other text as it is.

    By the rules for responses the last of these counts, where the text is plainly made of it:

    - what follows ``</think>``;
    - ``<answer>...</answer>`` (also under the reward's own tag name) that ends the text;
    - ``\boxed{...}``, complete, not blank and no placeholder, that ends a sentence or a line or follows "is", "=" and
      the like: a worked solution. "Write \boxed{x} around it" stays;
    - ``#### 26`` (GSM8K) as the last line, or at its end before a number. Thousands commas are taken out of a number.
    """
    text = reference
    for _ in range(4):  # wrappings stand in wrappings: <answer>\boxed{5}</answer>
        inner = _once(text, tag)
        if inner is None:
            return text
        text = inner
    return text


def bare(text: str, tag: str = "answer") -> str:
    """The content of a text that is nothing but a box or a tag pair, dollars and white space aside; else the text."""
    for _ in range(4):
        inner = next((each for each in (_only_tag(text, tag), _only_box(text)) if each is not None), None)
        if inner is None:
            return text
        text = inner
    return text


def _once(text: str, tag: str) -> str | None:
    """The text without its outermost wrapping; None if it has none."""
    behind = after_thoughts(text)
    if behind != text and behind.strip():
        return behind.strip()
    for name in dict.fromkeys((tag, "answer")):
        if text.rstrip().casefold().endswith(f"</{name}>".casefold()):
            return last_tag(text, name)
    hashes = _HASHES.search(text.rstrip())
    if hashes is not None:
        tail = hashes.group(1).strip()
        own_line = not text[: hashes.start()].rpartition("\n")[2].strip()
        if tail and (own_line or re.match(r"[-+$\\(\[{. ]{0,8}\d", tail)):
            return re.sub(r"(?<=\d),(?=\d{3})", "", tail)
    return _solution_box(text)


def _only_tag(text: str, tag: str) -> str | None:
    stripped = text.strip()
    opened, closed = f"<{tag}>".casefold(), f"</{tag}>".casefold()
    if stripped[: len(opened)].casefold() == opened and stripped[-len(closed) :].casefold() == closed:
        return last_tag(stripped, tag)
    return None


def _only_box(text: str) -> str | None:
    found = _placed(text)
    if found is None:
        return None
    before, content, after = found
    return content if not _MARKUP.sub("", before) and not _MARKUP.sub("", after).strip(".") else None


def _placed(text: str) -> tuple[str, str, str] | None:
    """What stands before, in and after the last complete box."""
    spans = box_spans(text) if "box" in text else []
    if not spans:
        return None
    macro, start, end = spans[-1]
    return text[:macro], text[start:end].strip(), text[end + 1 :]


def _solution_box(text: str) -> str | None:
    found = _placed(text)
    if found is None or found[1].casefold() in _PLACEHOLDERS:
        return None
    before, content, after = found
    following = after.lstrip("$*) \t}").removeprefix("\\)").removeprefix("\\]").lstrip("$* \t")
    ends = (
        not following or following[0] in "\n.,;:!?。" or following.startswith(("\\\\", "\\text", "\\;", "\\,", "\\ "))
    )
    alone = not before.strip(" \t$*")
    worked = "\n" in text.strip() or _SAYS.search(_MARKUP.sub(" ", before[-40:])) is not None
    return content if ends or worked or alone else None
