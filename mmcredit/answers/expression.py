"""Plain-text mathematics as a sympy expression, read by a small parser: nothing is evaluated as code.

sympy's own `parse_expr` hands the text to Python's `eval`; a model's answer must never reach that.
"""

from __future__ import annotations

import re
from typing import Any

_TOKEN = re.compile(
    r"\s*(?:(\d+\.\d*(?:e[-+]?\d+)?|\.\d+(?:e[-+]?\d+)?|\d+e[-+]?\d+|\d+)|([^\W\d_]+)|(\*\*|[-+*/^()!]))"
)
_FUNCTIONS = ("sqrt", "sin", "cos", "tan", "ln", "log", "exp")
_DEEPEST = 60


def parse(text: str) -> Any:
    """The sympy expression of a text such as "2sqrt(3)/3", "x^2-1", "3pi".

    Numbers, letters (pi is the number, other words are products of their letters, as in sympy's implicit
    multiplication), the usual functions, + - * / ^ ** ! and round brackets. Raises ValueError for anything else, and
    for powers and factorials of thousands of digits.
    """
    return _Parser(text).whole()


class _Parser:
    """Recursive descent over the tokens of one expression."""

    def __init__(self, text: str) -> None:
        import sympy

        self.sympy = sympy
        self.tokens: list[tuple[str, str]] = []  # (kind, text)
        at = 0
        text = text.rstrip()
        while at < len(text):
            match = _TOKEN.match(text, at)
            if match is None:
                raise ValueError(f"{text[at]!r} is not part of an expression")
            kind = ("number", "word", "sign")[match.lastindex - 1] if match.lastindex else "sign"
            self.tokens.append((kind, match.group(match.lastindex or 0)))
            at = match.end()
        self.at = 0
        self.depth = 0

    def whole(self) -> Any:
        value = self.sum()
        if self.at < len(self.tokens):
            raise ValueError(f"unexpected {self.tokens[self.at][1]!r}")
        return value

    def peek(self) -> str:
        return self.tokens[self.at][1] if self.at < len(self.tokens) else ""

    def take(self) -> str:
        self.at += 1
        return self.tokens[self.at - 1][1]

    def sum(self) -> Any:
        self.depth += 1
        if self.depth > _DEEPEST:
            raise ValueError(f"brackets are nested more than {_DEEPEST} deep")
        value = self.product()
        while self.peek() in ("+", "-"):
            value = value + self.product() if self.take() == "+" else value - self.product()
        self.depth -= 1
        return value

    def product(self) -> Any:
        value = self.signed()
        while True:
            following = self.peek()
            if following == "*":
                self.take()
                value = value * self.signed()
            elif following == "/":
                self.take()
                value = value / self.signed()
            elif following == "(" or (self.at < len(self.tokens) and self.tokens[self.at][0] != "sign"):
                value = value * self.power()
            else:
                return value

    def signed(self) -> Any:
        minus = False
        while self.peek() in ("+", "-"):
            minus ^= self.take() == "-"
        value = self.power()
        return -value if minus else value

    def power(self) -> Any:
        base = self.atom()
        while self.peek() == "!":
            self.take()
            if base.is_number and not abs(base) < 200:
                raise ValueError("a factorial beyond 200! is not computed")
            base = self.sympy.factorial(base)
        if self.peek() in ("^", "**"):
            self.take()
            self.depth += 1
            if self.depth > _DEEPEST:
                raise ValueError(f"powers are nested more than {_DEEPEST} deep")
            base = self.raised(base, self.signed())
            self.depth -= 1
        return base

    def raised(self, base: Any, exponent: Any) -> Any:
        """A power, unless it is a number of more than some thousand digits: sympy would compute all of them."""
        if base.is_number and exponent.is_number and not abs(exponent.evalf(5)) * (1 + abs(self.size(base))) < 10_000:
            raise ValueError("the power is too large to compute")
        return base**exponent

    def size(self, number: Any) -> float:
        """About how many bits the number has."""
        if number.is_Rational:
            return float(max(abs(number.p).bit_length(), number.q.bit_length()))
        return float(abs(self.sympy.log(abs(number.evalf(5)) + 1)))

    def atom(self) -> Any:
        if self.at >= len(self.tokens):
            raise ValueError("the expression ends too early")
        kind, text = self.tokens[self.at]
        self.at += 1
        if kind == "number":
            return self.sympy.Integer(text) if text.isdigit() else self.sympy.Float(text)
        if kind == "word":
            return self.word(text)
        if text == "(":
            return self.closed()
        raise ValueError(f"unexpected {text!r}")

    def closed(self) -> Any:
        value = self.sum()
        if self.peek() != ")":
            raise ValueError("a bracket is not closed")
        self.take()
        return value

    def word(self, text: str) -> Any:
        """A constant, a function with its argument, or letters."""
        sympy = self.sympy
        called = self.peek() == "("
        for name in _FUNCTIONS:
            if called and text.endswith(name):
                self.take()
                function = sympy.log if name == "ln" else getattr(sympy, name)
                return self.letters(text.removesuffix(name)) * function(self.closed())
        return self.letters(text)  # a letter before a bracket is a factor: x(x+1)

    def letters(self, text: str) -> Any:
        """The product of the letters, in which pi is one; 1 for none."""
        value = self.sympy.Integer(1)
        for part in re.findall("pi|.", text):
            value = value * (self.sympy.pi if part == "pi" else self.sympy.Symbol(part))
        return value


def equal(given: str, reference: str) -> bool:
    """Whether the simplified difference of two expressions is 0; False if one cannot be read."""
    import sympy

    try:
        return bool(sympy.simplify(parse(reference) - parse(given)) == 0)
    except (ValueError, TypeError, ArithmeticError, AttributeError, RecursionError, NotImplementedError):
        return False  # a comparison that sympy gives up on is no equality
