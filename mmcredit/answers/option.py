"""Which option of a multiple-choice question a text decides for: pure functions of text, linear in its length."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from mmcredit.answers.plain import visible, without_html

_WRAPPER = re.compile(r"\\(?:boxed|text|textbf|mathrm|mathbf|fbox)\s*\{([^{}]*)\}")
_MARKUP = str.maketrans({**dict.fromkeys('*`$_"“”«»', ""), "’": "'", "‘": "'"})
# What may follow "A" if it is the option and not the article: "the answer is A because", but "the answer is A dog".
_AFTER_A = re.compile(
    r"(?!\s+(?!(?:because|since|as|for|given|due|based|which|and|or|but|with|is|isn't|so|from|not|was|seems?|looks?|are|"
    r"nor|would|must|can|cannot|can't|could|couldn't)\b)[a-z])"
)
_STRUCK = re.compile(r"~~[^~\n]{1,200}~~")
_QUOTED = re.compile(r"^[ \t]*>[ \t]+", re.MULTILINE)
_TICKED = re.compile(r"[)\]]?\s*[.:]?\s*[✅✓✔☑]")
_CROSSED = re.compile(r"[)\]]?\s*[.:]?\s*[❌✗✘✖]")
# "A. Incorrect B. Correct C. Incorrect": verdicts only where three letters have one, since an option may read so.
_VERDICT = re.compile(
    r"[)\]]?\s*[.:]?\s*(?:(correct)|incorrect|wrong)\b(?=\s*(?:[.,;(!\n]|\Z|[(\[]?[A-Z][)\].:]))", re.IGNORECASE
)
_BE = r"(?:is|are|was|were|seems?|looks?|sounds?|would be|must be|should be|has to be)"
_ADVERB = r"(?:(?:also|clearly|definitely|obviously|both|all|therefore|thus|indeed|actually|too|to be)\s+)*"
_FALSE = r"(?:not\b(?!\s+only)|wrong|incorrect|false|untrue|invalid|impossible|out\b|ruled out|eliminated|excluded)"
_NEAR = 60  # characters before and after a letter that are looked at
_DENIED_BEFORE = re.compile(
    r"\b(?:not|neither|nor|isn't|aren't|wasn't|can't|cannot|couldn't|rather than|instead of|except|unlike|"
    r"rul(?:es?|ed|ing) out|eliminat(?:es?|ed|ing)|exclud(?:es?|ed|ing)|discard(?:s|ed|ing)?|reject(?:s|ed|ing)?)\s+"
    r"(?:be\s+)?(?:the\s+)?(?:(?:answer|option|choice|letter)s?\s+)?[(\[]?\Z",
    re.IGNORECASE,
)
_DENIED_AFTER = re.compile(
    rf"[)\]]?\s*(?:if\b|{_BE}\s+{_ADVERB}{_FALSE}|(?:isn't|aren't|wasn't|can't|cannot|couldn't|doesn't|does not|"
    r"don't|do not|won't|fails)\b)",
    re.IGNORECASE,
)
_STATED_BEFORE = re.compile(
    r"(?:\b(?:answer|choose|chose|pick|select|go(?:ing)? with|opt for|respuesta|réponse|antwort|ответ)"
    r"|\b(?:option|choice)(?=\s*(?:is|was|should|would|must|[:=])[^a-z])|答案|故选|选择?)\s*"
    r"(?:(?:is|was|should be|would be|must be|es|est|ist|option|choice|letter|the|be|correct|是|为|[:=]|→|->|=>)\s*)"
    r"{0,5}[(\[]?\s*\Z",
    re.IGNORECASE,
)
_CONCLUDED_BEFORE = re.compile(
    r"(?:\b(?:so|hence|thus|therefore|it's|it is|that is|must be)\b[,:]?|=>|→|⇒)\s*(?:the\s+)?"
    r"(?:(?:answer|option|choice)\s+)?[(\[]?\s*\Z",
    re.IGNORECASE,
)
_ENDS = re.compile(r"[)\]]?\s*(?:[.!;]|\n|\Z)")
_AFFIRMED_AFTER = re.compile(
    rf"[)\]]?\s*(?:(?:remains|fits|matches|works)\b|it is\s*(?:[.!]|\Z)|"
    rf"{_BE}\s+{_ADVERB}(?:the\s+)?(?:(?:only|most|final|best|single)\s+)*"
    r"(?:correct|answer|accurate|appropriate|true|(?:right|best)(?=\s*(?:[.,;!)]|\Z|because|since|as\b|answer|choice|option|"
    r"one|match|fit))|(?:choice|option|match|fit)\b))",
    re.IGNORECASE,
)
_NAMED_BEFORE = re.compile(r"\b(?:option|choice)\s*:?\s*[(\[]?\s*\Z", re.IGNORECASE)
_JOINED = re.compile(
    r"[)\]]?\s*(?:[.,;]?\s*(?:or|and|nor|/|&|,)\s*(?:or\s+|and\s+)?)(?:(?:option|choice|answer)\s+)?[(\[]?\s*"
)
_ASKED = re.compile(r"[)\]]?\s*\?")  # "Is it B?"
# "(B) green or (C) blue": what stands between is the text of an option, no reason.
_OR_ANOTHER = re.compile(
    r"(?!.*\b(?:because|since|as|than|not|which|with|where|whether|either)\b)"
    r"[^.;:?!\n]{1,60}\bor\s+(?:option\s+)?[(\[]?\s*"
)
_GOES_ON = re.compile(
    r"[)\]]?\s+(?:is|are|was|were|would|could|can|cannot|has|have|does|shows?|seems?|looks?)\b", re.IGNORECASE
)


_PRONOUN = re.compile(r"\s+[a-z]")
_SMALL_ENDS = re.compile(r"\s*[.!;\n]|\s+(?:because|since)\b")
_LABEL = re.compile(r"[.):](?:\s|\Z)")
_FRONT = re.compile(r"\s*(?:\n|\Z|[-–—]\s+[a-z]|,\s*(?:because|since|as)\b)")  # "C\n\nExplanation", "C - because"
# A letter that names something else: "point C", "A = 12".
_SYMBOL_BEFORE = re.compile(
    r"(?:\b(?:figure|image|point|vertex|line|segment|angle|triangle|circle|side|vitamin|team|group|class|type|plan|set|city|"
    r"person|box|block|object|region|area|node|let)\s+|[∠△=+<>^/*\\]\s*)\Z",
    re.IGNORECASE,
)
_SYMBOL_AFTER = re.compile(r"\s*[=+<>^/*\\]")


@dataclass
class _Mention:
    """A letter that may name an option, and what is said of it."""

    letter: str
    start: int
    end: int
    bracketed: bool
    lower: bool
    alone: bool  # it names nothing else: not "C lies on AB", "point C", "C = 3"
    strength: int = 0  # 2 decided for, 1 called an option, 0 named, -1 denied


def option_letter(text: str, letters: str = "ABCDEFGHIJ") -> str | None:
    """The option a text decides for, as an upper-case letter, or None if there is none or more than one.

    In this order: the whole text, or its last line, is one option ("B", "(b)", "**B**", ``\\text{B}``); the last
    statement ("the answer is (B)", "I choose B", "B is correct", "so B."; also a label at the very front, "B. red"),
    unless it goes on with "or C"; the only one called "option B"; the only letter in brackets; the only capital that
    stands alone. A letter that the text denies ("not B", "option A is wrong", "neither A nor B") is never decided for.
    A text that names several options without deciding gives None, so that listing all of them earns nothing.
    """
    text = unicodedata.normalize("NFKC", without_html(visible(text)))
    text = _STRUCK.sub(" ", _QUOTED.sub("", re.sub(r"\\[()\[\]]", " ", text)))
    for _ in range(3):  # \boxed{\text{B}} and the like, from the inside out
        text, changed = _WRAPPER.subn(r" \1 ", text)
        if not changed:
            break
    text = re.sub(r"</?[A-Za-z]\w+>", " ", text).translate(_MARKUP).strip(" \t\r\n'")
    text = re.sub(rf"(?<!\w)'([{letters}])'(?!\w)", r"\1", text)
    text = re.sub(rf"<([{letters}])>", r"(\1)", text)
    only = re.compile(rf"[(\[<]?([{letters.upper()}{letters.lower()}])[)\]>]?[.,:;!?。]?")
    for part in (text, text.rpartition("\n")[2].strip(" \t'")):
        whole = only.fullmatch(part)
        if whole:
            return whole[1].upper()
    mentions = _mentions(text, letters)
    _judge(text, mentions)
    decided = [m for m in mentions if m.strength == 2]
    if decided:
        return _unhedged(text, decided[-1], mentions)
    denied = {m.letter for m in mentions if m.strength == -1}  # "B or not B"
    for kept in (
        [m for m in mentions if m.strength == 1],
        [m for m in mentions if m.bracketed and m.strength >= 0],
        [m for m in mentions if not m.bracketed and not m.lower and m.alone and m.strength >= 0],
    ):
        found = {m.letter for m in kept if m.strength > 0 or m.letter not in denied}
        if found:
            return found.pop() if len(found) == 1 else None
    return None


def _mentions(text: str, letters: str) -> list[_Mention]:
    """Letters in brackets, capitals that stand alone (not the article "A", not the pronoun "I"), and small letters
    that end a statement ("the answer is b.")."""
    either = letters.upper() + letters.lower()
    edge = "A-Za-z0-9À-ɏͰ-ϿЀ-ӿ'-"
    pattern = re.compile(rf"[(\[]\s*([{either}])\s*[)\]]|(?<![{edge}])([{either}])(?![{edge}])")
    found = []
    for match in pattern.finditer(text):
        letter = match[1] or match[2]
        alone = _AFTER_A.match(text, match.end()) is not None
        symbol = (
            _SYMBOL_AFTER.match(text, match.end(), match.end() + _NEAR)
            or _SYMBOL_BEFORE.search(text, max(0, match.start() - _NEAR), match.start())
        ) is not None
        if match[2]:
            if letter == "A" and not alone:
                continue
            if letter == "I" and _PRONOUN.match(text, match.end()):
                continue
            if letter.islower() and not _small(text, match.start(), match.end()):
                continue
        found.append(
            _Mention(letter.upper(), match.start(), match.end(), bool(match[1]), letter.islower(), alone and not symbol)
        )
    return found


def _small(text: str, start: int, end: int) -> bool:
    """Whether a bare small letter is the end of a statement."""
    stops = _SMALL_ENDS.match(text, end) or (text[start] != "a" and end == len(text))
    before = (text, max(0, start - _NEAR), start)
    return bool(stops) and (_STATED_BEFORE.search(*before) or _NAMED_BEFORE.search(*before)) is not None


def _judge(text: str, mentions: Sequence[_Mention]) -> None:
    """Set what is said of each mention."""
    listed = len({m.letter for m in mentions if _VERDICT.match(text, m.end, m.end + _NEAR)}) > 2
    for each in mentions:
        before = (text, max(0, each.start - _NEAR), each.start)
        after = (text, each.end, each.end + _NEAR)
        verdict = _VERDICT.match(*after) if listed else None
        wrong = _CROSSED.match(*after) or (verdict and not verdict[1])
        if _DENIED_BEFORE.search(*before) or _DENIED_AFTER.match(*after) or wrong:
            each.strength = -1
        elif (
            _STATED_BEFORE.search(*before)
            or _AFFIRMED_AFTER.match(*after)
            or (_CONCLUDED_BEFORE.search(*before) and _ENDS.match(*after))
        ):
            each.strength = 2
        elif _NAMED_BEFORE.search(*before) or _TICKED.match(*after) or verdict:
            each.strength = 1
        elif _ASKED.match(*after):
            each.strength = -1
    for left, right in pairwise(mentions):  # "neither A nor B", "not A or B"
        if left.strength == -1 and right.strength != 2 and _joined(text, left, right, commas=False):
            right.strength = -1
    for left, right in reversed(list(pairwise(mentions))):  # "A, B and D are wrong"
        denied = right.strength == -1 and _DENIED_AFTER.match(text, right.end, right.end + _NEAR)
        chained = right.strength == -1 and left.strength in (0, 1)
        if (denied or chained) and left.strength in (0, 1) and _joined(text, left, right, commas=True):
            left.strength = -1
    _front_label(text, mentions)


def _joined(text: str, left: _Mention, right: _Mention, *, commas: bool) -> bool:
    joint = _JOINED.match(text, left.end, left.end + _NEAR)
    return joint is not None and joint.end() == right.start and (commas or "," not in joint.group())


def _front_label(text: str, mentions: Sequence[_Mention]) -> None:
    """ "B. red" or "(b) red" at the very front decides, unless other labels follow: then it is a list of options."""
    if not mentions or mentions[0].start > 0 or mentions[0].strength != 0:
        return
    if not mentions[0].bracketed and not mentions[0].lower and _FRONT.match(text, mentions[0].end):
        mentions[0].strength = 2
        return
    labelled = [m for m in mentions if _is_label(text, m)]
    if labelled[:1] == [mentions[0]] and {m.letter for m in labelled} == {mentions[0].letter}:
        mentions[0].strength = 2


def _is_label(text: str, each: _Mention) -> bool:
    if each.bracketed:
        return True
    return not each.lower and _LABEL.match(text, each.end) is not None


def _unhedged(text: str, chosen: _Mention, mentions: Sequence[_Mention]) -> str | None:
    """The letter of the last statement, unless it goes on with another one: "A or B", "A, B, C"."""
    follows = next((m for m in mentions if m.start >= chosen.end), None)
    hedge = _JOINED.match(text, chosen.end, chosen.end + _NEAR)
    if (
        follows is not None
        and follows.letter != chosen.letter
        and follows.strength != -1
        and follows.start - chosen.end <= _NEAR
        and _OR_ANOTHER.fullmatch(text, chosen.end, follows.start)
    ):
        return None
    if follows is None or hedge is None or hedge.end() != follows.start or follows.letter == chosen.letter:
        return chosen.letter
    if follows.strength == -1 or ("or" not in hedge.group() and _GOES_ON.match(text, follows.end)):
        return chosen.letter  # "the answer is A, and B is too small"
    return None
