r"""What an expression is worth, at given values of its variables: a parser of LaTeX and plain text, without eval.

Two expressions are equal if they are worth the same at random points: no simplification that may never end, and no
false verdict of a simplifier that gives up. Numbers are mpmath's, with `DIGITS` digits; exact fractions stay exact as
long as only +, -, *, / and small whole powers are applied. Sizes are bounded before anything is computed.
"""

from __future__ import annotations

import contextlib
import random
import re
from fractions import Fraction
from typing import Any

from mpmath import mp, mpc, mpf

from mmcredit.rewards.equality.arithmetic import (
    DIGITS,
    NoExpressionError,
    Value,
    add,
    close,
    decimal,
    div,
    factorial,
    logarithm,
    mul,
    neg,
    number,
    power,
    repeating,
    root,
    whole_part,
)

LONGEST = 600  # characters of an expression
_DEEPEST = 40


_TOKEN = re.compile(
    r"\s*(?:(?P<number>\d+\.(?=\\overline)|\d+(?:\.\d+)?(?:[eE][-+]?\d+(?![A-Za-z\d]))?|\.\d+)|(?P<macro>\\[A-Za-z]+|\\[{}])|(?P<word>[A-Za-z]+)"
    r"|(?P<sign>[-+*/^_(){}\[\]|!,'%]))"
)
_FUNCTIONS: dict[str, Any] = {
    name: getattr(mp, target)
    for name, target in {
        "sin": "sin", "cos": "cos", "tan": "tan", "sec": "sec", "csc": "csc", "cot": "cot", "sinh": "sinh",
        "cosh": "cosh", "tanh": "tanh", "arcsin": "asin", "arccos": "acos", "arctan": "atan", "asin": "asin",
        "acos": "acos", "atan": "atan", "ln": "log", "exp": "exp", "sqrt": "sqrt", "abs": "fabs", "Re": "re",
        "Im": "im", "floor": "floor", "ceil": "ceil",
    }.items()
}  # fmt: skip
_GREEK = frozenset(
    (
        "alpha", "beta", "gamma", "delta", "epsilon", "varepsilon", "zeta", "eta", "theta", "vartheta", "iota",
        "kappa", "lambda", "mu", "nu", "xi", "rho", "sigma", "tau", "upsilon", "phi", "varphi", "chi", "psi",
        "omega", "Gamma", "Delta", "Theta", "Lambda", "Xi", "Sigma", "Phi", "Psi", "Omega", "ell", "hbar",
    )
)  # fmt: skip


def same_value(first: str, second: str) -> bool:
    """Whether two expressions agree at random points. Raises NoExpressionError if one cannot be read."""
    a, b = Expression(first), Expression(second)
    names = sorted(a.names() | b.names())
    agreed = 0
    signed = any(token[1] in ("|", "abs") for side in (a, b) for token in side.tokens)
    for seed in range(12):
        draw = random.Random(seed)
        point = {name: mpf(draw.randint(2000, 9000)) / 1009 + mpf(draw.random()) / 1000 for name in names}
        if signed and seed % 2:  # |x| and x differ below 0 only; roots of products are taken to be of positive numbers
            point = {name: -value for name, value in point.items()}
        try:
            x, y = a.at(point), b.at(point)
        except (ZeroDivisionError, OverflowError):
            continue
        if not close(x, y):
            return False
        agreed += 1
        if not names or agreed == 4:
            return True
    raise NoExpressionError("the expressions have no value at the points tried")


