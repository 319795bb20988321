"""Whether two answers are the same: like with like.

Tuples and intervals in order and with their brackets; lists of solutions and sets in any order; equations up to a
constant factor; inequalities of one variable as intervals; numbers exactly; expressions at random points; words as
words. Answers of different kinds are different, but for the few pairs that state the same: "x = 3" and "3", a list and
a set, a number with and without its unit, "x > 3" and an interval.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

from mpmath import mpf

from mmcredit.rewards.equality.arithmetic import NoExpressionError, close, number
from mmcredit.rewards.equality.clean import clean
from mmcredit.rewards.equality.kinds import VARIABLE, Node, named, read
from mmcredit.rewards.equality.value import Expression, same_value

LONGEST = 3000  # characters of an answer; a longer one is compared as text only
_BASED = re.compile(r"([\dA-Fa-f]+)_\{?(\d{1,2})\}?")  # 1011_2
_LETTER = re.compile(r"\(?\s*([A-Za-z])\s*\)?\s*[.:]?")
_LABELLED = re.compile(r"(?:\(([A-Ja-j])\)|([A-J])\s*[).:])\s*\S.*", re.DOTALL)


def equal(found: str, reference: str) -> bool:
    """Whether the answer `found` says what `reference` says."""
    if len(found) > LONGEST or len(reference) > LONGEST:
        return " ".join(found.split()) == " ".join(reference.split())
    a, b = clean(found), clean(reference)
    if not a or not b:
        return False
    if a == b:
        return True
    letter = _choice(a, b)
    if letter is not None:
        return letter
    return same(read(a), read(b))


def _choice(a: str, b: str) -> bool | None:
    """For two option letters, one of them perhaps with its text: whether they are the same option."""
    first, second = _LETTER.fullmatch(a), _LETTER.fullmatch(b)
    labelled = _LABELLED.fullmatch(a) if second else _LABELLED.fullmatch(b) if first else None
    if labelled is not None:
        letter = (labelled[1] or labelled[2]).upper()
        lone = second or first
        assert lone is not None
        return letter == lone[1].upper() if lone[1].upper() in "ABCDEFGHIJ" else None
    if first and second and ("(" in a + b or "." in a + b):
        return first[1].upper() == second[1].upper()
    return None


def same(a: Node, b: Node) -> bool:
    """`equal` of two read answers."""
    if a.kind == b.kind:
        return _SAME[a.kind](a, b)
    for x, y in ((a, b), (b, a)):
        if x.kind == "equation" and y.kind not in ("equation", "inequality", "different"):
            return _stated(x, y)
    for x, y in ((a, b), (b, a)):
        if x.kind in ("list", "set") and len(x.items) == 1:
            return same(x.items[0], y)
        if x.kind == "list" and y.kind == "set":
            return _unordered(_each(x.items), _each(y.items))
        if x.kind == "list" and y.kind == "tuple" and y.sort == "()" and not y.variable:
            return _in_order(x, y)
        if x.kind == "matrix" and y.kind == "tuple" and not y.variable and x.sort == "matrix":
            flat = x.width == 1 or x.width == len(x.items)
            return flat and y.sort in ("()", "[]") and _each_same(x.items, y.items)
        if x.kind == "union" and y.kind == "tuple" and len(x.items) == 1:
            return same(x.items[0], y)
        if x.kind == "ratio" and y.kind == "quantity" and len(x.items) == 2 and "/" in y.text.replace(r"\frac", "/"):
            return not _clock(x.text) and _values(f"({x.items[0].text})/({x.items[1].text})", y.text)
        if x.kind == "words" and y.kind == "quantity" and (x.unit is None and y.unit is None):
            return _spelt(x.text) == _spelt(y.text)
    return False


def _each(items: Sequence[Node]) -> list[Node]:
    """Items without repetitions."""
    kept: list[Node] = []
    for item in items:
        if not any(same(item, other) for other in kept):
            kept.append(item)
    return kept


def _unordered(first: Sequence[Node], second: Sequence[Node]) -> bool:
    if len(first) != len(second):
        return False
    left = list(second)
    for item in first:
        place = next((i for i, other in enumerate(left) if same(item, other)), None)
        if place is None:
            return False
        del left[place]
    return True


def _each_same(first: Sequence[Node], second: Sequence[Node]) -> bool:
    return len(first) == len(second) and all(same(x, y) for x, y in zip(first, second, strict=True))


def _in_order(listed: Node, pair: Node) -> bool:
    """A list without brackets as a tuple: "3, 4" for (3, 4), "x = 3, y = 4" for it; "3 or 4" is none."""
    variables = [item.parts[0] for item in listed.items if item.kind == "equation" and len(item.parts) == 2]
    if len(variables) == len(listed.items):
        ordered = all(VARIABLE.fullmatch(v) for v in variables) and variables == sorted(set(variables))
        return ordered and _each_same([item.items[0] for item in listed.items], pair.items)
    return listed.sort == "comma" and not variables and _each_same(listed.items, pair.items)


def _stated(equation: Node, other: Node) -> bool:
    """`x = 3` against `3`: the left side must only name what is given, or be worth the same."""
    *names, _ = equation.parts
    if not all(named(name) or _worth(name, equation.parts[-1]) for name in names):
        return False
    return same(equation.items[0], other)


def _worth(a: str, b: str) -> bool:
    try:
        return not Expression(a).names() and same_value(a, b)
    except NoExpressionError:
        return False


# -- kind by kind -----------------------------------------------------------------------------------------------------


def _lists(a: Node, b: Node) -> bool:
    return _unordered(_each(a.items), _each(b.items)) if len(a.items) == len(b.items) or a.kind == "set" else False


def _tuples(a: Node, b: Node) -> bool:
    if a.variable and b.variable and a.variable != b.variable:
        return False
    return a.sort == b.sort and _each_same(a.items, b.items)


def _matrices(a: Node, b: Node) -> bool:
    return a.sort == b.sort and a.width == b.width and _each_same(a.items, b.items)


def _equations(a: Node, b: Node) -> bool:
    if len(a.parts) > 2 or len(b.parts) > 2:
        return _squeezed(a.text) == _squeezed(b.text) or (
            _squeezed(a.parts[0]) == _squeezed(b.parts[0]) and same(a.items[0], b.items[0])
        )
    if _squeezed(a.parts[0]) == _squeezed(b.parts[0]):
        return same(a.items[0], b.items[0])
    if _squeezed(a.parts[0]) == _squeezed(b.parts[1]) or _squeezed(a.parts[1]) == _squeezed(b.parts[0]):
        crossed = read(a.parts[1]), read(b.parts[0])
        if same(*crossed) and same(read(a.parts[0]), read(b.parts[1])):
            return True
    return _proportional(a.parts, b.parts, positive=False)


def _inequalities(a: Node, b: Node) -> bool:
    if len(a.parts) != 2 or len(b.parts) != 2:
        return a.sort == b.sort and all(_values(x, y) for x, y in zip(a.parts, b.parts, strict=True))
    first = a.parts if a.sort.startswith("<") else a.parts[::-1]
    second = b.parts if b.sort.startswith("<") else b.parts[::-1]
    return ("=" in a.sort) == ("=" in b.sort) and _proportional(first, second, positive=True)


def _different(a: Node, b: Node) -> bool:
    return (
        a.sort == b.sort
        and len(a.parts) == len(b.parts)
        and all(_values(x, y) for x, y in zip(a.parts, b.parts, strict=True))
    )


def _proportional(first: Sequence[str], second: Sequence[str], positive: bool) -> bool:
    """Whether the differences of the sides are a constant multiple of each other, and of the same variables."""
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


def _clock(text: str) -> bool:
    return bool(re.fullmatch(r"\d{1,2}:[0-5]\d(?::[0-5]\d)?(?:\s*[aApP]\.?[mM]\.?)?", text))


def _ratios(a: Node, b: Node) -> bool:
    if len(a.items) != len(b.items):
        return False
    if _clock(a.text) and _clock(b.text):
        first, second = ("".join(t.casefold().split()).split(":") for t in (a.text, b.text))
        return first[1:] == second[1:] and int(first[0]) == int(second[0])
    one, other = a.items[0].text, b.items[0].text
    return all(_values(f"({x.text})*({other})", f"({y.text})*({one})") for x, y in zip(a.items, b.items, strict=True))


def _quantities(a: Node, b: Node) -> bool:
    if a.percent != b.percent:
        # 50 % is 0.5; that 50 says the same is for the question to tell, and not taken.
        x, y = (a, b) if a.percent else (b, a)
        return y.unit is None and _values(f"({x.text})/100", y.text)
    if a.unit is not None and b.unit is not None:
        (first, one), (second, other) = a.unit, b.unit
        if first != second and first and second:
            return False
        return _values(a.text, b.text) if one == other else _values(_times(a.text, one), _times(b.text, other))
    return _values(a.text, b.text)


def _times(text: str, factor: Fraction) -> str:
    return f"({text})*({factor.numerator}/{factor.denominator})"


def _values(a: str, b: str) -> bool:
    if _squeezed(a) == _squeezed(b):
        return True
    if _whole(a) is not None and _whole(b) is not None:
        return _whole(a) == _whole(b)
    first, second = _BASED.fullmatch(a), _BASED.fullmatch(b)
    if first is not None and second is not None:
        return (first[1].upper().lstrip("0"), first[2]) == (second[1].upper().lstrip("0"), second[2])
    if first is not None or second is not None:
        return False
    try:
        if same_value(a, b):
            return True
        return _rounded(a, b) or _rounded(b, a)
    except NoExpressionError:
        return False


def _rounded(decimal: str, other: str) -> bool:
    """Whether a decimal of six places and more is the other value, rounded."""
    match = re.fullmatch(r"-?\d*\.(\d{6,40})", decimal.strip())
    if match is None:
        return False
    half = mpf(10) ** -len(match[1]) / 2
    try:
        x, y = number(Expression(decimal).at({})), number(Expression(other).at({}))
    except (NoExpressionError, ZeroDivisionError, OverflowError, KeyError):
        return False
    return bool(abs(x - y) <= half * mpf("1.0000001"))


def _whole(text: str) -> int | None:
    return int(text) if re.fullmatch(r"[-+]?\d{1,400}", text) else None


def _spelt(text: str) -> str:
    """Words as they are compared: case, articles, hyphens and punctuation aside."""
    words = re.sub(r"[^\w\s%+/.:-]", " ", text.casefold()).replace("-", " ").split()
    return " ".join(word.strip(".:") for word in words if word not in ("the", "a", "an"))


def _squeezed(text: str) -> str:
    """Without white space between signs; digits that stand apart stay apart."""
    return re.sub(r"(?<!\d)\s+|\s+(?!\d)", "", text)


_SAME = {
    "empty": lambda a, b: True,
    "words": lambda a, b: _spelt(a.text) == _spelt(b.text),
    "matrix": _matrices,
    "list": _lists,
    "set": _lists,
    "tuple": _tuples,
    "union": lambda a, b: _unordered(a.items, b.items),
    "equation": _equations,
    "inequality": _inequalities,
    "different": _different,
    "ratio": _ratios,
    "quantity": _quantities,
}
