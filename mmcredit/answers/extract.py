"""Finding the answer in a response: pure functions of text, all linear in its length."""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction
from typing import Literal

Extraction = Literal["tag", "boxed", "whole"]


def extract(text: str, how: Extraction, tag: str = "answer") -> str | None:
    """The answer part of `text`: the last tag pair, the last box, or all of it. None if there is no such part."""
    if how == "tag":
        return last_tag(text, tag)
    if how == "boxed":
        return last_boxed(text)
    return text


_BRACES = re.compile(r"\\f?box(?:ed)?\s*\{|\\.|[{}]", re.DOTALL)


def boxes(text: str) -> list[str]:
    r"""Contents of all complete ``\boxed{...}`` (and ``\fbox{...}``), in order of their opening.

    Braces are matched; escaped ones (``\{``) do not count. A box cut off by the length limit is not complete.
    """
    return [text[start:end] for _, start, end in box_spans(text)]


def box_spans(text: str) -> list[tuple[int, int, int]]:
    """Of every complete box: where its macro begins, where its content begins, where its content ends."""
    opened: list[tuple[int, int] | None] = []  # macro and content of an open box, None for any other open brace
    found: list[tuple[int, int, int]] = []
    for match in _BRACES.finditer(text):
        token = match.group()
        if token == "{":
            opened.append(None)
        elif token == "}":
            start = opened.pop() if opened else None
            if start is not None:
                found.append((*start, match.start()))
        elif token.endswith("{") and len(token) > 2:
            opened.append((match.start(), match.end()))
    return sorted(found)


def last_boxed(text: str) -> str | None:
    r"""Content of the complete ``\boxed{...}`` that opens last (the inner one of two nested), stripped, or None."""
    found = boxes(text)
    return found[-1].strip() if found else None


def last_tag(text: str, name: str = "answer") -> str | None:
    """Content of the last complete ``<name>...</name>``, stripped, or None. Of nested openings the innermost counts."""
    end = text.rfind(f"</{name}>")
    start = text.rfind(f"<{name}>", 0, end) if end >= 0 else -1
    return text[start + len(name) + 2 : end].strip() if start >= 0 else None


_EDGE = " \t\n\r\"'`*_$“”‘’«»"
_TRAILING = _EDGE + ".,;:!?…。，！？；："


_PLAIN = str.maketrans(
    {**dict.fromkeys("‘’", "'"), **dict.fromkeys("“”", '"'), **dict.fromkeys("‐–−", "-")}
    | dict.fromkeys("\u200b\u2060\ufeff\xad")
)


def normalise(text: str, ignore_case: bool = True) -> str:
    """Text as it is compared: Unicode NFKC, case folded, runs of white space as one space, edges cleaned.

    At the front quotes and markdown marks go, at the end also sentence punctuation. Inside, typographic quotes and
    hyphens are plain ones, and characters without width go. Nothing else is touched: "3.5", "-5" and "o'clock" stay
    what they are.
    """
    text = unicodedata.normalize("NFKC", text).translate(_PLAIN)
    if ignore_case:
        text = text.casefold()
    return " ".join(text.split()).lstrip(_EDGE).rstrip(_TRAILING)


# --- numbers ----------------------------------------------------------------------------------------------------------

_DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?|(?<![.\w])\.\d+)"
_NUMBER = re.compile(
    rf"""
    (?<![A-Za-z\d_^])(?<!\d\.)(?<!\^\{{)(?<!\^-)                  # not the end of a word, a number or an exponent
    (?P<sign>(?<![\w)\]}}])[-+])?                                 # "5-3" is no minus three, nor is "- 3"
    (?:
      (?P<whole>\d+\s*)?\\[dt]?frac\s*\{{\s*(?P<ltop>[-+]?{_DIGITS})\s*\}}\s*\{{\s*(?P<lbottom>[-+]?{_DIGITS})\s*\}}
    | (?:(?P<mixed>\d+)\s+)?(?P<top>{_DIGITS})\s*/\s*(?P<bottom>{_DIGITS})(?!\s*/)
    | 10\s*(?:\^|\*\*)\s*\{{?\s*(?P<ten>[-+]?\d+)\s*\}}?
    | (?P<plain>{_DIGITS})
      (?:[eE](?P<exponent>[-+]?\d+)(?!\w)
        |\s*(?:×|\\times|\\cdot|\*|x)\s*10\s*(?:\^|\*\*)\s*\{{?\s*(?P<power>[-+]?\d+)\s*\}}?)?
    )
    (?P<percent>\s*\\?%)?
    """,
    re.VERBOSE,
)
_SPACED = re.compile(
    "(?<![\\d.,])[1-9]\\d{0,2}(?:[\xa0\u2009\u202f]\\d{3})+(?!\\d)"
    "|\\A\\s*[-+]?[1-9]\\d{0,2}(?: \\d{3})+(?![ ,]*\\d|\\s*/)"
)
_LONGEST = 400  # digits and decimal exponent; beyond, exact arithmetic costs more than any answer is worth


def numbers(text: str, percent: Literal["divide", "keep"] = "divide") -> list[Fraction]:
    r"""Every number in a text, exactly, in order.

    Read are signs, thousands commas (also LaTeX ``1{,}000`` and ``1\,000``), decimals, ``3/4``, ``2 1/2``,
    ``\frac{3}{4}``, ``1.5e-3``, ``1.5 \times 10^{-3}``, ``10^3`` and percents (``divide``: 50% is 1/2; ``keep``: 50%
    is 50), and thousands behind spaces where these are narrow or bound ones, or the text begins with the number
    ("12 000 km"). A decimal comma is not: "1,5" is two numbers. Numbers of more than 400 digits and fractions over 0
    are left out.
    """
    text = _SPACED.sub(lambda run: re.sub(r"\s", "", run.group()), text)
    text = re.sub(r"(?<=\d)(?=[¼-¾⅐-⅞])", " ", text)  # NFKC makes "2½" into "21/2"
    text = re.sub("[⁻⁰¹²³⁴-⁹]+", lambda run: "^" + unicodedata.normalize("NFKC", run.group()), text)
    text = unicodedata.normalize("NFKC", text).replace("−", "-").replace("⁄", "/").replace("{,}", ",")
    text = re.sub(r"(?<=\d)\\[,!; ](?=\d{3})", "", text)
    found = []
    for match in _NUMBER.finditer(text):
        value = _value(match)
        if value is not None:
            found.append(value / 100 if match["percent"] and percent == "divide" else value)
    return found


def _value(match: re.Match[str]) -> Fraction | None:
    if len(match.group()) > _LONGEST:
        return None
    exponent = int(match["exponent"] or match["power"] or match["ten"] or 0)
    if abs(exponent) > _LONGEST:
        return None
    if match["plain"] or match["ten"]:
        value = _plain(match["plain"] or "1") * Fraction(10) ** exponent
    else:
        bottom = _plain(match["lbottom"] or match["bottom"])
        if bottom == 0:
            return None
        value = int(match["whole"] or match["mixed"] or 0) + _plain(match["ltop"] or match["top"]) / bottom
    return -value if (match["sign"] or "").startswith("-") else value


def _plain(digits: str) -> Fraction:
    return Fraction(digits.replace(",", ""))


def last_number(text: str, percent: Literal["divide", "keep"] = "divide") -> Fraction | None:
    """The last number of a text (see `numbers`), or None."""
    found = numbers(text, percent)
    return found[-1] if found else None
