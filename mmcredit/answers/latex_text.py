"""Short LaTeX answers as plain text: what graders of mathematics do to an answer before they compare it."""

from __future__ import annotations

import re

_GREEK = (
    *("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa", "lambda", "mu", "nu"),
    *("xi", "omicron", "pi", "rho", "varsigma", "sigma", "tau", "upsilon", "phi", "chi", "psi", "omega"),
)
_SYMBOLS = {
    **{name: chr(0x3B1 + i) for i, name in enumerate(_GREEK)},
    **{name.capitalize(): chr(0x391 + i) for i, name in enumerate(_GREEK) if name != "varsigma"},
    **{"infty": "∞", "cup": "∪", "cap": "∩", "cdot": "·", "times": "×", "div": "÷", "pm": "±", "mp": "∓", "le": "≤"},
    **{"leq": "≤", "ge": "≥", "geq": "≥", "neq": "≠", "ne": "≠", "approx": "≈", "in": "∈", "emptyset": "∅", "to": "→"},
    **{"circ": "∘", "angle": "∠", "perp": "⊥", "parallel": "∥", "subset": "⊂", "varphi": "φ", "phi": "ϕ", "ldots": "…"},
    **{"quad": "  ", "qquad": "    ", "sin": "sin", "cos": "cos", "tan": "tan", "log": "log", "ln": "ln", "exp": "exp"},
    **{"\\": "\n", ",": " ", ";": " ", ":": " ", " ": " ", "!": "", "{": "{", "}": "}", "%": "%", "$": "$", "&": "&"},
    **{"#": "#", "_": "_"},
}
_TOKEN = re.compile(r"\\([A-Za-z]+|.)\s*|\s+|.", re.DOTALL)
_DEEPEST = 50  # braces inside braces; beyond, an answer is left as it is


def plain_text(latex: str) -> str:
    r"""LaTeX as text: ``\frac{a}{b}`` is a/b, ``\sqrt{x}`` is sqrt(x), Greek letters and signs become characters.

    As in the conversion that MathRuler uses, a fraction gets no brackets, the degree of a root is lost, an unknown
    macro disappears and its arguments stay, and braces disappear. Raises ValueError for braces nested too deep.
    """
    tokens = [match.group() for match in _TOKEN.finditer(latex)]
    text, _ = _Reader(tokens).sequence(0, 0)
    return text


class _Reader:
    """Turns tokens into text by recursive descent; every method returns the text and where it ends."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens

    def sequence(self, at: int, depth: int) -> tuple[str, int]:
        """Text of the tokens up to the brace that closes this level."""
        if depth > _DEEPEST:
            raise ValueError(f"braces are nested more than {_DEEPEST} deep")
        parts: list[str] = []
        while at < len(self.tokens):
            if self.tokens[at] == "}":
                if depth:
                    return "".join(parts), at + 1
                at += 1
                continue
            text, at = self.one(at, depth)
            parts.append(text)
        return "".join(parts), at

    def one(self, at: int, depth: int) -> tuple[str, int]:
        """Text of one token, group or macro with its arguments."""
        token = self.tokens[at]
        if token == "{":
            return self.sequence(at + 1, depth + 1)
        if not token.startswith("\\"):
            return token, at + 1
        name = token[1:].rstrip() or token[1:]
        at += 1
        if name == "frac":
            top, at = self.argument(at, depth)
            bottom, at = self.argument(at, depth)
            return f"{top}/{bottom}", at
        if name == "sqrt":
            if at < len(self.tokens) and self.tokens[at] == "[":
                end = next((i for i in range(at, len(self.tokens)) if self.tokens[i] == "]"), len(self.tokens))
                at = end + 1
            inside, at = self.argument(at, depth)
            return f"sqrt({inside})", at
        if name in ("mbox", "hspace", "vspace"):
            _, at = self.argument(at, depth)
            return "", at
        return _SYMBOLS.get(name, ""), at

    def argument(self, at: int, depth: int) -> tuple[str, int]:
        """The next group, macro or character; nothing at the end of a group."""
        while at < len(self.tokens) and self.tokens[at].isspace():
            at += 1
        if at >= len(self.tokens) or self.tokens[at] == "}":
            return "", at
        if depth + 1 > _DEEPEST:
            raise ValueError(f"macros are nested more than {_DEEPEST} deep")
        return self.one(at, depth + 1)


# --- pieces of the normal form of the MATH data set (Hendrycks et al. 2021, arXiv 2103.03874) -------------------------


def brace_roots(text: str, strict: bool = True) -> str:
    r"""``\sqrt3`` as ``\sqrt{3}``. Where no argument follows: IndexError, or unchanged if not `strict`."""
    first, *rest = text.split("\\sqrt")
    done = first
    for part in rest:
        braced = (not part and not strict) or part[0] == "{"
        done += "\\sqrt" + (part if braced else f"{{{part[0]}}}{part[1:]}")
    return done


def brace_fractions(text: str, strict: bool = True) -> str:
    r"""``\frac12`` and ``\frac1{2}`` with braces. One without two arguments leaves the text as it is.

    Where nothing at all follows: IndexError, or the text as it is if not `strict`.
    """
    first, *rest = text.split("\\frac")
    done = first
    for part in rest:
        if not part and not strict:
            return text
        if part[0] == "{":
            done += "\\frac" + part
        elif len(part) < 2:
            return text
        elif part[1] == "{":
            done += f"\\frac{{{part[0]}}}{part[1:]}"
        else:
            done += f"\\frac{{{part[0]}}}{{{part[1]}}}{part[2:]}"
    return done


def slashed(text: str) -> str:
    r"""``3/4`` as ``\frac{3}{4}``; only for two plain integers."""
    top, slash, bottom = text.partition("/")
    if slash and _plain_integer(top) and _plain_integer(bottom):
        return f"\\frac{{{top}}}{{{bottom}}}"
    return text


def _plain_integer(text: str) -> bool:
    return re.fullmatch(r"-?(?:0|[1-9][0-9]{0,400})", text) is not None and text != "-0"
