r"""Other ways to write the same, brought to the one that `clean` reads: Unicode, HTML, LaTeX packages, words, money."""

from __future__ import annotations

import re
import unicodedata

from mmcredit.answers.plain import visible, without_fence, without_html
from mmcredit.rewards.equality.spelled import NUMBER_WORDS, spelled

_SIGNS = str.maketrans(
    dict.fromkeys("‐‑‒﹣－", "-")
    | {"∶": ":", "∜": r"\sqrt[4]", "⌊": r"\lfloor ", "⌋": r"\rfloor ", "⌈": r"\lceil ", "⌉": r"\rceil "}
    | {"≈": r"\approx ", "≅": r"\approx ", "≡": r"\equiv ", "≦": r"\le ", "≧": r"\ge ", "⩽": r"\le ", "⩾": r"\ge "}
    | {"℃": r"^{\circ}C", "℉": r"^{\circ}F", "∥": r"\parallel ", "⊥": r"\perp ", "、": ",", "。": "."}
    | dict.fromkeys("「」『』【】", " ")
    | {"′": "'", "″": "''", "∣": "|"}
)
_SAME = tuple(
    (re.compile(pattern), new)
    for pattern, new in (
        (r"\\(?:nice|s|x|flat)frac(?![A-Za-z])", r"\\frac"),
        (r"\\(?:num|ang|unit|si)\s*\{([^{}]*)\}", r" \1 "),
        (r"\\(?:SI|qty)\s*\{([^{}]*)\}\s*\{([^{}]*)\}", r" \1 \2 "),
        (
            r"\\(?:large|Large|LARGE|huge|Huge|small|normalsize|footnotesize|boldmath|bfseries|itshape|mathstrut|strut"
            r"|scriptstyle|allowbreak|nobreak|relax|noindent|centering|hfill)(?![A-Za-z])",
            " ",
        ),
        (r"\\[fb]?box(?:ed)?\s*\{([^{}]*)\}", r"\1"),
        (r"\\boxed\s*(?=\{)", ""),
        (r"\\([pbvBV]?matrix)\s*\{([^{}]*)\}", r"\\begin{\1}\2\\end{\1}"),
        (r"((?:\d\u0305)+)", r"\\overline{\1}"),
        (r"((?:\d\u0307)+)", r"\\overline{\1}"),
        ("[\u0305\u0307]", ""),
        (r"(?<=\d)\^\s*\{?\s*o\s*\}?(?![\w])", r"^{\\circ}"),
        (r"(?<![A-Za-z\\])cbrt(?=\s*\()", r"\\sqrt[3]"),
        (r"(?<![A-Za-z\\])(?:oo|inf|INF|Inf|Infinity)(?!\s*[A-Za-z({_\[])", r"\\infty "),
        (r"^\s*0b([01]{1,64})\s*$", r"\1_{2}"),
        (r"^\s*0x([0-9a-fA-F]{1,16})\s*$", r"\1_{16}"),
        (r"^\s*_{1,2}([^_]+)_{1,2}\s*$", r"\1"),
        (r"^\s*\{\s*\}\s*$", r"\\{\\}"),
        (r"^\s*\{(\s*[a-zA-Z]\s*(?:\\in[^|:{}]*(?:\{[^{}]*\})?\s*)?[|:][^{}]*)\}\s*$", r"\\{\1\\}"),
        (r"==+", "="),
        (r"(∈|\\in)\s*\{([^{}]*)\}\s*$", r"\1\\{\2\\}"),
        (r"^\s*<([^<>=]*,[^<>=]*)>\s*$", r"\\langle \1\\rangle"),
        (r"(?<![A-Za-z\\])log(2|10)\s*(?=\()", r"\\log_{\1}"),
        (r"(?:\{\s*\}\s*)?[_^]\s*\{?\s*(\d{1,4})\s*\}?\s*C\s*_\s*\{?\s*(\d{1,4})\s*\}?", r"\\binom{\1}{\2}"),
        (r"(?i)\bsq\.\s*", "sq "),
        (
            r"(?<=[\d}])(?:\s+|\s*\\[, ;]\s*|(?=\(\\text))\((?:\\text\s*\{)?\s*(?!approx|about|not|round|rough|exact|"
            rf"estim|{'|'.join(NUMBER_WORDS)})((?:sq(?:uare)? )?[A-Za-z]{{1,15}}[²³]?)\s*\}}?\)\s*\.?\s*$",
            r" \1",
        ),
        (r"(?<=[\d}])\s*\((?:since|because|as)\b[^()]{1,80}\)\s*\.?\s*$", ""),
        (r"(\d{1,4})\s*h\s*(\d{1,2})\s*m(?![A-Za-z\d^/])", r"\1 h \2 min"),
        (r"(?i)^\s*(?:the\s+)?point\s*[A-Z]?\s*(?=\()", ""),
        (r"^\s*(?:->|=>|→|⇒|∴|✅|✓|✔|\\(?:therefore|implies|Rightarrow|to)(?![A-Za-z]))\s*", ""),
        (r"\s*(?:✅|✓|✔|\\checkmark)\s*$", ""),
        (r"^\s*(?:#|[Nn]o\.)\s*(?=\d)", ""),
        (r"^\s*'([^']+)'\s*$", r"\1"),
        (r"^\s*(?:所以|因此|故|最终|最后)*(?:答案|结果|結果|答え)(?:是|为|為|は|[:：=])*\s*", ""),
        (r"(?<=\d)\s*[个個人只本件条张支把头匹棵台辆次种名位双颗朵份枚冊回개명]\s*\.?$", ""),
        (r"(?i)(?<=\d)\s*pct\b\.?", "%"),
        (r"(?i)^\s*(?:minus|negative)\s+(?=[\d.\\(])", "-"),
        (r"^\s*(\d{1,9})\s+(?:out of|in)\s+(\d{1,9})\s*\.?\s*$", r"\\frac{\1}{\2}"),
        (r"(?i)^\s*noon\s*\.?$", "12:00 pm"),
        (r"(?i)^\s*midnight\s*\.?$", "12:00 am"),
        (r"(?i)^\s*(\d{1,2})\s*([ap])\.?\s?m\.?\s*$", r"\1:00 \2m"),
        (r"(?i)^\s*(\d{1,2})\s*o'clock(?:\s*([ap])\.?\s?m\.?)?\s*\.?$", r"\1:00 \2"),
        (r"(?i)^\s*(?:mon|tues|wednes|thurs|fri|satur|sun)day\s*,\s*(?=\w)", ""),
    )
)
_COMPARED = re.compile(
    r"\b([a-zA-Z])\s+(?:is|must be|should be)\s+(?:strictly\s+)?(?:(less|smaller|greater|larger|more)\s+than"
    r"(\s+or\s+equal\s+to)?|at\s+(least|most))\s+(?=[-\d\\.(])"
)
_SUP_OVER_SUB = re.compile(r"(?<![⁰¹²³⁴-⁹])([⁰¹²³⁴-⁹]+)\s*[⁄/∕]\s*([₀-₉]+)")
_SUPERSCRIPT_DIGITS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹₀₁₂₃₄₅₆₇₈₉", "0123456789" * 2)
_PER_MILLE = re.compile(r"(?<![\d.])(\d{1,9})(\.\d{1,9})?\s*(?:‰|\\permil(?![A-Za-z])|per ?mille\b)")
# Currencies by sign or code before or behind the amount; "$", "€", "£" and "USD" are read by `clean` and `kinds`.
_CURRENCIES = {
    "₹": "INR", "Rs": "INR", "₨": "INR", "INR": "INR", "₩": "KRW", "₽": "RUB", "₺": "TRY", "₪": "ILS", "฿": "THB",
    "₱": "PHP", "₫": "VND", "₦": "NGN", "元": "CNY", "人民币": "CNY", "RMB": "CNY", "CNY": "CNY", "円": "JPY",
    "¥": "JPY", "JPY": "JPY", "CHF": "CHF", "R$": "BRL", "A$": "AUD", "AU$": "AUD", "C$": "CAD", "CA$": "CAD",
    "NZ$": "NZD", "HK$": "HKD", "S$": "SGD", "EUR": "EUR", "GBP": "GBP", "SEK": "SEK", "NOK": "NOK", "DKK": "DKK",
    "PLN": "PLN", "AUD": "AUD", "CAD": "CAD", "KRW": "KRW", "zł": "PLN",
}  # fmt: skip
_CODES = "|".join(sorted((re.escape(code) for code in _CURRENCIES), key=len, reverse=True)).replace(r"\$", r"\\?\$")
_AMOUNT = r"\d[\d.,' ]*(?:\s?(?:thousand|million|billion|trillion))?"
_MONEY = re.compile(
    rf"\s*\$?(-?)\s*(?:(?<![A-Za-z])({_CODES})\.?\s*(-?)({_AMOUNT})|({_AMOUNT})({_CODES})\.?)\$?\s*\.?\s*"
)
_COUNTED = re.compile(r"([A-Za-z]+(?:[- ][A-Za-z]+){0,8}?)\s+(\S.{0,60})")
_TWICE = re.compile(r"(\S[^()]{0,60}?)\s*\(([^()]{1,60})\)\s*\.?")
_DOLLARS = re.compile(r"\s*(\${1,2})([^$]*)\1\s*")
_CASES = re.compile(r"\\begin\{cases\}(.*?)\\end\{cases\}", re.DOTALL)
_NOT_COUNTED = ("half", "a", "an", "one")


