r"""MathRuler's comparison of two short answers, as far as text decides it.

The rule goes back to the graders of MATH and PRM800K (Lightman et al. 2023, arXiv 2305.20050) and is what EasyR1, PAPO,
VPPO and PGPO score with: equal in MATH's normal form; or equal in PRM800K's; or, element by element of a tuple,
fractions as they are written, integers only with integers, all else by symbolic difference. The last step needs a
computer algebra system and runs in a worker (reward `mathruler`); everything else is here.
"""

from __future__ import annotations

import re
from contextlib import suppress

from mmcredit.answers.latex_text import brace_fractions, brace_roots, plain_text, slashed

NOTHING = "None"  # what MathRuler takes for an answer where there is no box
LONGEST = 2000  # characters of an answer; beyond, it is compared as it stands

_UNITS = (
    *("degree", "cm", "centimeter", "meter", "mile", "second", "minute", "hour", "day", "week", "month", "year"),
    *("foot", "feet", "inch", "yard"),
)  # in this order: of "centimeter" the whole goes, not its "meter"
_UNIT = [re.compile(rf"{unit}(?:es)?s? *(?:\^[0-9]+)?") for unit in _UNITS]
_THOUSANDS = re.compile(r"(\d),(\d\d\d)(?=$|\D)")
_WRAPPED = re.compile(r"^\\text\{(.+?)\}$")
_FRACTION = re.compile(r"^-?[0-9]+.?/0*[1-9][0-9]*.?$")
_BRACKETS = "()[]"


def boxed_content(response: str) -> str:
    r"""Content of the last ``\boxed{``, braces matched, stripped; "None" if there is none or it is not closed."""
    start = response.rfind("\\boxed{")
    depth = 0
    for i in range(start + 7, len(response)) if start >= 0 else ():
        depth += {"{": 1, "}": -1}.get(response[i], 0)
        if depth < 0:
            return response[start + 7 : i].strip()
    return NOTHING


def math_form(answer: str) -> str:
    """MATH's normal form. Where it cannot be made (a root without argument, two units) the answer, stripped."""
    answer = answer.strip()
    try:
        return _math_form(_unwrapped(answer).strip() if _WRAPPED.search(answer) else answer)
    except (IndexError, ValueError):
        return answer


def _unwrapped(text: str) -> str:
    found = _WRAPPED.search(text)
    return found.group(1) if found else text


def _math_form(text: str) -> str:
    for old, new in (
        ("\n", ""),
        ("\\!", ""),
        ("\\\\", "\\"),
        ("tfrac", "frac"),
        ("dfrac", "frac"),
        ("\\left", ""),
        ("\\right", ""),
        ("^{\\circ}", ""),
        ("^\\circ", ""),
        ("\\$", ""),
    ):
        text = text.replace(old, new)
    value, unit, more = text.partition("\\text{ ")
    if unit and unit in more:
        raise ValueError("two units")
    text = value.replace("\\%", "").replace("%", "").replace(" .", " 0.").replace("{.", "{0.")
    if not text:
        return text
    if text[0] == ".":
        text = "0" + text
    if text.count("=") == 1 and text.index("=") <= 2:
        text = text.partition("=")[2]
    text = brace_fractions(brace_roots(text).replace(" ", ""))
    return slashed("\\frac{1}{2}" if text == "0.5" else text)


def prm_form(answer: str) -> str:
    """PRM800K's normal form: units, signs of currency and per cent go, LaTeX becomes text, lower case, no blanks."""
    text = _unwrapped(answer).replace("\\%", "%").replace("\\$", "$").replace("$", "").replace("%", "")
    text = text.replace(" or ", " , ").replace(" and ", " , ")
    text = text.replace("million", "*10^6").replace("billion", "*10^9").replace("trillion", "*10^12")
    for unit in _UNIT:
        text = unit.sub("", text)
    text = re.sub(r"\^ *\\circ", "", text)
    if text.startswith("{") and text.endswith("}"):
        text = text[1:-1]
    text = re.sub(r",\\! *", "", text)
    number = _number(text)
    if number is not None and _whole(number):
        text = str(round(number))
    if "\\" in text:
        latex = text.replace("\\tfrac", "\\frac").replace("\\dfrac", "\\frac").replace("\\frac", " \\frac")
        with suppress(ValueError):  # nested beyond reason: compared as it stands
            text = plain_text(latex)
        for old, new in (("√", "sqrt"), ("π", "pi"), ("∞", "inf"), ("∪", "U"), ("·", "*"), ("×", "*")):
            text = text.replace(old, new)
        text = text.strip()
    text = re.sub("- *", "-", text)
    text = re.sub("([0-9]) +([0-9])", r"\1+\2", text)
    text = text.replace(" ", "").replace("{", "").replace("}", "").lower()
    return str(int(float(text.replace(",", "")))) if _is_integer(text) else text


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _whole(value: float) -> bool:
    return value - value == 0 and abs(value - round(value)) <= 1e-7  # x - x is NaN for infinity and NaN


def _is_integer(text: str) -> bool:
    value = _number(without_thousands(text))
    # A plain "1,000" passes, so do "1e3" and "5.0"; "1,0" does not.
    return value is not None and _whole(value) and _number(text.replace(",", "")) is not None


def without_thousands(text: str) -> str:
    """1,234,567 as 1234567; other commas stay."""
    while True:
        shorter = _THOUSANDS.sub(r"\1\2", text)
        if shorter == text:
            return text
        text = shorter


def elements(text: str) -> list[str]:
    """The elements of a tuple, list or interval; anything else is one element."""
    text = without_thousands(text)
    if not text:
        return []
    inner = text[1:-1]
    if len(text) > 2 and text[0] in _BRACKETS and text[-1] in _BRACKETS and not any(c in inner for c in _BRACKETS):
        return [part.strip() for part in inner.split(",")]
    return [text]


def may_be_parsed(expression: str) -> bool:
    """Whether the rule tries symbolic comparison: at most two different letters, no tower of powers.

    ``^{`` and ``^(``, ``^d^`` and exponents of two digits and more are left alone.
    """
    letters = {c for c in expression.replace("sqrt", "").replace("frac", "") if c.isalpha()}
    return (
        len(letters) <= 2
        and "^{" not in expression
        and "^(" not in expression
        and re.search(r"\^[0-9]+\^|\^[0-9][0-9]+", expression) is None
    )


def text_verdict(given: str, reference: str) -> bool | list[tuple[str, str]]:
    """True or False where text decides; else the pairs (given, reference) that must all be equal symbolically."""
    if max(len(given), len(reference)) > LONGEST:
        return given.strip() == reference.strip()
    if math_form(reference) == math_form(given):
        return True
    wanted, found = prm_form(reference), prm_form(given)
    if wanted == found:
        return True
    if not found:
        return False
    wanted_parts, found_parts = elements(wanted), elements(found)
    if len(wanted_parts) > 1 and (wanted[0] != found[0] or wanted[-1] != found[-1]):
        return False
    if len(wanted_parts) != len(found_parts):
        return False
    pairs: list[tuple[str, str]] = []
    for part, other in zip(wanted_parts, found_parts, strict=True):
        if _FRACTION.search(part) and _FRACTION.search(other):
            if part != other:
                return False
        elif _is_integer(part) != _is_integer(other) or not may_be_parsed(f"({part})-({other})"):
            return False
        else:
            pairs.append((other, part))
    return pairs or True
