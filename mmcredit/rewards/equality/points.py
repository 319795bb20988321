"""Two expressions are equal if they are worth the same at random points: no simplification that may never end, and no
false verdict of a simplifier that gives up."""

from __future__ import annotations

import random
from collections.abc import Sequence

from mpmath import mpf

from mmcredit.rewards.equality.arithmetic import DIGITS, NoExpressionError, Value, close, number
from mmcredit.rewards.equality.value import Expression


def same_value(first: str, second: str) -> bool:
    """Whether two expressions agree at random points. Raises NoExpressionError if one cannot be read.

    Points lie on both sides of 0. Where an expression of real variables leaves the real numbers (a root of a negative
    one) it is outside its domain; such points count only if there are no others.
    """
    a, b = Expression(first), Expression(second)
    names = sorted(a.names() | b.names())
    if not names:
        return _agree(a, b, {}) is True
    real = ("name", "i") not in a.tokens + b.tokens
    inside, outside = 0, []
    for seed in range(14):
        point = _point(names, seed, real)
        verdict = _agree(a, b, point)
        if verdict is None:
            continue
        if real and (a.outside or b.outside):
            outside += [verdict] if seed % 2 == 0 else []
            continue
        if not verdict:
            return False
        inside += 1
        if inside == 5:
            return True
    if not inside and not outside:
        raise NoExpressionError("the expressions have no value at the points tried")
    return bool(inside) or all(outside)


def _point(names: Sequence[str], seed: int, signed: bool) -> dict[str, Value]:
    draw = random.Random(seed)
    point = {name: mpf(draw.randint(2000, 9000)) / 1009 + mpf(draw.random()) / 1000 for name in names}
    if signed and seed % 2:
        point = {name: -value if draw.random() < 0.7 else value for name, value in point.items()}
    return point


def _agree(a: Expression, b: Expression, point: dict[str, Value]) -> bool | None:
    """Whether both are worth the same at a point; None where one has no value there."""
    try:
        x, y = a.at(point), b.at(point)
        verdict = close(x, y)
        if verdict is not None:
            return verdict
        # Both near 0: what is 0 shrinks with the rounding error when more digits are computed, what is small stays.
        outside = a.outside, b.outside
        finer = a.at(point, 2 * DIGITS), b.at(point, 2 * DIGITS)
        a.outside, b.outside = outside
    except (ZeroDivisionError, OverflowError):
        return None
    return all(abs(number(f)) <= abs(number(v)) * mpf(10) ** -20 for f, v in zip(finer, (x, y), strict=True))


def proportional(first: Sequence[str], second: Sequence[str], positive: bool) -> bool:
    """Whether the differences of two pairs of sides are a constant multiple of each other, of the same variables."""
    try:
        f = Expression(f"({first[0]})-({first[1]})")
        g = Expression(f"({second[0]})-({second[1]})")
        if f.names() != g.names() or not f.names():
            return False
        ratios = []
        for seed in range(8):
            point = {name: mpf(17 * (seed + 3) + 29 * k + 5) / (7 + k) for k, name in enumerate(sorted(f.names()))}
            x, y = number(f.at(point)), number(g.at(point))
            if y == 0 or x == 0:
                if x != y:
                    return False
                continue
            ratios.append(x / y)
        if len(ratios) < 3 or not all(close(ratios[0], r) for r in ratios):
            return False
        return not positive or (ratios[0].imag == 0 and ratios[0].real > 0)
    except (NoExpressionError, ZeroDivisionError, OverflowError):
        return False
