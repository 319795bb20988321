"""Numbers that stay exact fractions as long as they can, and are mpmath's beyond; their sizes are bounded."""

from __future__ import annotations

from fractions import Fraction
from math import factorial as whole_factorial
from math import isqrt
from typing import Any

from mpmath import mp, mpf

DIGITS = 40
_MOST_BITS = 20_000  # of an exact number, and of log2 of a power
_MOST_FACTORIAL = 2100  # has 20,000 bits

Value = Any  # Fraction, mpf or mpc


class NoExpressionError(ValueError):
    """The text is no expression that is read here, or one too large to compute."""


def number(x: Value) -> Any:
    """As mpmath's number."""
    return mpf(x.numerator) / mpf(x.denominator) if isinstance(x, Fraction) else x


def close(x: Value, y: Value) -> bool | None:
    """Equality of exact numbers, else to 30 digits; None where both are so near 0 that they may be 0 or noise."""
    if isinstance(x, Fraction) and isinstance(y, Fraction):
        return x == y
    with mp.workdps(DIGITS):
        a, b = number(x), number(y)
        if not (mp.isfinite(a) and mp.isfinite(b)):
            return bool(a == b)
        size = max(abs(a), abs(b))
        if abs(a - b) <= mpf(10) ** -30 * size:
            return True
        return None if size < mpf(10) ** -25 else False


def decimal(text: str) -> Fraction:
    """A decimal, exactly."""
    mantissa, _, exponent = text.lower().partition("e")
    if len(text) > 420 or abs(int(exponent or 0)) > 400:
        raise NoExpressionError("a number of too many digits")
    return Fraction(mantissa if not mantissa.startswith(".") else "0" + mantissa) * Fraction(10) ** int(exponent or 0)


def repeating(text: str, repeated: str) -> Fraction:
    start = decimal(text if not text.endswith(".") else text + "0")
    places = len(text.partition(".")[2])
    return start + Fraction(int(repeated), (10 ** len(repeated) - 1) * 10**places)


def _exact(*values: Value) -> bool:
    return all(isinstance(v, Fraction) for v in values)


def _bounded(value: Fraction) -> Value:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > _MOST_BITS:
        raise NoExpressionError("a number of too many digits")
    return value


def add(a: Value, b: Value) -> Value:
    """The sum."""
    return _bounded(a + b) if _exact(a, b) else number(a) + number(b)


def neg(a: Value) -> Value:
    """The negative."""
    return -a


def mul(a: Value, b: Value) -> Value:
    """The product."""
    return _bounded(a * b) if _exact(a, b) else number(a) * number(b)


def div(a: Value, b: Value) -> Value:
    """The quotient. Raises ZeroDivisionError."""
    if b == 0:
        raise ZeroDivisionError
    return _bounded(a / b) if _exact(a, b) else number(a) / number(b)


def power(base: Value, exponent: Value) -> Value:
    """base^exponent; a result of more than `_MOST_BITS` bits is refused before it is computed."""
    if exponent == 0 and base != 0:
        return Fraction(1)
    if base == 0:
        if exponent == 0:
            raise NoExpressionError("0^0")
        if isinstance(exponent, Fraction) and exponent < 0:
            raise ZeroDivisionError
        return Fraction(0)
    size = abs(number(exponent)) * (abs(mp.log(abs(number(base)), 2)) + 1)
    if not mp.isfinite(size) or size > _MOST_BITS:
        raise NoExpressionError("a power too large to compute")
    if _exact(base, exponent) and exponent.denominator == 1:
        return _bounded(base ** int(exponent))
    if _exact(base, exponent) and exponent.denominator % 2 and base < 0:
        return (
            -(root(-base, Fraction(exponent.denominator)) ** exponent.numerator)
            if exponent.numerator % 2
            else (root(-base, Fraction(exponent.denominator)) ** exponent.numerator)
        )
    return mp.power(number(base), number(exponent))


def root(value: Value, degree: Value) -> Value:
    """The principal root; of a negative number the real one where the degree is odd."""
    if degree == 2:
        exact = _exact_root(value)
        return exact if exact is not None else mp.sqrt(number(value))
    if _exact(value, degree) and degree.denominator == 1 and degree % 2 and value < 0:
        return -root(-value, degree)
    return mp.power(number(value), 1 / number(degree))


def _exact_root(value: Value) -> Fraction | None:
    if not isinstance(value, Fraction) or value < 0:
        return None
    top, bottom = isqrt(value.numerator), isqrt(value.denominator)
    return Fraction(top, bottom) if (top * top, bottom * bottom) == (value.numerator, value.denominator) else None


def factorial(value: Value) -> Value:
    """n! of a whole number up to 2100, and of a variable through the gamma function."""
    if isinstance(value, Fraction):
        if value.denominator != 1 or not 0 <= value <= _MOST_FACTORIAL:
            raise NoExpressionError("a factorial that is not computed")
        return Fraction(whole_factorial(int(value)))
    if abs(value) > 400:
        raise NoExpressionError("a factorial that is not computed")
    return mp.gamma(value + 1)


def whole_part(value: Value) -> Value:
    """The largest whole number that is not above it."""
    return Fraction(value.numerator // value.denominator) if isinstance(value, Fraction) else mp.floor(value)


def logarithm(value: Value, base: Value) -> Value:
    """log of `value` to `base`, exact where both are powers of one number."""
    if number(value) == 0:
        raise ZeroDivisionError
    return mp.log(number(value)) / mp.log(number(base))
