"""Whether two answers are the same: like with like.

Tuples and intervals in order and with their brackets; lists of solutions and sets in any order; equations up to a
constant factor; inequalities of one variable as intervals; numbers exactly; expressions at random points; words as
words. Answers of different kinds are different, but for the few pairs that state the same: "x = 3" and "3", a list and
a set, a number with and without its unit, "x > 3" and an interval.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

from mpmath import mpf

from mmcredit.rewards.equality.arithmetic import NoExpressionError, number
from mmcredit.rewards.equality.clean import clean
from mmcredit.rewards.equality.dates import clock
from mmcredit.rewards.equality.kinds import VARIABLE, Node, named, read
from mmcredit.rewards.equality.points import proportional, same_value
from mmcredit.rewards.equality.unified import regrouped
from mmcredit.rewards.equality.units import matched
from mmcredit.rewards.equality.value import Expression

LONGEST = 3000  # characters of an answer; a longer one is compared as text only
_MOST_COMPARED = 24  # items of a list that are written differently, compared each with each
_BASED = re.compile(r"\(?\s*([\dA-Fa-f]+)\s*\)?\s*_\s*\{?\s*(\d{1,2}|[a-z]{3,7})\s*\}?")  # 1011_2
_BASES = {
    "two": "2",
    "three": "3",
    "four": "4",
    "five": "5",
    "six": "6",
    "seven": "7",
    "eight": "8",
    "nine": "9",
    "ten": "10",
}
_LETTER = re.compile(r"(?:(?:option|choice|answer)\s+)?(\(?)\s*([A-Za-z])\s*(\)?)\s*[.:]?", re.IGNORECASE)
_LABELLED = re.compile(r"(?:\(([A-Ja-j])\)|([A-J])\s*[).:])\s*\S.*", re.DOTALL)

_OTHER_LABEL = re.compile(r"(?:^|[\s(,])(?:[B-J](?:[).:,\s]|$)|A[).:,])|\(A\)")


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
    if same(read(a), read(b)):
        return True
    grouped = regrouped(found), regrouped(reference)
    if grouped == (None, None):
        return False
    # Only against one number: "12,34,567" may be a list, and is one where the other side is.
    one, other = grouped[0] or a, grouped[1] or b
    return not re.search(r"\d\s*[,;]\s*\d", one + " " + other) and same(read(one), read(other))


def _choice(a: str, b: str) -> bool | None:
    """For two option letters, one of them perhaps with its text: whether they are the same option."""
    first, second = _LETTER.fullmatch(a), _LETTER.fullmatch(b)
    labelled = _LABELLED.fullmatch(a) if second else _LABELLED.fullmatch(b) if first else None
    if labelled is not None:
        lone = (second or first)[2].upper()  # type: ignore[index]
        if _OTHER_LABEL.search(labelled[0][2:]):
            return False  # "A) 5, B) 6" decides for none
        return (labelled[1] or labelled[2]).upper() == lone if lone in "ABCDEFGHIJ" else None
    if first and second and (len(a) > 1 or len(b) > 1):
        one, other = first[2].upper(), second[2].upper()
        return one == other if {one, other} <= set("ABCDEFGHIJ") else None
    return None


def same(a: Node, b: Node) -> bool:
    """`equal` of two read answers: `a` was found, `b` is the reference."""
    if a.kind == b.kind:
        return _SAME[a.kind](a, b)
    for x, y in ((a, b), (b, a)):
        if x.kind == "equation" and y.kind not in ("equation", "inequality", "different"):
            return _stated(x, y)
    for x, y in ((a, b), (b, a)):
        if x.kind == "list" and len(x.items) == 1:
            return same(x.items[0], y)
        if x.kind == "list" and y.kind == "set":
            return _unordered(_each(x.items), _each(y.items))
        if x.kind == "list" and y.kind == "tuple" and y.sort == "()" and not y.variable:
            return _in_order(x, y)
        if x.kind == "matrix" and y.kind == "tuple" and x.sort == "matrix" and y.sort == "[]":
            rows = [row for row in y.items if row.kind == "tuple" and row.sort == "[]" and not row.variable]
            return (
                len(rows) == len(y.items)
                and {len(row.items) for row in rows} == {x.width}
                and _each_same(x.items, [cell for row in rows for cell in row.items])
            )
        if x.kind == "matrix" and y.kind == "tuple" and not y.variable and x.sort == "matrix":
            return x.width == 1 and y.sort == "()" and _each_same(x.items, y.items)
        if x.kind == "union" and y.kind == "tuple" and len(x.items) == 1:
            return same(x.items[0], y)
        if x.kind == "inequality" and y.kind == "tuple" and len(x.parts) == len(y.parts) == 2:
            closed = "<=" if set("[]") & set(y.sort) else "<"
            return len(_variables("-".join(x.parts))) > 1 and _inequalities(x, replace(y, sort=closed))
        if x.kind == "words" and y.kind == "quantity" and x.unit is None and y.unit is None:
            return bool(_spelt(x.text)) and _spelt(x.text) == _spelt(y.text)
    return False


def _each(items: Sequence[Node]) -> list[Node]:
    """Items without repetitions."""
    kept: list[Node] = []
    for item in {item.text: item for item in items}.values():
        if len(kept) > _MOST_COMPARED or not any(same(item, other) for other in kept):
            kept.append(item)
    return kept


def _unordered(first: Sequence[Node], second: Sequence[Node]) -> bool:
    """Whether the items are the same in some order. What is written alike goes first; the rest is compared in pairs."""
    if len(first) != len(second):
        return False
    left, open_items = list(second), []
    for item in first:
        place = next((i for i, other in enumerate(left) if other.text == item.text and other.kind == item.kind), None)
        if place is None or not same(item, left[place]):
            open_items.append(item)
        else:
            del left[place]
    if len(open_items) > _MOST_COMPARED:
        return False
    for item in open_items:
        place = next((i for i, other in enumerate(left) if same(item, other)), None)
        if place is None:
            return False
        del left[place]
    return True


def _each_same(first: Sequence[Node], second: Sequence[Node]) -> bool:
    return len(first) == len(second) and all(same(x, y) for x, y in zip(first, second, strict=True))


def _in_order(listed: Node, pair: Node) -> bool:
    """ "x = 3, y = 4" for (3, 4): a value for each of as many letters, in the order of the alphabet."""
    named_values = {
        item.parts[0]: item.items[0] for item in listed.items if item.kind == "equation" and len(item.parts) == 2
    }
    if len(named_values) != len(listed.items) or not all(VARIABLE.fullmatch(name) for name in named_values):
        return False
    return _each_same([named_values[name] for name in sorted(named_values)], pair.items)


def _stated(equation: Node, other: Node) -> bool:
    """`x = 3` against `3`: the left side must only name what is given, or be worth the same."""
    *names, value = equation.parts
    if names in (["x"], ["y"], ["z"]) and other.kind == "quantity" and _variables(value) & {"x", "y", "z"}:
        return False  # "y = 2x + 3" is a line, which 2x + 3 does not say
    if not all(named(name) or _worth(name, equation.parts[-1]) for name in names):
        return False
    return same(equation.items[0], other)


def _variables(text: str) -> set[str]:
    try:
        return Expression(text).names()
    except NoExpressionError:
        return set()


def _worth(a: str, b: str) -> bool:
    try:
        return not Expression(a).names() and same_value(a, b)
    except NoExpressionError:
        return False


# -- kind by kind -----------------------------------------------------------------------------------------------------


def _lists(a: Node, b: Node) -> bool:
    if a.kind == "set" or "twice" in (a.sort, b.sort):  # {1, 1} is {1}, and so is 1 \pm 0
        return _unordered(_each(a.items), _each(b.items))
    if len(a.items) != len(b.items):
        return False
    first, second = _unknowns(a), _unknowns(b)
    if first != second and max(len(first), len(second)) > 1:
        # "x = 1, y = 4" is no list of the solutions 1 and 4, though "x_1 = 1, x_2 = 4" is.
        if {name[0] for name in first | second} != {next(iter(first | second))[0]}:
            return False
        a, b = (replace(n, items=tuple(_value_of(item) for item in n.items)) for n in (a, b))
    return _unordered(a.items, b.items)


def _unknowns(node: Node) -> set[str]:
    """The letters that items of a list give values of."""
    return {
        item.parts[0].strip("\\")
        for item in node.items
        if item.kind == "equation" and VARIABLE.fullmatch(item.parts[0])
    }


def _value_of(item: Node) -> Node:
    return item.items[0] if item.kind == "equation" and VARIABLE.fullmatch(item.parts[0]) else item


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
    # A curve may be written in many ways; "2x = 6" has not said yet that x = 3.
    return len(_variables(a.text.replace("=", "-"))) > 1 and proportional(a.parts, b.parts, positive=False)


def _inequalities(a: Node, b: Node) -> bool:
    if len(a.parts) != 2 or len(b.parts) != 2:
        return a.sort == b.sort and all(_values(x, y) for x, y in zip(a.parts, b.parts, strict=True))
    first = a.parts if a.sort.startswith("<") else a.parts[::-1]
    second = b.parts if b.sort.startswith("<") else b.parts[::-1]
    return ("=" in a.sort) == ("=" in b.sort) and proportional(first, second, positive=True)


def _different(a: Node, b: Node) -> bool:
    return (
        a.sort == b.sort
        and len(a.parts) == len(b.parts)
        and all(_values(x, y) for x, y in zip(a.parts, b.parts, strict=True))
    )


def _ratios(a: Node, b: Node) -> bool:
    if len(a.items) != len(b.items):
        return False
    times = clock(a.text), clock(b.text)
    if (times[0] is not None and times[1] is not None) or ":0" in a.text.replace(" ", "") + b.text.replace(" ", ""):
        return times[0] is not None and times[0] == times[1]
    one, other = a.items[0].text, b.items[0].text
    return all(_values(f"({x.text})*({other})", f"({y.text})*({one})") for x, y in zip(a.items, b.items, strict=True))


def _residues(a: Node, b: Node) -> bool:
    """``x \equiv 3 \pmod 5``: the same class of the same modulus; a letter that only one side names says nothing."""
    if not _values(a.parts[1], b.parts[1]) or (a.variable and b.variable and a.variable != b.variable):
        return False
    first, second, modulus = (_whole(text) for text in (a.parts[0], b.parts[0], a.parts[1]))
    if first is None or second is None or not modulus:
        return _values(a.parts[0], b.parts[0])
    return (first - second) % modulus == 0


def _quantities(a: Node, b: Node) -> bool:
    if a.percent != b.percent:
        # 50 % is 0.5; that 50 says the same is for the question to tell, and not taken.
        x, y = (a, b) if a.percent else (b, a)
        return y.unit is None and _values(f"({x.text})/100", y.text)
    if a.unit is not None and b.unit is not None:
        (first, one), (second, other) = matched(a.unit, b.unit)
        if first != second:
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
        return _in_base(first) == _in_base(second)
    if first is not None or second is not None:
        return False
    try:
        return same_value(a, b) or _rounded(a, b)
    except NoExpressionError:  # an integral, a sum, a set: compared as written
        return _unbraced(a) == _unbraced(b)


def _unbraced(text: str) -> str:
    return re.sub(r"\{(\w)\}", r"\1 ", text).replace(" ", "")


def _in_base(match: re.Match[str]) -> tuple[str, str]:
    return match[1].upper().lstrip("0"), _BASES.get(match[2], match[2])


def _rounded(found: str, reference: str) -> bool:
    """Whether the reference is a decimal of eight digits and more that the exact answer rounds to.

    The other way round a decimal is wrong: 0.33333333 is not 1/3.
    """
    match = re.fullmatch(r"-?(\d*)\.(\d{4,40})", reference.strip())
    if match is None or len((match[1] + match[2]).lstrip("0")) < 8 or re.fullmatch(r"-?[\d.]+", found.strip()):
        return False
    half = mpf(10) ** -len(match[2]) / 2
    try:
        x, y = number(Expression(found).at({})), number(Expression(reference).at({}))
    except (NoExpressionError, ZeroDivisionError, OverflowError, KeyError):
        return False
    return bool(abs(x - y) <= half * mpf("1.0000001"))


def _whole(text: str) -> int | None:
    return int(text) if re.fullmatch(r"[-+]?\d{1,400}", text) else None


_MANY = ("infinite", "infinite solutions", "infinitely many solutions", "infinite number of solutions")
_SYNONYMS = dict.fromkeys(_MANY, "infinitely many") | {
    "dne": "does not exist", "doesn't exist": "does not exist", "none of above": "none of these",
}  # fmt: skip
_IGNORED = re.compile(r"[\"'`,;!?()\[\]{}$\\]")


def _spelt(text: str) -> str:
    """Words as they are compared: case, articles, hyphens and punctuation aside."""
    text = re.sub(r"(?<=[a-z])-(?=[a-z])", " ", text.casefold())
    words = _IGNORED.sub(" ", text).split()
    plain = " ".join(word.strip(".:") for word in words if word not in ("the", "a", "an"))
    return _SYNONYMS.get(plain, plain)


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
    "union": lambda a, b: not (a.variable and b.variable and a.variable != b.variable) and _unordered(a.items, b.items),
    "date": lambda a, b: a.text == b.text,
    "equation": _equations,
    "inequality": _inequalities,
    "different": _different,
    "residue": _residues,
    "ratio": _ratios,
    "quantity": _quantities,
}
