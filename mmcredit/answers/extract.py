"""Finding the answer in a response: pure functions of text, all linear in its length."""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction
from typing import Literal

from mmcredit.answers.plain import plain_dashes, visible, without_fence, without_html

Extraction = Literal["tag", "boxed", "whole"]

_THOUGHT = re.compile(r"</\s*(?:think|thinking|thoughts?)\s*>", re.IGNORECASE)


def after_thoughts(text: str) -> str:
    """What follows the first ``</think>``; all of a text whose thoughts were never closed, or that has none.

    What a model tries out in its thoughts is not what it answers.
    """
    closed = _THOUGHT.search(text) if "</" in text else None
    return text if closed is None else text[closed.end() :]


def extract(text: str, how: Extraction, tag: str = "answer") -> str | None:
    """The answer part of `text`: the last tag pair, the last box, or all of it. None if there is no such part.

    It is looked for behind the thoughts (`after_thoughts`), unless the tag is the one of the thoughts.
    """
    if how != "tag" or tag not in ("think", "thinking", "thought", "thoughts"):
        text = after_thoughts(text)
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
    """Content of the last complete ``<name>...</name>``, stripped, or None. Of nested openings the innermost counts.

    Case and white space inside the tags do not matter.
    """
    found, start = None, -1
    for match in re.finditer(rf"<\s?(/?)\s?{re.escape(name)}\s?>", text, re.IGNORECASE):
        if not match[1]:
            start = match.end()
        elif start >= 0:
            found, start = text[start : match.start()].strip(), -1
    return found


_EDGE = " \t\n\r\"'`*_$“”‘’«»"
_TRAILING = _EDGE + ".,;:!?…。，！？；："


_PLAIN = str.maketrans(dict.fromkeys("‘’", "'") | dict.fromkeys("“”", '"'))
_WORDS_IN = re.compile(
    r"\\(?:text(?:bf|it|rm|tt)?|mathrm|mathbf|mbox|boxed|fbox)\s*\{([^{}]*)\}"  # \text{red}
    r"|[\[(]\s*([^\W\d_][^()\[\],;{}]*)[\])]"  # (red), not (1, 2)
    r"|(?:(?:[#•]+|[-+>](?=\s+[^\W\d]))\s+)+(\S.*)",  # a heading, a quotation, the only item of a list
    re.DOTALL,
)


def normalise(text: str, ignore_case: bool = True) -> str:
    r"""Text as it is compared: Unicode NFKC, case folded, runs of white space as one space, edges cleaned.

    What is only dress goes: characters without width, HTML, a code fence, ``\text{}``, brackets around words, the mark
    of a heading or list in front; at the front quotes and markdown marks, at the end also sentence punctuation. Inside,
    typographic quotes and hyphens are plain ones. Nothing else is touched: "3.5", "-5", "5'" and "o'clock" stay what
    they are.
    """
    text = without_fence(without_html(visible(text)))
    text = plain_dashes(unicodedata.normalize("NFKC", text).translate(_PLAIN))
    if ignore_case:
        text = text.casefold().replace("i̇", "i")
    text = _edges(" ".join(text.split()))
    for _ in range(4):
        dressed = _WORDS_IN.fullmatch(text)
        if dressed is None:
            return text
        text = _edges(dressed[1] or dressed[2] or dressed[3] or "")
    return text


