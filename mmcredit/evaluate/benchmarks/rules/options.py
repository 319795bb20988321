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
_STATED = re.compile(r"(?:correct\s+)?answer\s+is\s+\**([A-D])", re.IGNORECASE)
REFUSED = "Z"  # none of the options
_REFUSALS = (
    *("Sorry, I can't help with images of people yet.", "I can't process this file."),
    *("I'm sorry, but without the image provided", "Cannot determine the answer"),
)
_NO_REPLY = "Failed to obtain answer via API"


def vlmeval(response: str, options: Mapping[str, str]) -> str | None:
    """VLMEvalKit's `can_infer`: a letter, "Z" for a refusal, None where it goes on to ask a language model.

    One of four sentences of refusal is Z. Else the only option letter among the tokens, if it is one of the last five;
    Z if that is a token and no letter is; the letter after "answer is", A to D in any case and without a word boundary
    ("the answer is boat" is B); the only option text in a response that is not longer than twice all of them.
    """
    return _by_letter(response, options) or _by_only_text(response, options)


def _by_letter(response: str, options: Mapping[str, str]) -> str | None:
    if _NO_REPLY in response:
        return None
    if any(sentence in response for sentence in _REFUSALS):
        return REFUSED
    tokens = response.translate(_SPLIT).split()
    found = [letter for letter in options if letter in tokens]
    if len(found) == 1 and tokens.index(found[0]) > len(tokens) - 5:
        return found[0]
    if not found and REFUSED in tokens:
        return REFUSED
    stated = _STATED.search(response)
    letter = stated.group(1).upper() if stated else None
    return letter if letter in options else None


def _by_only_text(response: str, options: Mapping[str, str]) -> str | None:
    lowered = response.lower()
    if len(lowered) > 2 * sum(len(text) for text in options.values()):
        return None
    named = [letter for letter, text in options.items() if text.lower() in lowered]
    return named[0] if len(named) == 1 else None


_RANKED = (("({})", 6), ("{}.", 5), ("{}:", 4), ("{})", 3), ("{} ", 2))
_START, _END, _AFTER_PHRASE, _ANYWHERE = 10, 9, 7, 0
_PHRASES = (
    *(f"{before}{word} is" for word in ("answer", "correct answer", "best answer") for before in ("", "the ")),
    *(f"{before}{word} is" for word in ("correct option", "best option") for before in ("", "the ")),
    *(f"{before}{word} is" for word in ("choice", "correct choice") for before in ("", "the ")),
    *("i choose", "i select", "i pick", "my answer is", "my choice is"),
    *("옵션", "정답은", "답은", "답:", "答案是", "答案为", "选", "答えは"),
)


def lmms(response: str, letters: Sequence[str]) -> str | None:
    """lmms-eval's `extract_mcq_answer`: the candidate of the highest rank, of equals the latest; None for none.

    Ranks: at the start 10, at the end 9, after an answer phrase 7, "(X)" 6, "X." 5, "X:" 4, "X)" 3, "X" and a blank 2,
    and only where none of these is found, anywhere 0. Below 9 a letter need not stand alone: "USA." is A by its full
    stop, "CC" is C. "After a phrase" is the first occurrence of each letter behind it, and the latest of these counts,
    so "the answer is B, not A" is A.
    """
    text = response.strip()
    for sign in _EDGE + '"':
        text = text.strip(sign)
    bare = text.strip()
    text = f" {text} "
    lowered = text.lower()
    found: list[tuple[int, int, str]] = []  # (rank, place, letter)
    for pattern, rank in _RANKED:
        found += [(rank, text.rfind(pattern.format(letter)), letter) for letter in letters]
    for phrase in _PHRASES:
        at = lowered.find(phrase)
        if at >= 0:
            found += [(_AFTER_PHRASE, text.find(letter, at + len(phrase)), letter) for letter in letters]
    for letter in letters:
        if bare.startswith(letter) and not bare[1:2].isalpha():
            found.append((_START, 0, letter))
        if bare.endswith(letter) and not bare[-2:-1].isalpha():
            found.append((_END, len(text) - 1, letter))
    found = [each for each in found if each[1] >= 0]
    if not found:
        found = [(_ANYWHERE, text.rfind(letter), letter) for letter in letters if letter in text]
    return max(found, key=lambda each: each[:2])[2] if found else None
