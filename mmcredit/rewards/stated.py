r"""What a response states as its answer, where that is more than one box or no box at all."""

from __future__ import annotations

import itertools
import re

from mmcredit.answers.extract import box_spans, last_boxed, last_tag

_NAME = r"[A-Za-z](?:_\{?\w\}?)?\s*=\s*"
_BETWEEN = re.compile(
    rf"(?:[\s$,;&]|\\[,;:! ()\[\]]|\\q?quad(?![A-Za-z])|\\text\s*\{{\s*,?\s*(?:and|or)\s*\}}|(?:and|or)\b|{_NAME})*"
)
_PARTS = re.compile(r"[,;&]|and|or")
_NAMED = re.compile(rf"({_NAME})[\s$]*\Z")
Span = tuple[int, int, int, int]  # begin, begin of the content, end of the content, end


def boxed_together(text: str) -> str | None:
    r"""The last boxes of a text as one answer, if they are parts of one: ``\boxed{1} or \boxed{2}`` says "1 or 2".

    Boxes belong together if nothing but commas, "and", "or", dollars and "x =" stands between them. None for a single
    box, so that of ``First \boxed{1}. No: \boxed{2}`` the last one counts.
    """
    if text.count("box") < 2:
        return None
    return _together(text, [(macro, start, end, end + 1) for macro, start, end in box_spans(text)])


def _together(text: str, spans: list[Span]) -> str | None:
    run = spans[-1:]
    for span in reversed(spans[:-1]):
        between = text[span[3] : run[0][0]]
        if span[3] > run[0][0] or len(between) > 40:
            break
        if not _BETWEEN.fullmatch(between) or not _PARTS.search(re.sub(_NAME, "", between)):
            break
        run.insert(0, span)
    if len(run) < 2:
        return None
    contents = [text[start:end].strip() for _, start, end, _ in run]
    if len(set(contents)) == 1:
        return contents[0]
    names = [_NAMED.search(text[max(0, begin - 20) : begin]) for begin, *_ in run]
    if all(names):
        contents = [name[1] + content for name, content in zip(names, contents, strict=True) if name]
    ways = {_PARTS.search(re.sub(_NAME, "", text[a[3] : b[0]])) for a, b in itertools.pairwise(run)}
    return (" or " if any(way and way[0] == "or" for way in ways) else ", ").join(contents)


_SAYS = re.compile(
    r"\b(?:answer|result|solution|antwort|ergebnis|lösung|respuesta|resultado|réponse|résultat|resposta|risposta)\b"
    r"[*_]*\s*(?:(?:is|are|ist|es|est|é|è)\b|[:=])+[*_]*\s*(?::\s*)?|(?:答案|结果)\s*(?:是|为|[:：])+\s*",
    re.IGNORECASE,
)
_REASON = re.compile(r"\s*[,(]?\s*\b(?:because|since|which (?:is|means)|not)\b.*", re.DOTALL)  # "5, because 2+3=5"
_FORMULA = re.compile(r"\$\$?([^$]+)\$\$?|\\\((.+?)\\\)|\\\[(.+?)\\\]")
_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:\s*/\s*\d+)?\s*%?")
_SENTENCE = re.compile(r"\.(?:\s|$)|\n")


def stated(response: str, tag: str = "answer") -> str | None:
    """What a response without a wanted format states last; None if it states nothing."""
    wrapped = (boxed_together(response) or last_boxed(response)) if "box" in response else None
    wrapped = wrapped if wrapped is not None else last_tag(response, tag)
    if wrapped is not None:
        return wrapped
    text = response.strip()
    said = list(_SAYS.finditer(text))
    if said:
        rest = text[said[-1].end() :]
        end = _SENTENCE.search(rest)
        rest = rest[: end.start()] if end is not None else rest
        return _REASON.sub("", rest) if re.search(r"\w", _REASON.sub("", rest)) else rest
    lines = [line.strip() for line in text.splitlines() if line.strip(" \t`")]
    if not lines:
        return None
    if lines[-1].startswith("####"):  # GSM8K
        return lines[-1].strip("# ")
    formulas = list(_FORMULA.finditer(lines[-1]))
    if formulas:
        places = [next((m.start(), m.start(g), m.end(g), m.end()) for g in (1, 2, 3) if m[g]) for m in formulas]
        return _together(lines[-1], places) or lines[-1][places[-1][1] : places[-1][2]]
    if len(lines) == 1 and len(lines[0]) <= 60 and len(lines[0].split()) <= 8:
        return lines[0]
    numbers = _NUMBER.findall(lines[-1])
    return numbers[-1] if numbers else None