def _edges(text: str) -> str:
    quoted = text[:1] in ("'", '"')
    text = text.lstrip(_EDGE)
    cut = text.rstrip(_TRAILING)
    if cut[-1:].isdigit() and not quoted and text[len(cut) :][:1] in ("'", '"'):
        return cut + text[len(cut)]  # 5' and 12" are lengths
    return cut


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
        |\s*(?:×|·|⋅|\\times|\\cdot|\*|x)\s*10\s*(?:\^|\*\*)\s*\{{?\s*(?P<power>[-+]?\d+)\s*\}}?)?
    )
    (?:\s*(?P<scale>dozen|hundred|thousand|million|billion|trillion)\b)?
    (?P<percent>\s*(?:\\?%|(?:percent|per\ cent|pct)\b))?
    """,
    re.VERBOSE | re.IGNORECASE,
)
_SCALES = {"dozen": 12, "hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_SPACED = re.compile(
    "(?<![\\d.,])[1-9]\\d{0,2}(?:[\xa0\u2009\u202f]\\d{3})+(?!\\d)"
    "|\\A\\s*[-+]?[1-9]\\d{0,2}(?: \\d{3})+(?![ ,]*\\d|\\s*/)"
)
_RAISED_OVER = re.compile(r"(?<![⁰¹²³⁴-⁹])([⁰¹²³⁴-⁹]+)[⁄/]([₀-₉]+)")
_LONGEST = 400  # digits and decimal exponent; beyond, exact arithmetic costs more than any answer is worth
_LAKHS = re.compile(r"(\A[^\d,.]*\d{1,2})((?:,\d{2})+,\d{3})((?:\.\d+)?[^\d,]*\Z)")  # 12,34,567
_DOTTED = re.compile(
    r"(?<![\d.,])\d{1,3}(?:(?:\.\d{3}){2,}(?:,\d+)?|(?:\.\d{3})+,\d+)(?![\d.,])"
)  # 1.234.567 and 1.234,5
_SPELT = (
    (re.compile(r"(?<=\d)['’](?=\d{3}(?!\d))|(?<=\d)_(?=\d{3}(?!\d))|(?<=\d)\\[,!; ](?=\d{3})"), ""),
    (re.compile(r"\\[cdt]?frac\s*(\d)\s*(\d)"), r"\\frac{\1}{\2}"),
    (re.compile(r"\\[cdt]?frac\s*(\d)\s*\{"), r"\\frac{\1}{"),
    (re.compile(r"(\\frac\s*\{[^{}]*\})\s*(\d)"), r"\1{\2}"),
    (re.compile(r"(?:(?<=[\s(=:$])|\A)[‐‑‒–—](?=[\d.])"), "-"),  # a dash right before a number is its sign
    (re.compile(r"(?<![\d)]\s)\b(?:minus|negative)\s+(?=[\d.])", re.IGNORECASE), "-"),
    (re.compile(r"-\s?[$€£¥₹]\s?(?=[\d.])"), "-"),
)


def numbers(text: str, percent: Literal["divide", "keep"] = "divide") -> list[Fraction]:
    r"""Every number in a text, exactly, in order.

    Read are signs ("-3", "minus 3", "-$3"), thousands commas (also LaTeX ``1{,}000`` and ``1\,000``), decimals,
    ``3/4``, ``2 1/2``, ``\frac{3}{4}``, ``1.5e-3``, ``1.5 \times 10^{-3}``, ``10^3``, percents (``divide``: 50% is 1/2;
    ``keep``: 50% is 50), "1.5 million", and digits of any script. Thousands may also stand behind an apostrophe
    ("1'000"), behind spaces where these are narrow or bound ones, or the text begins with the number ("12 000 km"),
    behind dots where there are two or a decimal comma follows ("1.234.567", "1.234,5"), and be grouped as in India
    where the text holds no other number ("12,34,567"). A decimal comma alone is not read: "1,5" is two numbers. Numbers
    of more than 400 digits and fractions over 0 are left out.
    """
    text = without_html(visible(text))
    text = _SPACED.sub(lambda run: re.sub(r"\s", "", run.group()), text)
    text = re.sub(r"(?<=\d)(?=[¼-¾⅐-⅞])", " ", text)  # NFKC makes "2½" into "21/2"
    text = _RAISED_OVER.sub(lambda run: unicodedata.normalize("NFKC", run[1] + "/" + run[2]), text)
    text = re.sub("[⁻⁰¹²³⁴-⁹]+", lambda run: "^" + unicodedata.normalize("NFKC", run.group()), text)
    text = unicodedata.normalize("NFKC", text).replace("−", "-").replace("⁄", "/").replace("{,}", ",")
    for pattern, new in _SPELT:
        text = pattern.sub(new, text)
    text = _LAKHS.sub(lambda run: run[1] + run[2].replace(",", "") + run[3], text)
    text = _DOTTED.sub(lambda run: run.group().replace(".", "").replace(",", "."), text)
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
    value *= _SCALES[match["scale"].casefold()] if match["scale"] else 1
    return -value if (match["sign"] or "").startswith("-") else value


def _plain(digits: str) -> Fraction:
    return Fraction(digits.replace(",", ""))


def last_number(text: str, percent: Literal["divide", "keep"] = "divide") -> Fraction | None:
    """The last number of a text (see `numbers`), or None."""
    found = numbers(text, percent)
    return found[-1] if found else None