def unified(text: str) -> str:
    """The answer in signs and macros that `clean` reads."""
    text = without_fence(without_html(visible(text)))
    dollars = _DOLLARS.fullmatch(text)
    text = text if dollars is None else dollars[2]
    if not text.isascii():
        text = _SUP_OVER_SUB.sub(
            lambda m: rf"\frac{{{m[1].translate(_SUPERSCRIPT_DIGITS)}}}{{{m[2].translate(_SUPERSCRIPT_DIGITS)}}}", text
        )
        text = re.sub(r"[\uff01-\uff5e\uffe5]", lambda m: unicodedata.normalize("NFKC", m.group()), text)
        text = text.translate(_SIGNS)
    if "‰" in text or "permil" in text or "per mille" in text:
        text = _PER_MILLE.sub(lambda m: _tenth(m[1], m[2] or ".") + "%", text)
    money = _MONEY.fullmatch(text) if len(text) <= 60 else None
    if money is not None:
        code = (money[2] or money[6]).replace("\\", "")
        text = f"{money[1]}{money[3] or ''}{_amount(money[4] or money[5])} {_CURRENCIES[code]}"
    for pattern, new in _SAME:
        text = pattern.sub(new, text)
    text = _COMPARED.sub(_sign, text)
    if r"\begin{cases}" in text:
        text = _CASES.sub(lambda m: " " + re.sub(r"\\\\", ",", m[1].replace("&", "")) + " ", text)
    elif "&" in text and r"\begin" not in text:
        text = re.sub(r"(?<=[\d}])\s*\\?&\s*(?=[-\d\\])", ", ", text)
    return _words(text) if len(text) <= 120 else text


