"""What an answer is: a number or expression, a list, a tuple or interval, an equation, a matrix, words."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, field, replace

from mmcredit.rewards.equality.dates import day
from mmcredit.rewards.equality.spelled import ordinal, spelled
from mmcredit.rewards.equality.units import Unit, compound, product, read_unit
from mmcredit.rewards.equality.value import Expression, NoExpressionError, number


@dataclass(frozen=True)
class Node:
    """One answer. `items` are parts; `text` is what was written."""

    kind: str  # empty, words, date, matrix, list, set, tuple, union, equation, inequality, different, ratio, quantity
    text: str
    items: tuple[Node, ...] = ()
    sort: str = ""  # brackets of a tuple, how a list was written, environment of a matrix, operators of an inequality
    width: int = 0  # columns of a matrix
    variable: str = ""  # of an interval that was written as an inequality or with "in"
    unit: Unit | None = None
    percent: bool = False
    parts: tuple[str, ...] = field(default=())  # sides of an equation or inequality, the smaller one first


_EMPTY = re.compile(
    r"none|\\emptyset|\\\{\s*\\\}|(?:the )?empty set|"
    r"(?:there (?:is|are) )?no (?:real |integer )?(?:solutions?|roots?)(?: exists?)?"
)
_REALS = re.compile(r"\\mathbb\s*\{R\}|\\mathbb R|(?:the set of )?all reals?(?: numbers?)?|(?:the )?real numbers?")
_WITHOUT = re.compile(
    r"\\mathbb\s*\{?R\}?\s*(?:\\setminus|\\backslash|-|\\)\s*\\\{(.*)\\\}|"
    r"(?:the set of )?all real(?: number)?s?(?: except(?: for)?| but)\s+([^a-zA-Z]+)"
)
_MATRIX = re.compile(
    r"(.{0,40}?)\s*\\begin\{([pbvBV]?matrix|smallmatrix|array)\}(?:\{[^{}]*\})?(.*)\\end\{\2\}", re.DOTALL
)
_RESIDUE = re.compile(
    r"(?:([A-Za-z])\s*\\equiv\s*)?(-?[\w^{}+* -]{1,60}?)\s*(?:\\pmod|\(\s*\\?(?:b?mod)|\\?b?mod)\s*"
    r"\{?\s*(\w{1,20})\s*\}?\s*\)?"
)
_NAME = r"(?:\\?[A-Za-z]+'*(?:_(?:\{[^{}]*\}|\w))?'*)"
VARIABLE = re.compile(
    r"[A-Za-z](?:_(?:\{\w+\}|\w))?'*|\\(?:alpha|beta|gamma|delta|theta|lambda|mu|phi|omega|epsilon|rho|sigma)"
)
_INDEXED = r"(?:_(?:\{[^{}]*\}|\w))?"
# What an equation may only give a name to: x, f(x), AB, the area, \angle ABC, \sin A, V_1 : V_2. No product: 2x, xy.
_CALLED = re.compile(
    rf"[A-Za-z]{_INDEXED}'*(?:\^\{{?-1\}}?)?(?:\s*\([^()=<>]*\))?|\\[a-zA-Z]+{_INDEXED}|m?\s*\\angle\s*[A-Z]{{1,3}}|"
    r"[A-Za-z][A-Za-z ]{3,}|sum|age|min|max|gcd|lcm|\([A-Za-z, ]+\)|\|?[A-Z]{2}\|?|"
    r"\\(?:overline|overrightarrow|vec|hat)\s*(?:\{[A-Za-z]+\}|[A-Za-z])|\\frac\{[A-Z]{2}\}\{[A-Z]{2}\}|"
    r"\\(?:sin|cos|tan|gcd|min|max)\s*(?:\\?[A-Za-z]+|\([^()=<>]*\))|"
    rf"[A-Z]{_INDEXED}(?:\s*:\s*[A-Z]{_INDEXED})+"
)
_OPERATORS = ("<=", ">=", r"\le", r"\ge", r"\ne", r"\approx", r"\equiv", "!=", "<", ">", "=")
_OPEN, _CLOSE = {"(", "[", "{", r"\{", r"\langle"}, {")", "]", "}", r"\}", r"\rangle"}
_PIECE = re.compile(r"\\[A-Za-z]+|\\.|.", re.DOTALL)
_FUNCTION_WORDS = frozenset(
    (
        "sin", "cos", "tan", "sec", "csc", "cot", "sinh", "cosh", "tanh", "arcsin", "arccos", "arctan", "asin", "acos",
        "atan", "log", "ln", "exp", "sqrt", "pi", "abs", "floor", "ceil",
    )
)  # fmt: skip


def read(text: str, depth: int = 0) -> Node:
    """The answer that a cleaned text states."""
    text = text.strip()
    lowered = text.casefold()
    if depth > 12:
        return Node("words", text)
    if _EMPTY.fullmatch(lowered):
        return Node("empty", text)
    if _REALS.fullmatch(text) or _REALS.fullmatch(lowered):
        return Node("tuple", text, (read(r"-\infty"), read(r"\infty")), "()")
    in_words = spelled(text)
    if in_words is not None:
        return Node("quantity", in_words)
    place = ordinal(text)
    if place is not None:
        return Node("words", place)
    if re.fullmatch(r"\\mathbb\s*\{?R\}?\s*\^\s*\{?\+\}?", text):
        return Node("tuple", text, (read("0"), read(r"\infty")), "()")
    if re.fullmatch(r"(?:the )?(?:set of )?(?:all )?integers", lowered):
        return Node("quantity", r"\mathbb{Z}")
    date = day(text)
    if date is not None:
        return Node("date", date)
    joined = compound(text)
    if joined is not None:
        return Node("quantity", str(joined[0]), unit=joined[1])
    without = _WITHOUT.fullmatch(text)
    if without is not None:
        return _punctured(
            text, [read(part, depth + 1) for part in split(without[1] or without[2], (",", ";"), ("and", "or"))[0]]
        )
    residue = _RESIDUE.fullmatch(text)
    if residue is not None and not _OPEN & set(residue[2]):
        return Node("residue", text, variable=residue[1] or "", parts=(residue[2].strip(), residue[3]))
    matrix = _MATRIX.fullmatch(text)
    if matrix is not None and r"\begin" not in matrix[3] and _factor(matrix[1]):
        times = f"({matrix[1]})*" if matrix[1] else ""
        rows = [row for row in re.split(r"\\\\(?:\[[^\]]*\])?|\\cr", matrix[3].replace(r"\hline", "")) if row.strip()]
        cells = [[read(f"{times}({c})" if times else c, depth + 1) for c in row.split("&")] for row in rows]
        if cells and len({len(row) for row in cells}) == 1:
            sort = matrix[2] if matrix[2] in ("vmatrix", "Vmatrix") else "matrix"
            return Node("matrix", text, tuple(c for row in cells for c in row), sort, len(cells[0]))
    member = re.fullmatch(rf"({_NAME})\s*\\in(?![A-Za-z])\s*(.+)", text)
    if member is not None:
        node = read(member[2], depth + 1)
        return replace(node, variable=member[1]) if node.kind in ("tuple", "union") and not node.variable else node
    french = re.fullmatch(r"([\[\]])([^\[\]]+[,;][^\[\]]+)([\[\]])", text)
    if french is not None and (french[1] == "]" or french[3] == "["):
        return read(("(" if french[1] == "]" else "[") + french[2] + (")" if french[3] == "[" else "]"), depth + 1)
    if "," in text and ";" in text:
        pieces, separators = split(text, (";",))
        if len(pieces) > 1:
            return _several(text, pieces, separators, depth)
    pieces, separators = split(text, (",", ";"), ("and", "or"))
    if len(pieces) > 1:
        return _several(text, pieces, separators, depth)
    sides, found = split(text, _OPERATORS)
    if len(sides) > 1 and all(side.strip() for side in sides):
        return _relation(text, [side.strip() for side in sides], found, depth)
    unions, _ = split(text, (r"\cup",), ("union", "U") if text[:1] in "([" else ())
    if len(unions) > 1:
        return Node("union", text, tuple(read(part, depth + 1) for part in unions))
    bracketed = _bracketed(text, depth)
    if bracketed is not None:
        return bracketed
    if r"\pm" in text or r"\mp" in text or "+-" in text or "+/-" in text:
        return _both(text, depth)
    sides, _ = split(text, (":",))
    if (
        len(sides) > 1
        and all(re.search(r"[\dA-Za-z]", side) for side in sides)
        and not re.match(r"[A-Za-z ]{4,}:", text)
    ):
        return Node("ratio", text, tuple(read(side, depth + 1) for side in sides))
    return _quantity(text)


def _factor(text: str) -> bool:
    """Whether a text may stand before a matrix as its factor: nothing, or a number or letter."""
    return not re.search(r"[=<>,;(\[\\]$|[=<>,;&]", text) and text.count("(") == text.count(")")


def split(text: str, signs: tuple[str, ...], words: tuple[str, ...] = ()) -> tuple[list[str], list[str]]:
    """The text cut at signs and words outside brackets, and what it was cut at."""
    if not any(cut in text for cut in (*signs, *words)):
        return [text], []
    parts, found, depth, start, place = [], [], 0, 0, 0
    while place < len(text):
        match = _PIECE.match(text, place)
        assert match is not None
        piece = match.group()
        if piece in _OPEN:
            depth += 1
        elif piece in _CLOSE:
            depth = max(0, depth - 1)
        if depth == 0:
            sign = next((s for s in signs if (piece == s if s.startswith("\\") else text.startswith(s, place))), None)
            word = next((w for w in words if text.startswith(w, place) and _apart(text, place, place + len(w))), None)
            cut = sign or word
            if cut is not None and not (sign == "=" and place and text[place - 1] in "<>!"):
                parts.append(text[start:place])
                found.append(cut)
                place += len(cut)
                start = place
                continue
        place = match.end()
    parts.append(text[start:])
    return parts, found


def _apart(text: str, start: int, end: int) -> bool:
    """Whether a word stands for itself: "7 or 8", "(1,2)or(2,1)"."""
    return bool(text[start - 1 : start] in (" ", ")", "}") and not text[end : end + 1].isalnum()) and start > 0


def _several(text: str, pieces: list[str], separators: list[str], depth: int) -> Node:
    kept = [piece.strip() for piece in pieces if piece.strip()]
    sort = "word" if set(separators) & {"and", "or"} else "comma"
    items = tuple(read(piece, depth + 1) for piece in kept)
    if len(items) == 1:
        return items[0]
    flat = tuple(one for item in items for one in (item.items if item.kind == "list" else (item,)))
    if all(item.kind == "tuple" and item.variable for item in flat) and len({item.variable for item in flat}) == 1:
        if "or" not in separators:
            meeting = _intersection(flat)
            if meeting is not None:
                return meeting
            if "and" in separators:
                return Node("different", text, sort="and", parts=(text,))
        return Node("union", text, flat, variable=flat[0].variable)
    return Node("list", text, flat, sort)


def _intersection(items: tuple[Node, ...]) -> Node | None:
    """x > 1 and x < 5 as the interval it is."""
    if len(items) != 2:
        return None
    lower = [i for i in items if i.items[1].text == r"\infty" and i.items[0].text != r"-\infty"]
    upper = [i for i in items if i.items[0].text == r"-\infty" and i.items[1].text != r"\infty"]
    if len(lower) != 1 or len(upper) != 1:
        return None
    a, b = lower[0], upper[0]
    try:
        below = number(Expression(a.items[0].text).at({})) < number(Expression(b.items[1].text).at({}))
    except (NoExpressionError, ArithmeticError, KeyError, TypeError):
        below = True
    if not below:
        return None
    return Node("tuple", a.text, (a.items[0], b.items[1]), a.sort[0] + b.sort[1], variable=a.variable)


def _relation(text: str, sides: list[str], found: list[str], depth: int) -> Node:
    plain = {"\\le": "<=", "\\ge": ">=", "\\ne": "!=", "\\approx": "=", "\\equiv": "="}
    operators = [plain.get(f, f) for f in found]
    if any(r"\pm" in side or r"\mp" in side for side in sides):
        return _both(text, depth)
    if set(operators) == {"="}:
        return Node("equation", text, (read(sides[-1], depth + 1),), parts=tuple(sides))
    if operators == ["!="] and VARIABLE.fullmatch(sides[0]) and not VARIABLE.fullmatch(sides[1]):
        return replace(_punctured(text, [read(sides[1], depth + 1)]), variable=sides[0])
    if "!=" in operators or "=" in operators:
        return Node("different", text, sort=" ".join(operators), parts=tuple(sides))
    up = [o.startswith("<") for o in operators]
    if all(up) or not any(up):
        if not any(up):
            sides, operators = sides[::-1], ["<" + o[1:] for o in operators[::-1]]
        closed = [o == "<=" for o in operators]
        around = _around(text, sides, closed, depth)
        if around is not None:
            return around
        inside = [bool(VARIABLE.fullmatch(s)) and s not in ("e", "i") for s in sides]
        ends = ("([", ")]")
        if len(sides) == 2 and inside[0] != inside[1]:
            if inside[0]:  # x < b
                items = (read(r"-\infty"), read(sides[1], depth + 1))
                return Node("tuple", text, items, "(" + ends[1][closed[0]], variable=sides[0], parts=tuple(sides))
            items = (read(sides[0], depth + 1), read(r"\infty"))
            return Node("tuple", text, items, ends[0][closed[0]] + ")", variable=sides[1], parts=tuple(sides))
        if len(sides) == 3 and inside == [False, True, False]:
            items = (read(sides[0], depth + 1), read(sides[2], depth + 1))
            return Node("tuple", text, items, ends[0][closed[0]] + ends[1][closed[1]], variable=sides[1])
    return Node("inequality", text, sort=" ".join(operators), parts=tuple(sides))


def _around(text: str, sides: list[str], closed: list[bool], depth: int) -> Node | None:
    """|x - a| < b as an interval, |x - a| > b as a union, for numbers a and b."""
    if len(sides) != 2:
        return None
    for place in (0, 1):
        match = re.fullmatch(r"\|\s*([a-zA-Z])\s*(?:([-+])\s*([\d./]+))?\s*\|", sides[place])
        if match is None or not re.fullmatch(r"[\d./]+", sides[1 - place].strip()):
            continue
        middle = f"{'-' if match[2] == '+' else ''}{match[3] or '0'}"
        low, high = (read(f"({middle})-({sides[1 - place]})"), read(f"({middle})+({sides[1 - place]})"))
        left, right = ("[", "]") if closed[0] else ("(", ")")
        if place == 0:
            return Node("tuple", text, (low, high), left + right, variable=match[1])
        below = Node("tuple", text, (read(r"-\infty"), low), "(" + right)
        above = Node("tuple", text, (high, read(r"\infty")), left + ")")
        return Node("union", text, (below, above), variable=match[1])
    return None


def _punctured(text: str, points: list[Node]) -> Node:
    """The real line without some points, as the union of what is left."""
    try:
        ordered = sorted(points, key=lambda node: number(Expression(node.text).at({})))
    except (NoExpressionError, ArithmeticError, KeyError, TypeError):
        return Node("different", text, sort="!=", parts=tuple(node.text for node in points))
    ends = [read(r"-\infty"), *ordered, read(r"\infty")]
    return Node("union", text, tuple(Node("tuple", text, pair, "()") for pair in itertools.pairwise(ends)))


def _both(text: str, depth: int) -> Node:
    r"""``a \pm b`` as the two that it is."""
    signs = re.sub(r"\+/-|\+-", r"\\pm ", text)
    plus = signs.replace(r"\pm", "+").replace(r"\mp", "-")
    minus = signs.replace(r"\pm", "-").replace(r"\mp", "+")
    return Node("list", text, (read(plus, depth + 1), read(minus, depth + 1)), "twice")


def _bracketed(text: str, depth: int) -> Node | None:
    for opening, closings in (("(", (")", "]")), ("[", ("]", ")")), (r"\{", (r"\}",)), (r"\langle", (r"\rangle",))):
        if not text.startswith(opening):
            continue
        closing = next((c for c in closings if text.endswith(c)), None)
        if closing is None or not _one_pair(text):
            return None
        inner = text[len(opening) : -len(closing)].strip()
        if re.fullmatch(r"\d{1,3}(?:,000)+", inner):  # no pair has the element 000
            inner = inner.replace(",", "")
        if opening == r"\{":
            built = re.fullmatch(r"[^|:]*[|:](.+)", inner)
            if built is not None and re.search(r"<|>|\\le|\\ge|\\in|=|\\ne", built[1]):
                return read(built[1], depth + 1)
            parts, _ = split(inner, (",", ";"))
            items = tuple(read(part, depth + 1) for part in parts if part.strip())
            flat = tuple(one for item in items for one in (item.items if item.kind == "list" else (item,)))
            return Node("set", text, flat)
        parts, _ = split(inner, (",", ";"))
        if len(parts) > 1:
            items = tuple(read(part, depth + 1) for part in parts)
            return Node("tuple", text, items, "()" if opening == r"\langle" else opening + closing)
        if (opening, closing) in (("(", ")"), ("[", "]")):
            return read(inner, depth + 1)
    return None


def _one_pair(text: str) -> bool:
    """Whether the bracket that opens the text closes at its end."""
    depth = 0
    for match in _PIECE.finditer(text):
        piece = match.group()
        depth += (piece in _OPEN) - (piece in _CLOSE)
        if depth == 0:
            return match.end() == len(text)
    return False


_MONEY = re.compile(r"(-?)\s*([¤€£])\s*(-?[\d.].*)")
_DEGREES = re.compile(r"(.*[\d)}\]])\s*(?:\^\{\\circ\}\s*|degrees? (?=[CFcf]))(C|F|[Cc]elsius|[Ff]ahrenheit|)")
_ANGLED = re.compile(r"sin|cos|tan|sec|csc|cot")  # "\tan 60^\circ" is no angle
_MEASURED = re.compile(
    r"(?P<value>.*?(?:\d(?:[eE][-+]?\d+)?|[)}\]]|\\pi(?![A-Za-z])))(?P<space>\s*)(?P<unit>(?:[A-Za-z¢€£¤Ωμ]|\\frac(?=\s*\{\s*[A-Za-z]))[A-Za-z¢Ωμ\s/^{}\d*\\-]*)"
)


def _short_word(text: str) -> bool:
    """Whether three letters are a word ("dog", "red"), not a product ("xyz", "abc").

    A word has a vowel among consonants, and a product of such letters is written in the order of the alphabet.
    """
    if not re.fullmatch(r"[A-Za-z][a-z]{2}", text) or text in _FUNCTION_WORDS:
        return False
    letters = text.casefold()
    vowels = len(re.findall(r"[aeiou]", letters))
    return 0 < vowels < 3 and letters != "".join(sorted(letters))


def wordy(text: str) -> bool:
    """Whether a text is words, not an expression: a run of four letters, or three that spell a word."""
    if re.fullmatch(r"[A-Za-z][A-Za-z .,'-]*", text) and any(map(_short_word, re.split(r"[ .,'-]+", text))):
        return True
    plain = re.sub(r"\\[A-Za-z]+", " ", text)
    for word in re.findall(r"[A-Za-z]+", plain):
        if word in _FUNCTION_WORDS or word.casefold() in _FUNCTION_WORDS:
            continue
        if len(word) >= 4 or word.casefold() in ("yes", "no", "odd", "all", "the", "none", "dne"):
            return not any(
                word.endswith(f) or word.startswith(f)
                for f in _FUNCTION_WORDS
                if len(f) >= 3 and len(word) <= len(f) + 2
            )
    return bool(re.search(r"[^\W\d_a-zA-Z¤€£¢Ω]", plain))


def _quantity(text: str) -> Node:
    percent = re.fullmatch(r"(.*[\d)}\]])\s*(?:%|percent(?:age)?|per cent)", text, re.IGNORECASE)
    if percent is not None:
        return Node("quantity", percent[1].strip(), percent=True)
    money = _MONEY.fullmatch(text)
    if money is not None:
        rest = _quantity(money[3])
        currency = read_unit(money[2], True)
        assert currency is not None
        return (
            Node("quantity", money[1] + rest.text, unit=product(currency, rest.unit))
            if rest.kind == "quantity"
            else Node("words", text)
        )
    degrees = _DEGREES.fullmatch(text)
    if degrees is not None and not _ANGLED.search(degrees[1]):
        scale = {"C": "celsius", "F": "fahrenheit"}.get(degrees[2].strip()[:1].upper(), "degree")
        return Node("quantity", degrees[1].strip(), unit=read_unit(scale, True))
    measured = _MEASURED.fullmatch(text)
    if measured is not None and not re.search(r"[A-Za-z]{2,}", re.sub(r"\\[A-Za-z]+", "", measured["value"])):
        unit = read_unit(measured["unit"], bool(measured["space"]))
        # "2 x" is a product; "2 m" is a length where the value is a number.
        if unit is not None and not re.search(r"(?<!\\)\b[A-Za-z]\b", re.sub(r"\\[A-Za-z]+", " ", measured["value"])):
            return Node("quantity", measured["value"].strip(), unit=unit)
    return Node("words" if wordy(text) else "quantity", text)


def named(side: str) -> bool:
    """Whether the left side of an equation only says what is given: x, f(x), AB, the area."""
    return bool(_CALLED.fullmatch(side.strip()))
