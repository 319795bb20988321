"""An expression as tokens: numbers, macros, signs, and letters that are functions or variables side by side."""

from __future__ import annotations

import re
from typing import Any

from mpmath import mp

from mmcredit.rewards.equality.arithmetic import NoExpressionError

Token = tuple[str, str]  # kind (number, macro, name, sign, end) and text
LONGEST = 600  # characters of an expression

_TOKEN = re.compile(
    r"\s*(?:(?P<number>\d+\.(?=\\overline)|\d+(?:\.\d+)?(?:[eE][-+]?\d+(?![A-Za-z\d]))?|\.\d+(?:[eE][-+]?\d+(?![A-Za-z\d]))?)"
    r"|(?P<macro>\\[A-Za-z]+|\\[{}])|(?P<word>[A-Za-z]+)|(?P<sign>[-+*/^_(){}\[\]|!,'%]))"
)
FUNCTIONS: dict[str, Any] = {
    name: getattr(mp, target)
    for name, target in {
        "sin": "sin", "cos": "cos", "tan": "tan", "sec": "sec", "csc": "csc", "cot": "cot", "sinh": "sinh",
        "cosh": "cosh", "tanh": "tanh", "arcsin": "asin", "arccos": "acos", "arctan": "atan", "asin": "asin",
        "acos": "acos", "atan": "atan", "ln": "log", "exp": "exp", "sqrt": "sqrt", "abs": "fabs", "Re": "re",
        "Im": "im", "floor": "floor", "ceil": "ceil",
    }.items()
}  # fmt: skip
GREEK = frozenset(
    (
        "alpha", "beta", "gamma", "delta", "epsilon", "varepsilon", "zeta", "eta", "theta", "vartheta", "iota",
        "kappa", "lambda", "mu", "nu", "xi", "rho", "sigma", "tau", "upsilon", "phi", "varphi", "chi", "psi",
        "omega", "Gamma", "Delta", "Theta", "Lambda", "Xi", "Sigma", "Phi", "Psi", "Omega", "ell", "hbar",
    )
)  # fmt: skip


def tokens(text: str) -> list[Token]:
    """The tokens of an expression. Raises NoExpressionError."""
    if len(text) > LONGEST:
        raise NoExpressionError(f"{len(text)} characters")
    found: list[Token] = []
    place = 0
    text = text.strip()
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None:
            raise NoExpressionError(f"{text[place : place + 10]!r}")
        kind = str(match.lastgroup)
        piece = match.group(kind)
        found += _letters(piece) if kind == "word" else [(kind, piece)]
        place = match.end()
    if not found:
        raise NoExpressionError("empty")
    return found


def _letters(word: str) -> list[Token]:
    """A run of letters: a function, a name of capitals (the segment AB is no product), or variables side by side."""
    if len(word) > 1 and word.isupper():
        return [("name", word)]
    if word in FUNCTIONS or word in ("log", "pi") or word in GREEK:
        return [("name", word)]
    for name in sorted((*FUNCTIONS, "log", "pi"), key=len, reverse=True):
        if word.endswith(name) and len(word) <= len(name) + 2:
            return [*(("name", c) for c in word[: -len(name)]), ("name", name)]
    return [("name", c) for c in word]
