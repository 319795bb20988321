"""One spelling for what people and models write as an answer: LaTeX, Unicode and plain text."""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction

from mmcredit.rewards.equality.unified import unified

_SUPERSCRIPTS = re.compile("[⁰¹²³⁴-⁹⁺⁻ⁿ]+")
_SUBSCRIPTS = re.compile("[₀-₉]+")
_VULGAR = re.compile("[¼-¾⅐-⅞↉]")
_SIGNS = {
    "−": "-", "–": "-", "—": "-", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "÷": "/", "∕": "/", "⁄": "/",
    "π": r"\pi ", "∞": r"\infty ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "∈": r"\in ", "∪": r"\cup ", "∩": r"\cap ",
    "∅": r"\emptyset ", "°": r"^{\circ}", "º": r"^{\circ}", "±": r"\pm ", "∓": r"\mp ", "√": r"\sqrt", "θ": r"\theta ",
    "α": r"\alpha ", "β": r"\beta ", "λ": r"\lambda ", "∠": r"\angle ", "ℝ": r"\mathbb{R}", "→": r"\to ",
    "∛": r"\sqrt[3]", "“": "", "”": "", "’": "'", "‘": "'", "⟨": r"\langle ", "⟩": r"\rangle ", "…": r"\ldots ",
}  # fmt: skip
_SAME = (
    (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
    (r"\\[dt]binom(?![A-Za-z])", r"\\binom"),
    (r"\\(?:left|right)\s*\.", ""),
    (r"\\(?:left|right|[bB]igg?[lrm]?)(?![A-Za-z])", ""),
    (r"\\(?:displaystyle|textstyle|limits|nolimits|rm|bf|it)(?![A-Za-z])", " "),
    (r"\\(?:leq|leqslant)(?![A-Za-z])", r"\\le "),
    (r"\\(?:geq|geqslant)(?![A-Za-z])", r"\\ge "),
    (r"\\lt(?![A-Za-z])", "<"),
    (r"\\gt(?![A-Za-z])", ">"),
    (r"\\neq(?![A-Za-z])", r"\\ne "),
    (r"\\(?:lbrace|lcub)(?![A-Za-z])", r"\\{"),
    (r"\\(?:rbrace|rcub)(?![A-Za-z])", r"\\}"),
    (r"\\(?:lbrack)(?![A-Za-z])", "["),
    (r"\\(?:rbrack)(?![A-Za-z])", "]"),
    (r"\\(?:varnothing|O)(?![A-Za-z])", r"\\emptyset "),
    (r"\\(?:mid|vert|lvert|rvert)(?![A-Za-z])", "|"),
    (r"\\ast(?![A-Za-z])", "*"),
    (r"\\div(?![A-Za-z])", "/"),
    (r"\s*\\!\s*", ""),
    (r"\\(?:bar|overline|dot)\s*(?:\{\s*(\d+)\s*\}|(\d))", r"\\overline{\1\2}"),
    (r"(?<=\d)\.\((\d+)\)", r".\\overline{\1}"),
    (r"\\(angle|triangle)\s*\{([A-Z]+)\}", r"\\\1 \2"),
    (r"\\(?:text)?color\s*\{[a-zA-Z]*\}", " "),
    (r"\\colon(?![A-Za-z])", ":"),
    (r"\\(?:dots|cdots|dotsc)(?![A-Za-z])|\.\.\.", r"\\ldots "),
    (r"\{([^{}]*)\\over(?![A-Za-z])([^{}]*)\}", r"\\frac{\1}{\2}"),
    (r"\{([^{}]*)\\choose(?![A-Za-z])([^{}]*)\}", r"\\binom{\1}{\2}"),
    (r"(?<![A-Za-z])C\s*\(\s*(\d+)\s*,\s*(\d+)\s*\)", r"\\binom{\1}{\2}"),
    (r"(?<![A-Za-z\\])infinity(?![A-Za-z])", r"\\infty "),
    (r"\\(?:quad|qquad|enspace|thinspace|hspace\{[^{}]*\}|phantom\{[^{}]*\})", " "),
    (r"(?<!\\)\\[;: ](?=.|$)", " "),
    (r"(?<!\\)\\,", " "),
    (r"(?<!\\)~", " "),
)
_TEXT_MACRO = re.compile(
    r"\\(?:text(?:bf|it|rm|normal|sf|tt)?|mbox|hbox|mathrm|mathbf|mathit|mathsf|boldsymbol|bm|operatorname\*?|emph|"
    r"underline|tag)\s*\{([^{}]*)\}"
)
_THEN = (
    r"^(?:(?:thus|so|hence|therefore|finally|then|and|that|we (?:get|have|find|obtain|conclude)|it follows)\b[,:]?\s*)*"
)
_LEAD = re.compile(
    _THEN + r"(?:(?:the|my|our)\s+)?(?:(?:final|correct|exact)\s+)?(?:answer|solution|result|value)s?"
    r"\s*(?:is|:|=|are|equals)\s*(?::\s*)?",
    re.IGNORECASE,
)
# "The length is 5", not "The sky is blue": what follows must be mathematics.
_PROSE = re.compile(
    _THEN + r"(?:(?:the|its|their|this|each)\s+[A-Za-z][A-Za-z ]{1,60}?\s+(?:is|are|equals|was)|it is|it's|there are|)"
    r"\s*:?\s*(?=[-\d\\(\[{|.¤]|[a-zA-Z]\s*(?:=|$|[-+*/^<>]))",
    re.IGNORECASE,
)
_WHERE = re.compile(
    r"\s*[,;]?\s*\(?\s*(?:where|for|with)?\s*(?:all|any|every|some)?\s*"
    r"(?:([a-z])\s*(?:\\in\s*\\mathbb\s*\{?\s*Z\s*\}?|is an(?:y)? integer)|integers?\s+([a-z]))\s*\)?$"
)
_RECURRING = re.compile(r"(?<![\d.])(\d*)\.(\d{2,40})\s*\\ldots(?!\s*[\d,])")
_SCALES = {
    "dozen": 12, "hundred": 10**2, "thousand": 10**3, "lakh": 10**5, "million": 10**6, "crore": 10**7,
    "billion": 10**9, "trillion": 10**12,
}  # fmt: skip
_SCALED = re.compile(rf"(?<![\d.,/^_])(\d+(?:\.\d+)?)\s*({'|'.join(_SCALES)})(?![a-z])", re.IGNORECASE)
DOLLAR = "¤"  # an amount of money in dollars


def clean(text: str) -> str:
    r"""The answer in one spelling.

    Signs as LaTeX macros, no sizes and spacing macros, ``\frac{a}{b}`` and ``\sqrt{a}`` with braces, digits without
    thousands separators, text without its macro, money in dollars as "¤", no sentence around it and no full stop.
    """
    text = unified(text)
    text = _VULGAR.sub(lambda m: _fraction(m.group()), text)
    text = _SUPERSCRIPTS.sub(lambda m: "^{" + unicodedata.normalize("NFKC", m.group()).replace("−", "-") + "}", text)
    text = _SUBSCRIPTS.sub(lambda m: "_{" + unicodedata.normalize("NFKC", m.group()) + "}", text)
    text = "".join(_SIGNS.get(char, char) for char in text)
    text = unicodedata.normalize("NFKC", text).replace("−", "-").strip()
    text = re.sub(r"(?<!\\)\\\$", DOLLAR, text)
    text = text.replace(r"\%", "%").replace(r"\#", "#").replace(r"\_", "_").replace(r"\&", "and")
    text = re.sub(r"\\\(|\\\)|(?<!\\)\\\[|(?<!\\)\\\]|\$\$", " ", text)
    if text.count("$") % 2 == 0 and not re.match(r"\$\s*-?[\d.,]+\s*(?:and|or|,|;)\s*\$", text):
        text = text.replace("$", " ")
    text = re.sub(r"\b(?:USD\s*|US(?=[¤$]))(?=[\d¤$])", lambda m: DOLLAR if "D" in m[0] else "", text)
    text = re.sub(r"\$(?=\s*-?[\d.])", DOLLAR, text).replace("$", " ")
    power = not text.lstrip().startswith("**") and re.search(r"[\w)}\]]\s*\*\*\s*[\w({-]", text)
    text = text.replace("**", "^" if power else " ")
    text = re.sub(r"(?<=\d)(?:\\[,;:! ]|~|\{,\}|\{ \}|')(?=\d{3}(?!\d))", "", text)
    for _ in range(4):
        replaced = _TEXT_MACRO.sub(r" \1 ", text)
        if replaced == text:
            break
        text = replaced
    for pattern, new in _SAME:
        text = re.sub(pattern, new, text)
    text = re.sub(r"(?<=[\d}])\s*(k?)\s*\\Omega(?![A-Za-z])", r" \1Ω", text)
    text = re.sub(r"(?<=\d)\s*[xX]\s*10\s*\^", r"\\times 10^", text)
    text = re.sub(r"\b([aApP])\.\s*([mM])\.?(?!\w)", r"\1\2", text)
    text = re.sub(r"\\(frac|binom)\s*(\d)\s*(\d)(?!\d*\})", r"\\\1{\2}{\3}", text)
    text = re.sub(r"\\frac\s*(\d|[a-zA-Z])\s*\{", r"\\frac{\1}{", text)
    text = re.sub(r"(\\frac\s*\{[^{}]*\})\s*(\d|[a-zA-Z])(?!\w*\})", r"\1{\2}", text)
    text = re.sub(r"\\frac\s*([a-zA-Z\d])\s*([a-zA-Z\d])", r"\\frac{\1}{\2}", text)
    text = re.sub(r"\\sqrt\s*([\d.]+|[a-zA-Z])", lambda m: _root(m.group(1)), text)
    text = re.sub(r"\^\s*\\circ(?![A-Za-z])|\^\s*\{\s*\\circ\s*\}|\\degree(?![A-Za-z])", r"^{\\circ}", text)
    text = re.sub(r"\^\s*\\prime|\^\s*\{\s*\\prime\s*\}", "'", text)
    text = re.sub(r"^([\d.]+)((?: to [\d.]+)+)$", lambda m: m[1] + m[2].replace(" to ", ":"), " ".join(text.split()))
    text = _RECURRING.sub(_recurring, text)
    text = _PROSE.sub("", _LEAD.sub("", text))
    text = re.sub(r"^(?:=|\\approx)\s*|(?:\s*\\\\)+\s*$", "", text.strip(' `"*'))
    where = _WHERE.search(text)
    if where is not None and re.search(rf"(?<![a-z]){where[1] or where[2]}(?![a-z])", text[: where.start()]):
        text = text[: where.start()]
    while (text.endswith((".", ",", ";", ":", "!")) and not text.endswith((r"\.", "!"))) or text.endswith((" !",)):
        text = text[:-1].rstrip()
    return _SCALED.sub(_scaled, _thousands(_outer_braces(text)))


def _recurring(match: re.Match[str]) -> str:
    r"""0.1666\ldots as 0.1\overline{6}: the shortest period that ends the digits, seen twice, one digit three times."""
    digits = match[2]
    for period in range(1, len(digits) // 2 + 1):
        seen = 3 if period == 1 else 2
        if len(digits) >= seen * period and digits.endswith(digits[-period:] * seen):
            start = len(digits) - period
            while start >= period and digits[start - period : start] == digits[-period:]:
                start -= period
            return rf"{match[1]}.{digits[:start]}\overline{{{digits[-period:]}}}"
    return match[0]


def _scaled(match: re.Match[str]) -> str:
    value = Fraction(match[1]) * _SCALES[match[2].casefold()]
    return str(value) if value.denominator == 1 else match[0]


def _root(argument: str) -> str:
    r"""``\sqrt12`` is the root of 1 times 2 in LaTeX, but whoever types it means 12."""
    return r"\sqrt{" + argument + "}"


def _fraction(char: str) -> str:
    top, _, bottom = unicodedata.normalize("NFKC", char).partition("⁄")
    return rf"\frac{{{top}}}{{{bottom}}}"


def _outer_braces(text: str) -> str:
    while text.startswith("{") and text.endswith("}") and _closes_at_end(text):
        text = text[1:-1].strip()
    return text


def _closes_at_end(text: str) -> bool:
    depth = 0
    for i, char in enumerate(text):
        if char == "{" and text[i - 1 : i] != "\\":
            depth += 1
        elif char == "}" and text[i - 1 : i] != "\\":
            depth -= 1
            if depth == 0:
                return i == len(text) - 1
    return False


_GROUPED = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])(?:\.\d+)?|(?<![\d.])\d{1,3}(?: \d{3})+(?!\d)(?:\.\d+)?")


def _thousands(text: str) -> str:
    """Digits without separators, outside brackets: in "(1,000)" the comma may part a pair, in "1,000" it does not."""
    out, depth, last = [], 0, 0
    for match in _GROUPED.finditer(text):
        before = text[last : match.start()]
        depth += sum(before.count(c) for c in "([") - sum(before.count(c) for c in ")]")
        out.append(before)
        pairs = depth > 0 and "," in match.group()
        out.append(match.group() if pairs else re.sub(r"[, ]", "", match.group()))
        last = match.end()
    return "".join(out) + text[last:]
