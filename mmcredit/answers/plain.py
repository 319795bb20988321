"""Text without what nobody sees or reads: invisible characters, HTML, digits of other scripts, code fences."""

from __future__ import annotations

import html
import re
import unicodedata

# Characters without width (marks of direction, joiners, byte order marks), variation selectors and control characters.
_INVISIBLE = dict.fromkeys(
    code
    for code in (*range(0x10000), *range(0x1BCA0, 0x1BCA4), *range(0x1D173, 0x1D17B), *range(0xE0001, 0xE0080))
    if unicodedata.category(chr(code)) == "Cf"
    or (unicodedata.category(chr(code)) == "Cc" and chr(code) not in "\t\n\v\f\r\x1c\x1d\x1e\x1f\x85")
    or 0xFE00 <= code <= 0xFE0F
    or code == 0x20E3  # the frame of a key
)
_ARABIC = {"٪": "%", "٫": ".", "٬": ","}
_CIRCLED = {0x1F150 + i: chr(65 + i) for i in range(26)} | {0x1F170 + i: chr(65 + i) for i in range(26)}
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z]{2,10}\d{0,2});")
_INLINE = re.compile(
    r"</?(?:b|i|u|p|em|strong|span|font|code|mark|small|center|div|tt|pre|br|math|li|ul)(?:\s[^<>]{0,200})?/?>",
    re.IGNORECASE,
)
_SUP_OVER_SUB = re.compile(r"<sup>(\d{1,9})</sup>\s*[/⁄]\s*<sub>(\d{1,9})</sub>", re.IGNORECASE)
_RAISED = re.compile(r"<(su[pb])>([^<>]{1,60})</\1>", re.IGNORECASE)
_FENCE = re.compile(r"\s*```[\w+-]*[ \t]*\n(.*?)\n?[ \t]*```\s*", re.DOTALL)
_DASHES = str.maketrans(dict.fromkeys("‐‑‒–—―−﹘﹣－", "-"))


def visible(text: str) -> str:
    """The text as a reader sees it: entities as their characters, digits as 0-9, nothing without width.

    The marks of a bare circled or squared letter ("🅱") go too. Letters, signs and spaces stay.
    """
    if "&" in text:
        text = _ENTITY.sub(lambda match: html.unescape(match.group()), text)
    if text.isascii() and text.isprintable():
        return text
    text = text.translate(_INVISIBLE).translate(_CIRCLED)
    for sign, plain in _ARABIC.items():
        text = text.replace(sign, plain)
    return re.sub(r"[^\W\x00-\x7f]", lambda match: _digit(match.group()), text)


def _digit(char: str) -> str:
    """Decimal digits of any script as 0-9; any other character as it is."""
    value = unicodedata.decimal(char, None)
    return char if value is None else str(value)


def without_html(text: str) -> str:
    """Without tags of HTML that only say how text looks; raised and lowered text as ``^{..}`` and ``_{..}``.

    A tag that nothing closes ("<b>" alone) may be an answer and stays, but for line breaks.
    """
    if "<" not in text or ">" not in text:
        return text
    text = _SUP_OVER_SUB.sub(r"\1/\2", text)
    text = _RAISED.sub(lambda match: f"{'^' if match[1].lower() == 'sup' else '_'}{{{match[2]}}}", text)
    return _INLINE.sub(" ", text) if "</" in text or re.search(r"<br\s*/?>", text, re.IGNORECASE) else text


def without_fence(text: str) -> str:
    """What stands in a fenced block of code, if the text is nothing else."""
    if "```" not in text:
        return text
    match = _FENCE.fullmatch(text)
    return text if match is None or "```" in match[1] else match[1]


def plain_dashes(text: str) -> str:
    """Every hyphen, dash and minus as "-"."""
    return text.translate(_DASHES)