def _amount(text: str) -> str:
    return regrouped(text) or text.strip()


def _tenth(whole: str, rest: str) -> str:
    digits = whole.rjust(2, "0")
    return f"{digits[:-1]}.{digits[-1]}{rest[1:]}"


def _sign(match: re.Match[str]) -> str:
    less = match[2] in ("less", "smaller") or match[4] == "most"
    closed = match[3] or match[4]
    return f"{match[1]} {'<' if less else '>'}{'=' if closed else ''} "


def _words(text: str) -> str:
    """Numbers in words as digits where something follows ("fifty percent", "five apples"); "3 (three)" as 3."""
    twice = _TWICE.fullmatch(text.strip())
    if twice is not None:
        first, second = twice[1].strip(), twice[2].strip()
        if (first.isdigit() and spelled(second) == first) or (second.isdigit() and spelled(first) == second):
            return first if first.isdigit() else second
    found = None
    words = text.strip().split(" ")
    if not words[0][:1].isalpha() or spelled(text) is not None:
        return text
    for count in range(1, min(len(words), 9)):
        value = spelled(" ".join(words[:count]))
        if value is not None:
            found = value, " ".join(words[count:])
    if found is None or words[0].casefold() in _NOT_COUNTED:
        return text
    return f"{found[0]} {found[1]}" if re.match(r"[A-Za-z%]", found[1]) and "/" not in found[0] else text


_LAKHS = re.compile(r"(-?\d{1,2}(?:,\d{2})+,\d{3})(\.\d+)?")
_DOTTED = re.compile(r"(-?\d{1,3}(?:\.\d{3})+)(?:,(\d+))?")
_SPACED = re.compile(r"(-?\d{1,3}(?: \d{3})+),(\d+)")
_UNDERSCORED = re.compile(r"(-?\d{1,3}(?:_\d{3})+)(\.\d+)?")


def regrouped(text: str) -> str | None:
    """A whole answer as one number whose thousands are grouped in another way; None if it is none.

    As in India ("12,34,567"), with dots ("1.234.567", "1.234,5"), spaces and a decimal comma ("1 234,5"), underscores.
    "1.234" is a decimal, "1,5" two numbers.
    """
    text = text.strip().strip("$ ")
    match = _LAKHS.fullmatch(text) or _UNDERSCORED.fullmatch(text)
    if match is not None:
        return re.sub("[,_]", "", match[1]) + (match[2] or "")
    match = _SPACED.fullmatch(text)
    if match is None:
        match = _DOTTED.fullmatch(text)
        if match is None or (match[2] is None and match[1].count(".") < 2):
            return None
    return re.sub(r"[. ]", "", match[1]) + (f".{match[2]}" if match[2] else "")
