r"""The number that a LaTeX expression stands for, as the pair latex2sympy2 and Python's `eval` computes it.

MATH-Vision's scorer hands an answer to latex2sympy2 1.9.1, writes what that makes of it as Python and evaluates the
text with the names of `math`. What it can and cannot read there decides who is right; this reads the same expressions,
into the same whole or decimal numbers, and evaluates no code.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable

Number = int | float

LONGEST = 400  # characters of an expression that are read
_DEEPEST = 40
_BITS = 10_000  # of a whole number, beyond which nothing is computed (Python prints up to 4,300 digits)

_TOKEN = re.compile(
    r"""
    (?P<number>\d+(?:,\d{3})*(?:\.\d+)?|\.\d+)(?P<percent>\\%)?
  | \\(?!(?:left|right)\s*[()\[\]\\])(?P<macro>[a-zA-Z]+)
  | (?P<letter>[a-zA-Z])
  | (?P<bracket>\\(?:left|right)\s*(?:\\[{}]|[()\[\]]))
  | (?P<sign>\\[{}\\]|[-+*/:^_!(){}\[\]|=,<>.&'])
    """,
    re.VERBOSE,
)
_RELATIONS: dict[str, Callable[[float, float], bool]] = {
    **{"<": operator.lt, ">": operator.gt, "lt": operator.lt, "gt": operator.gt},
    **{"leq": operator.le, "le": operator.le, "geq": operator.ge, "ge": operator.ge},
}
_SPACE = re.compile(r"(?:\s|\$|~|\\,|\\(?:displaystyle|quad|qquad)(?![a-zA-Z]))+")

_FUNCTIONS: dict[str, Callable[[float], float]] = {
    **{name: getattr(math, name) for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh", "exp")},
    **{f"arc{name}": getattr(math, f"a{name}") for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh")},
    **{f"ar{name}": getattr(math, f"a{name}") for name in ("sinh", "cosh", "tanh")},
}
_PAIRS = {"(": ")", "[": "]", "\\{": "\\}"}
_CLOSING = {**_PAIRS, "{": "}", **{f"\\left{a}": f"\\right{b}" for a, b in _PAIRS.items()}}
# What ends an expression without being part of it: nothing after it is looked at.
_ENDS = (*_CLOSING.values(), ".", "_", "&", "'", "\\\\")
_ARROWS = ("to", "rightarrow", "Rightarrow", "longrightarrow", "Longrightarrow")
_TIMES = ("times", "cdot")
_FRACTIONS, _BINOMIALS = ("frac", "dfrac", "tfrac"), ("binom", "dbinom", "tbinom")
_PLAIN = frozenset({*_FRACTIONS, *_BINOMIALS, "pi", "lfloor"})  # macros that begin a factor
_CALLED = frozenset({*_FUNCTIONS, "log", "sqrt", "gcd", "lcm"})  # the same, but not in an argument without brackets


def latex_number(text: str) -> Number | None:
    r"""The value of an expression; None if it has none there.

    Whole numbers stay whole under + - * and powers; a quotient is a decimal number, also 2/2. Read are thousands commas
    and per cent (``10\%``), ``\frac``, ``\binom``, ``\sqrt``, ``\pi``, logarithms with a base (10 if none is given),
    trigonometry in radians, factorials, ``\lfloor``, ratios (``2:3``), and the right side of ``x = 5``. Unknowns, e and
    ``\ln``, absolute values, ``\infty``, complex numbers, matrices and lists have no value.
    """
    if len(text) > LONGEST:
        return None
    try:
        value = _Reader(text).whole()
    except (ValueError, TypeError, ArithmeticError, RecursionError):
        return None
    return value if isinstance(value, int) or math.isfinite(value) else None


class _Reader:
    """Recursive descent over the tokens of an expression; every method returns a number."""

    def __init__(self, text: str) -> None:
        self.tokens: list[tuple[str, str]] = []  # (kind, text); a number's per cent sign is part of it
        at = 0
        while at < len(text):
            if (blank := _SPACE.match(text, at)) is not None:
                at = blank.end()
                continue
            found = _TOKEN.match(text, at)
            if found is None:  # reached only if what stands before does not end an expression
                self.tokens.append(("unknown", text[at]))
                break
            kind = next(name for name in ("number", "bracket", "macro", "letter", "sign") if found[name] is not None)
            if kind == "bracket":
                self.tokens.append(("sign", re.sub(r"\s", "", found[kind])))
            else:
                self.tokens.append((kind, found[kind] + (found["percent"] or "")))
            at = found.end()
        self.at = 0
        self.depth = 0

    def whole(self) -> Number:
        self.at = self.unknown()
        value = self.sum()
        if self.sees("<", ">") or self.names(*_RELATIONS):  # true is 1
            value = int(_RELATIONS[self.take()](value, self.sum()))
        after_factorial = self.sees("^") and self.tokens[self.at - 1][1] == "!"
        ended = after_factorial or self.sees(*_ENDS) or self.names(*_ARROWS)
        if self.at < len(self.tokens) and not ended:
            raise ValueError(f"unexpected {self.tokens[self.at][1]!r}")
        return value

    def unknown(self) -> int:
        """How many tokens name an unknown that is given a value: "x =", "x_1 =", ``\alpha =``; 0 if none does."""
        words = [text for _, text in self.tokens]
        if "=" not in words or self.tokens[0][0] not in ("letter", "macro") or words[0] in (*_PLAIN, *_CALLED, "e"):
            return 0
        end = words.index("=")
        inner = words[2:end] if end > 1 and words[1] == "_" else words[1:end]
        named = end == 1 or (words[1] == "_" and (len(inner) == 1 or (inner[0], inner[-1]) == ("{", "}")))
        return end + 1 if named else 0

    # --- tokens

    def sees(self, *signs: str) -> bool:
        return self.at < len(self.tokens) and self.tokens[self.at] in [("sign", sign) for sign in signs]

    def names(self, *macros: str) -> bool:
        return self.at < len(self.tokens) and self.tokens[self.at] in [("macro", name) for name in macros]

    def take(self) -> str:
        if self.at >= len(self.tokens):
            raise ValueError("the expression ends too early")
        self.at += 1
        return self.tokens[self.at - 1][1]

    def expect(self, sign: str) -> None:
        if not self.sees(sign):
            raise ValueError(f"{sign!r} is missing")
        self.at += 1

    # --- operations, from the weakest

    def sum(self) -> Number:
        self.depth += 1
        if self.depth > _DEEPEST:
            raise ValueError(f"nested more than {_DEEPEST} deep")
        value = self.product()
        while self.sees("+", "-"):
            value = value + self.product() if self.take() == "+" else value - self.product()
        self.depth -= 1
        return value

    def product(self, functions: bool = True) -> Number:
        value = self.signed(functions)
        while True:
            if self.sees("*") or self.names(*_TIMES):
                self.take()
                value = self.multiplied(value, self.signed(functions))
            elif self.sees("/", ":") or self.names("div"):
                self.take()
                value = value / self.signed(functions)
            else:
                return value

    def signed(self, functions: bool) -> Number:
        if self.sees("+", "-"):
            minus = self.take() == "-"
            value = self.signed(functions)
            return -value if minus else value
        value = self.postfix()
        while self.begins(functions):
            value = self.multiplied(value, self.postfix())
        return value

    def begins(self, functions: bool) -> bool:
        """Whether a factor without a sign before it follows; after ``\\sin x`` no further function belongs to x."""
        if self.at >= len(self.tokens):
            return False
        kind, text = self.tokens[self.at]
        if kind == "sign":
            return text in _CLOSING
        return kind != "macro" or text in _PLAIN or (functions and text in _CALLED)

    def postfix(self) -> Number:
        value = self.power()
        while self.sees("!"):
            self.take()
            if not isinstance(value, int) or not 0 <= value <= 1000:
                raise ValueError("no factorial")
            value = math.factorial(value)
        return value

    def power(self) -> Number:
        value = self.atom()
        while self.sees("^"):
            self.take()
            value = self.raised(value, self.argument())
        return value

    def argument(self) -> Number:
        """What stands in braces, or a single number or letter."""
        if self.sees("{"):
            return self.closed("}")
        kind = self.tokens[self.at][0] if self.at < len(self.tokens) else ""
        if kind == "sign" or (kind == "macro" and not self.names("pi")):
            raise ValueError("an exponent or index is one number, or stands in braces")
        return self.atom()

    @staticmethod
    def multiplied(a: Number, b: Number) -> Number:
        if isinstance(a, int) and isinstance(b, int) and a.bit_length() + b.bit_length() > _BITS:
            raise ValueError("too large")
        return a * b

    @staticmethod
    def raised(base: Number, exponent: Number) -> Number:
        if isinstance(base, int) and isinstance(exponent, int) and base.bit_length() * abs(exponent) > _BITS:
            raise ValueError("too large")
        value = base**exponent
        if isinstance(value, complex):
            raise ValueError("a complex number")
        return value

    # --- the smallest parts

    def closed(self, end: str) -> Number:
        self.at += 1
        value = self.sum()
        if end == "}" and self.names("choose"):
            self.take()
            value = self.chosen(value, self.sum())
        self.expect(end)
        return value

    def atom(self) -> Number:
        kind, text = self.tokens[self.at] if self.at < len(self.tokens) else ("", "")
        if kind == "sign" and text in _CLOSING:
            return self.closed(_CLOSING[text])
        self.take()
        if kind == "number":
            return self.number(text)
        if kind == "letter" and text == "e" and self.sees("^"):
            self.take()
            return self.exponential(self.argument())
        if kind == "macro":
            return self.macro(text)
        raise ValueError(f"{text!r} has no value")

    @staticmethod
    def exponential(exponent: Number) -> Number:
        if exponent == 1:
            raise ValueError("e has no value")
        return 1 if exponent == 0 else math.exp(exponent)

    @staticmethod
    def number(text: str) -> Number:
        digits = text.removesuffix("\\%").replace(",", "")
        whole, _, part = digits.partition(".")
        value: Number = float(digits) if part.strip("0") else int(whole or "0")
        if not text.endswith("\\%"):
            return value
        return value // 100 if isinstance(value, int) and value % 100 == 0 else value / 100

    def macro(self, name: str) -> Number:
        if name == "pi":
            return math.pi
        if name in _FRACTIONS:
            top = self.braced()
            return top / self.braced()
        if name in _BINOMIALS:
            top = self.braced()
            return self.chosen(top, self.braced())
        if name == "sqrt":
            degree: Number | None = None
            if self.sees("["):
                degree = self.closed("]")
            inside = self.braced()
            return self.raised(inside, 0.5 if degree is None else 1 / degree)
        if name == "lfloor":
            value = self.sum()
            if not self.names("rfloor"):
                raise ValueError("\\rfloor is missing")
            self.take()
            return math.floor(value)
        if name in ("gcd", "lcm"):
            return self.common(name)
        if name == "log" or name in _FUNCTIONS:
            return self.function(name)
        raise ValueError(f"\\{name} has no value")

    @staticmethod
    def chosen(top: Number, bottom: Number) -> Number:
        """The binomial coefficient, also of a negative or broken number."""
        if not isinstance(bottom, int) or not bottom <= 1000 or abs(top) > 10_000:
            raise ValueError("no binomial coefficient")
        falling: Number = 1
        for i in range(bottom):
            falling *= top - i
        below = math.factorial(max(bottom, 0))
        return 0 if bottom < 0 else falling // below if isinstance(falling, int) else falling / below

    def braced(self) -> Number:
        if not self.sees("{"):
            raise ValueError("braces are missing")
        return self.closed("}")

    def common(self, name: str) -> Number:
        """The greatest common divisor or least common multiple of whole numbers."""
        self.expect("(")
        values = [self.sum()]
        while self.sees(","):
            self.take()
            values.append(self.sum())
        self.expect(")")
        return (math.gcd if name == "gcd" else math.lcm)(*values)  # type: ignore[arg-type]

    def function(self, name: str) -> Number:
        base: Number = 10
        exponent: Number | None = None
        while self.sees("_", "^"):
            if self.take() == "_":
                if name != "log":
                    raise ValueError(f"\\{name} has no index")
                base = self.argument()
            else:
                exponent = self.argument()
        brackets = self.sees("(", "\\left(")
        argument = self.closed(_CLOSING[self.tokens[self.at][1]]) if brackets else self.product(functions=False)
        if name == "log":
            value = math.log(argument, base)
        elif exponent == -1 and f"arc{name}" in _FUNCTIONS:
            return _FUNCTIONS[f"arc{name}"](argument)
        else:
            value = self.exponential(argument) if name == "exp" else _FUNCTIONS[name](argument)
        return value if exponent is None else self.raised(value, exponent)
