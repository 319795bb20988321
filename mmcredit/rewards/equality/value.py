r"""What an expression is worth, at given values of its variables: a parser of LaTeX and plain text, without eval.

Numbers are mpmath's, with `DIGITS` digits; exact fractions stay exact as long as only +, -, *, / and whole powers are
applied. Sizes are bounded before anything is computed.
"""

from __future__ import annotations

import contextlib
from fractions import Fraction

from mpmath import mp, mpc, mpf

from mmcredit.rewards.equality.arithmetic import (
    DIGITS,
    NoExpressionError,
    Value,
    add,
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
from mmcredit.rewards.equality.tokens import FUNCTIONS, GREEK, Token, tokens

_DEEPEST = 40


class Expression:
    """A text as tokens; `at` walks it with a recursive descent and computes on the way."""

    def __init__(self, text: str) -> None:
        self.tokens: list[Token] = tokens(text)
        self._point: dict[str, Value] | None = {}
        self._seen: set[str] = set()
        self._names: set[str] | None = None
        self.outside = False  # whether the last value was reached through a root or logarithm that is not real
        self._angle = False  # inside the argument of sin, cos, tan

    def names(self) -> set[str]:
        """Its variables."""
        if self._names is None:
            self._seen, self._point = set(), None
            with contextlib.suppress(ZeroDivisionError, OverflowError):
                self._walk()
            self._names = self._seen
        return self._names

    def at(self, point: dict[str, Value], digits: int = DIGITS) -> Value:
        """Its value. Raises NoExpressionError, ZeroDivisionError, OverflowError."""
        self._point = point
        return self._walk(digits)

    def _walk(self, digits: int = DIGITS) -> Value:
        self.i, self.depth, self.outside, self._angle = 0, 0, False, False
        with mp.workdps(digits):
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
                # In a sine it is an angle; elsewhere degrees are a unit, which is cut off before.
                return mul(base, mp.pi / 180) if self._angle else base
            exponent = self._exponent()
            return self._real(power(base, exponent), base, exponent)
        return base

    def _real(self, value: Value, *of: Value) -> Value:
        """The value, noted as outside the domain if it is not real and what it is made of is."""
        if isinstance(value, mpc) and value.imag != 0 and not any(isinstance(v, mpc) and v.imag != 0 for v in of):
            self.outside = True
        return value

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
            if self._peek()[0] == "number":
                raise NoExpressionError("digits after the repeating ones")
            return repeating(text, repeated)
        return decimal(text)

    def _name(self, text: str) -> Value:
        if text in FUNCTIONS or text == "log":
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
            radicand = self._group()
            return self._real(root(radicand, degree), radicand)
        if name == "pi":
            return +mp.pi
        if name == "infty":
            return mpf("inf")
        if name in FUNCTIONS or name in ("log", "lg"):
            return self._function(name)
        if name == "overline" or name == "angle":
            raise NoExpressionError(name)
        if name in GREEK:
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
        angle, self._angle = self._angle, name in ("sin", "cos", "tan", "sec", "csc", "cot")
        argument = self._argument()
        self._angle = angle
        if base is not None:
            value = self._real(logarithm(argument, base), argument, base)
        elif name == "sqrt":
            value = self._real(root(argument, Fraction(2)), argument)
        elif name == "abs":
            value = abs(argument)
        else:
            if exponent == -1 and name in ("sin", "cos", "tan"):
                name, exponent = "arc" + name, None
            value = self._real(FUNCTIONS[name](number(argument)), argument)
        return value if exponent is None else power(value, exponent)

    def _group_signed(self) -> Value:
        if self._peek()[1] == "{":
            return self._group()
        return self._exponent()

    def _multiplies(self) -> bool:
        kind, text = self._peek()
        return (kind in ("number", "name") and text not in FUNCTIONS) or text == r"\pi"

    def _argument(self) -> Value:
        """`(...)`, or the product that follows without a bracket: sin 2x."""
        if self._peek()[1] in ("(", "{", "["):
            return self._atom()
        start = self.i
        value = self._power()
        while self._multiplies():
            value = mul(value, self._power())
        if self._peek()[1] == "/" and self._peek(1)[0] == "number":
            if any(kind == "name" and text != "pi" for kind, text in self.tokens[start : self.i]):
                raise NoExpressionError("sin x/2 says two things")
            self.i += 1
            value = div(value, self._power())
        return value
