"""Which option a response chooses: the rules of MMMU, MMMU-Pro, VLMEvalKit and lmms-eval, quirks included."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from mmcredit.answers.extract import boxes

_EDGE = ",.!?;:'"  # stripped one after another, as MMMU does


def unwrapped(response: str) -> str:
    """The content of the last box, or the text without marks of emphasis: what rules written for bare letters miss."""
    found = boxes(response)
    text = found[-1] if found else response
    text = re.sub(r"\\(?:text|mathrm|mathbf|textbf)\s*\{([^{}]*)\}", r"\1", text)
    return re.sub(r"[*`]+", "", text).strip()


def mmmu(response: str, options: Mapping[str, str]) -> str | None:
    """MMMU's `parse_multi_choice_response`; `options` maps letters to texts. None where MMMU draws at random.

    "(X)" anywhere, else " X ", else (more than five words) the text of an option; of several the one whose last
    occurrence comes latest. ``**B**`` and "b" match nothing.
    """
    for sign in _EDGE:
        response = response.strip(sign)
    response = f" {response} "
    return (
        _latest(response, {letter: f"({letter})" for letter in options})
        or _latest(response, {letter: f" {letter} " for letter in options})
        or _by_text(response, options)
    )


def mmmu_pro(response: str, options: Mapping[str, str]) -> str | None:
    """MMMU-Pro's rule: after the last "Answer:" the only option letter that occurs, as a plain substring.

    Else MMMU's rule, with "X " instead of " X " and then "X." as further patterns; of several letters the position of
    " X " decides even so (where that is nowhere, the first letter). "Both" names B.
    """
    _, mark, tail = response.rpartition("Answer:")
    if mark:
        found = [letter for letter in options if letter in tail]
        if len(found) == 1:
            return found[0]
    for sign in _EDGE:
        response = response.strip(sign)
    response = f" {response} "
    letter = _latest(response, {letter: f"({letter})" for letter in options})
    for pattern in ("{} ", "{}."):
        if letter is None:
            seen = [each for each in options if pattern.format(each) in response]
            if seen:
                letter = max(seen, key=lambda each: response.rfind(f" {each} ")) if len(seen) > 1 else seen[0]
    return letter or _by_text(response, options)


def _latest(text: str, patterns: Mapping[str, str]) -> str | None:
    """The letter whose pattern has the latest last occurrence."""
    last = {letter: text.rfind(pattern) for letter, pattern in patterns.items()}
    found = {letter: at for letter, at in last.items() if at >= 0}
    return max(found, key=lambda letter: found[letter]) if found else None


def _by_text(text: str, options: Mapping[str, str]) -> str | None:
    if len(text.split()) <= 5:
        return None
    return _latest(text.lower(), {letter: option.lower() for letter, option in options.items()})


_SPLIT = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
_STATED = re.compile(r"(?:correct )?answer is (?:\*\*)?([A-D])", re.IGNORECASE)


def vlmeval(response: str, options: Mapping[str, str]) -> str | None:
    """VLMEvalKit's `can_infer`; None where it goes on to ask a language model.

    The only option letter among the tokens, if it is one of the last five; else the letter after "answer is", A to D
    in any case and without a word boundary ("the answer is boat" is B); else the only option text in a response that is
    shorter than twice all of them.
    """
    tokens = response.translate(_SPLIT).split()
    found = [letter for letter in options if letter in tokens]
    if len(found) == 1 and tokens.index(found[0]) > len(tokens) - 5:
        return found[0]
    stated = _STATED.search(response)
    if stated and stated.group(1).upper() in options:
        return stated.group(1).upper()
    lowered = response.lower()
    if len(lowered) > 2 * sum(len(text) for text in options.values()):
        return None
    named = [letter for letter, text in options.items() if text.lower() in lowered]
    return named[0] if len(named) == 1 else None


_PHRASE = re.compile(r"(?:answer|option|choice)\s*(?:is|:|=)", re.IGNORECASE)


def lmms(response: str, letters: Sequence[str]) -> str | None:
    """lmms-eval's extraction: the candidate of the highest rank, of equals the latest; None for an empty response.

    Ranks: at the start 10, at the end 9, anywhere after an answer phrase 7, "(X)" 6, "X." 5, "X:" 4, "X)" 3, "X" and a
    blank 2, alone anywhere 0. "After a phrase" is any later letter, so "the answer is B, not A" is A. A candidate
    is a capital that stands alone; the rule this follows leaves that open for the last rank.
    """
    text = response.strip()
    for sign in _EDGE + '"':
        text = text.strip(sign)
    text = text.strip()
    phrase = _PHRASE.search(text)
    best: tuple[int, int, str] | None = None
    for match in re.finditer(r"(?<![A-Za-z0-9])([A-Z])(?![A-Za-z0-9'])", text):
        letter, at, end = match.group(1), match.start(), match.end()
        if letter not in letters:
            continue
        following, before = text[end : end + 1], text[at - 1 : at] if at else ""
        if at == 0:
            rank = 10
        elif end == len(text):
            rank = 9
        elif phrase and at >= phrase.end():
            rank = 7
        elif before == "(" and following == ")":
            rank = 6
        else:
            rank = {".": 5, ":": 4, ")": 3, " ": 2}.get(following, 0)
        if best is None or (rank, at) >= best[:2]:
            best = (rank, at, letter)
    return best[2] if best else None