class Expression:
    """A text as tokens; `at` walks it with a recursive descent and computes on the way."""

    def __init__(self, text: str) -> None:
        if len(text) > LONGEST:
            raise NoExpressionError(f"{len(text)} characters")
        self.tokens: list[tuple[str, str]] = []
        place = 0
        text = text.strip()
        while place < len(text):
            match = _TOKEN.match(text, place)
            if match is None:
                raise NoExpressionError(f"{text[place : place + 10]!r}")
            kind = str(match.lastgroup)
            found = match.group(kind)
            self.tokens += _letters(found) if kind == "word" else [(kind, found)]
            place = match.end()
        if not self.tokens:
            raise NoExpressionError("empty")
        self._point: dict[str, Value] | None = {}
        self._seen: set[str] = set()
        self._names: set[str] | None = None

    def names(self) -> set[str]:
        """Its variables."""
        if self._names is None:
            self._seen, self._point = set(), None
            with contextlib.suppress(ZeroDivisionError, OverflowError):
                self._walk()
            self._names = self._seen
        return self._names

    def at(self, point: dict[str, Value]) -> Value:
        """Its value. Raises NoExpressionError, ZeroDivisionError, OverflowError."""
        self._point = point
        return self._walk()

    def _walk(self) -> Value:
        self.i, self.depth = 0, 0
        with mp.workdps(DIGITS):
            try:
                value = self._sum()
            except (ValueError, TypeError, ArithmeticError, RecursionError) as error:
                if isinstance(error, NoExpressionError | ZeroDivisionError | OverflowError):
                    raise
                raise NoExpressionError(str(error)) from None
        if self.i < len(self.tokens):
            raise NoExpressionError(f"left over: {self.tokens[self.i][1]!r}")
        return value

    # -- grammar -------------------------------------------------------------------------------------------------

    def _peek(self, ahead: int = 0) -> tuple[str, str]:
        return self.tokens[self.i + ahead] if self.i + ahead < len(self.tokens) else ("end", "")

    def _take(self, text: str) -> bool:
        if self._peek()[1] == text and self._peek()[0] != "end":
            self.i += 1
            return True
        return False

    def _need(self, text: str) -> None:
        if not self._take(text):
            raise NoExpressionError(f"{text!r} is missing before {self._peek()[1]!r}")

    def _sum(self) -> Value:
        self.depth += 1
        if self.depth > _DEEPEST:
            raise NoExpressionError("too deep")
        value = self._product()
        while self._peek()[1] in ("+", "-") and self._peek()[0] == "sign":
            sign = self._peek()[1]
            self.i += 1
            term = self._product()
            value = add(value, term if sign == "+" else neg(term))
        self.depth -= 1
        return value

    def _product(self) -> Value:
        negative = False
        while self._peek()[1] in ("+", "-"):
            negative ^= self._peek()[1] == "-"
            self.i += 1
        value = self._mixed() or self._power()
        while True:
            kind, text = self._peek()
            if text in ("*", r"\times", r"\cdot"):
                self.i += 1
                value = mul(value, self._signed())
            elif text == "/":
                self.i += 1
                value = div(value, self._signed())
            elif text == "%":
                self.i += 1
                value = div(value, Fraction(100))
            elif self._starts(kind, text):
                value = mul(value, self._power())
            else:
                return neg(value) if negative else value

    def _signed(self) -> Value:
        negative = False
        while self._peek()[1] in ("+", "-"):
            negative ^= self._peek()[1] == "-"
            self.i += 1
        value = self._power()
        return neg(value) if negative else value

    def _starts(self, kind: str, text: str) -> bool:
        if kind in ("number", "name"):
            return True
        if kind == "macro":
            return text not in (r"\}", r"\rfloor", r"\rceil", r"\times", r"\cdot", r"\rangle")
        return text in ("(", "{", "[") or (text == "|" and not self._bars)

    _bars = 0

    def _mixed(self) -> Value | None:
        """A whole number directly before a fraction of whole numbers: 2 1/2, 2\\frac{1}{2}."""
        kinds = [self._peek(n) for n in range(8)]
        whole = kinds[0]
        if whole[0] != "number" or not whole[1].isdigit():
            return None
        plain = [k for k, _ in kinds[1:4]], kinds[2][1]
        if (
            plain[0] == ["number", "sign", "number"]
            and plain[1] == "/"
            and kinds[1][1].isdigit()
            and kinds[3][1].isdigit()
        ):
            self.i += 4
            return Fraction(int(whole[1])) + div(Fraction(int(kinds[1][1])), Fraction(int(kinds[3][1])))
        texts = [t for _, t in kinds[1:8]]
        shape = texts[:2] + texts[3:5] + texts[6:] == [r"\frac", "{", "}", "{", "}"]
        if shape and texts[2].isdigit() and texts[5].isdigit():
            self.i += 8
            return Fraction(int(whole[1])) + div(Fraction(int(texts[2])), Fraction(int(texts[5])))
        return None

    def _power(self) -> Value:
        base = self._postfix()
        if self._take("^"):
            if self._peek()[1] == "{" and self._peek(1)[1] == r"\circ" and self._peek(2)[1] == "}":
                self.i += 3
                return base  # degrees: a unit, cut off elsewhere
            exponent = self._exponent()
            return power(base, exponent)
        return base

    def _exponent(self) -> Value:
        negative = False
        while self._peek()[1] in ("+", "-"):
            negative ^= self._peek()[1] == "-"
            self.i += 1
        value = self._power()
        return neg(value) if negative else value

    def _postfix(self) -> Value:
        value = self._atom()
        while self._take("!"):
            value = factorial(value)
        return value

    def _group(self) -> Value:
        """`{...}`, or the one thing that stands there."""
        if self._take("{"):
            value = self._sum()
            self._need("}")
            return value
        return self._atom()

    def _atom(self) -> Value:
        kind, text = self._peek()
        self.i += 1
        if kind == "number":
            return self._number(text)
        if kind == "name":
            return self._name(text)
        closing = {"(": ")", "{": "}", "[": "]", r"\lfloor": r"\rfloor", r"\lceil": r"\rceil"}
        if text in closing:
            bars, self._bars = self._bars, 0
            value = self._sum()
            self._bars = bars
            self._need(closing[text])
            if text == r"\lfloor":
                return whole_part(value)
            return neg(whole_part(neg(value))) if text == r"\lceil" else value
        if text == "|":
            self._bars += 1
            value = self._sum()
            self._bars -= 1
            self._need("|")
            return abs(value)
        if kind == "macro":
            return self._macro(text[1:])
        raise NoExpressionError(f"{text!r}")

    def _number(self, text: str) -> Value:
        if self._peek()[1] == r"\overline" and "." in text:
            self.i += 1
            self._need("{")
            kind, repeated = self._peek()
            if kind != "number" or not repeated.isdigit():
                raise NoExpressionError("repeating digits")
            self.i += 1
            self._need("}")
            return repeating(text, repeated)
        return decimal(text)

    def _name(self, text: str) -> Value:
        if text in _FUNCTIONS or text == "log":
            return self._function(text)
        if text == "pi":
            return +mp.pi
        return self._variable(text)

    def _variable(self, text: str) -> Value:
        if self._take("_"):
            start = self.i
            self._skip_group()
            text += "_" + "".join(t for _, t in self.tokens[start : self.i]).strip("{}")
        while self._take("'"):
            text += "'"
        if text == "e":
            return +mp.e
        if text == "i":
            return mpc(0, 1)
        self._seen.add(text)
        if self._point is None:
            return mpf(3) / 7 + len(text) + ord(text[-1]) / mpf(1000)
        return self._point[text]

    def _skip_group(self) -> None:
        if not self._take("{"):
            self.i += 1
            return
        depth = 1
        while depth:
            kind, text = self._peek()
            if kind == "end":
                raise NoExpressionError("a brace is open")
            depth += (text == "{") - (text == "}")
            self.i += 1

    def _macro(self, name: str) -> Value:
        if name == "frac":
            top = self._group()
            return div(top, self._group())
        if name == "binom":
            top, bottom = self._group(), self._group()
            return div(factorial(top), mul(factorial(bottom), factorial(add(top, neg(bottom)))))
        if name == "sqrt":
            degree: Value = Fraction(2)
            if self._take("["):
                degree = self._sum()
                self._need("]")
            return root(self._group(), degree)
        if name == "pi":
            return +mp.pi
        if name == "infty":
            return mpf("inf")
        if name in _FUNCTIONS or name in ("log", "lg"):
            return self._function(name)
        if name == "overline" or name == "angle":
            raise NoExpressionError(name)
        if name in _GREEK:
            return self._variable(name)
        raise NoExpressionError(f"\\{name}")

    def _function(self, name: str) -> Value:
        base: Value | None = None
        if name in ("log", "lg"):
            base = Fraction(10)
            if self._take("_"):
                base = self._group()
        exponent: Value | None = None
        if self._take("^"):
            exponent = self._group_signed()
        argument = self._argument()
        if base is not None:
            value = logarithm(argument, base)
        elif name == "sqrt":
            value = root(argument, Fraction(2))
        elif name == "abs":
            value = abs(argument)
        else:
            if exponent == -1 and name in ("sin", "cos", "tan"):
                name, exponent = "arc" + name, None
            value = _FUNCTIONS[name](number(argument))
        return value if exponent is None else power(value, exponent)

    def _group_signed(self) -> Value:
        if self._peek()[1] == "{":
            return self._group()
        return self._exponent()

    def _multiplies(self) -> bool:
        kind, text = self._peek()
        return (kind in ("number", "name") and text not in _FUNCTIONS) or text == r"\pi"

    def _argument(self) -> Value:
        """`(...)`, or the product that follows without a bracket: sin 2x."""
        if self._peek()[1] in ("(", "{", "["):
            return self._atom()
        value = self._power()
        while self._multiplies():
            value = mul(value, self._power())
        if self._peek()[1] == "/" and self._peek(1)[0] == "number":
            self.i += 1
            value = div(value, self._power())
        return value


def _letters(word: str) -> list[tuple[str, str]]:
    """A run of letters: a function, or variables side by side."""
    if word in _FUNCTIONS or word in ("log", "pi") or word in _GREEK:
        return [("name", word)]
    for name in sorted((*_FUNCTIONS, "log", "pi"), key=len, reverse=True):
        if word.endswith(name) and len(word) <= len(name) + 2:
            return [*(("name", c) for c in word[: -len(name)]), ("name", name)]
    return [("name", c) for c in word]
