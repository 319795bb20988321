"""Units behind a number: what they measure, and how much of it."""

from __future__ import annotations

import re
from fractions import Fraction

Dimensions = tuple[tuple[str, int], ...]
Unit = tuple[Dimensions, Fraction]

_TABLE: dict[str, tuple[dict[str, int], Fraction]] = {}


def _known(dimensions: str, **names: str) -> None:
    """Words of a factor: ``_1_100="cm"`` is a hundredth. `dimensions` is "mass length time-2" and the like."""
    powers = {m[1]: int(m[2] or 1) for m in re.finditer(r"([a-z]+)(-?\d)?", dimensions)}
    for factor, words in names.items():
        for word in words.split():
            _TABLE[word] = (powers, Fraction(factor.strip("_").replace("_", "/")))


_known("length", _1="m meter metre", _1_100="cm centimeter centimetre", _1_1000="mm millimeter millimetre")
_known("length", _1000="km kilometer kilometre", _1_10="dm decimeter decimetre", _1_1000000="μm micrometer micrometre")
_known("length", _1_1000000000="nm nanometer nanometre", _127_5000="inch inche in", _381_1250="ft foot feet")
_known("length", _1143_1250="yd yard", _201168_125="mi mile")
_known("length2", _10000="ha hectare")
_known("mass", _1="g gram", _1000="kg kilogram", _1_1000="mg milligram", _1000000="tonne")
_known("mass", _45359237_100000="lb lbs", _45359237_1600000="oz ounce")
_known("time", _1="s sec second", _60="min minute", _3600="h hr hour", _86400="day", _604800="week")
_known("time", _1_1000="ms millisecond")
_known("year", _1="year yr", _1_12="month")
_known("length3", _1_1000="l L liter litre", _1_1000000="ml mL milliliter millilitre")
_known("money", _1="dollar usd USD ¤", _1_100="cent ¢")
_known("euro", _1="euro EUR €")
_known("pound", _1="£ GBP")
_known("poundword", _1="pound")  # of money or of mass: what the other quantity is
_known("yen", _1="¥ yen JPY")
_known("rupee", _1="rupee INR")
_known("yuan", _1="yuan CNY")
_known("franc", _1="franc CHF")
for _code in ("KRW", "RUB", "TRY", "ILS", "THB", "PHP", "VND", "NGN", "BRL", "AUD", "CAD", "NZD", "HKD", "SGD", "PLN"):
    _known(_code, _1=_code)
_known("angle", _1="degree deg")
_known("celsius", _1="celsius centigrade")
_known("fahrenheit", _1="fahrenheit")
_known("radian", _1="radian rad")
_known("length time-1", _1397_3125="mph")
_known("length time-1", _5_18="kph kmh")
_known("unit", _1="unit")
_known("mass length time-2", _1000="N newton", _1000000="kN kilonewton")
_known("mass length2 time-2", _1000="J joule", _1000000="kJ kilojoule", _1000000000="MJ megajoule")
_known("mass length2 time-3", _1000="W watt", _1000000="kW kilowatt", _1000000000="MW megawatt")
_known("mass length-1 time-2", _1000="Pa pascal", _1000000="kPa kilopascal", _1000000000="MPa megapascal")
_known("time-1", _1="Hz hertz", _1000="kHz kilohertz", _1000000="MHz megahertz", _1000000000="GHz gigahertz")
_known("current", _1="A amp ampere", _1_1000="mA milliampere")
_known("voltage", _1="V volt", _1000="kV kilovolt", _1_1000="mV millivolt")
_known("ohm", _1="Ω ohm", _1000="kΩ kiloohm")
_known("charge", _1="C coulomb", _1_1000000="μC microcoulomb")
_known("kelvin", _1="K kelvin")
_known("amount", _1="mol mole")
_known("electronvolt", _1="eV electronvolt")

# Words behind a number that are no thing to be counted: "5 squared" is not 5.
_NO_THING = frozenset(
    (
        "more", "less", "fewer", "than", "and", "not", "from", "plus", "minus", "times", "divided", "over", "point",
        "squared", "cubed", "factorial", "root", "half", "halves", "third", "thirds", "fourth", "fourths", "quarter",
        "quarters", "fifth", "fifths", "sixth", "sixths", "seventh", "sevenths", "eighth", "eighths", "ninth", "ninths",
        "tenth", "tenths", "hundredth", "hundredths", "percent", "dozen", "hundred", "thousand", "million", "billion",
        "trillion", "mod", "choose", "between", "about", "but", "except", "wrong", "false", "degrees", "remainder",
    )
)  # fmt: skip
_POUNDS: dict[Dimensions, Unit] = {
    (("mass", 1),): ((("mass", 1),), _TABLE["lb"][1]),
    (("pound", 1),): ((("pound", 1),), Fraction(1)),
}
_LETTERS = r"[A-Za-zΩμ¤€£¥¢]"


def read_unit(text: str, spaced: bool) -> Unit | None:
    """Dimensions and factor of a unit, None if the text is none.

    `spaced`: a space stood before it; a single letter right behind a number is a variable. Unknown words of three and
    more letters ("apples") are a dimension of their own. "million" is a factor.
    """
    text = re.sub(r"\\frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}", r" \1 / \2 ", text)
    text = text.replace(r"\cdot", " ").replace("*", " ").strip()
    text = re.sub(r"\bper\b", "/", text)
    text = re.sub(r"\bdegrees?\s+(?=celsius|fahrenheit)", "", text, flags=re.IGNORECASE)
    powers: dict[str, int] = {}
    factor = Fraction(1)
    for place, part in enumerate(text.split("/")):
        sign = 1 if place == 0 else -1
        pending = 1
        last: dict[str, int] = {}
        for match in re.finditer(rf"({_LETTERS}+)\s*(?:\^\s*\{{?\s*(-?\d)\s*\}}?)?|(\S)", part):
            word, exponent, other = match.groups()
            if other is not None:
                return None
            lowered = word.casefold()
            if lowered == "old" and "year" in powers:
                continue
            if lowered in ("square", "sq", "cubic", "cu"):
                pending = 2 if lowered.startswith("sq") else 3
                continue
            if lowered in ("squared", "cubed") and last:
                for dimension, power in last.items():
                    powers[dimension] += power if lowered == "squared" else 2 * power
                continue
            found = _lookup(word)
            if found is None or (len(word) == 1 and not spaced and word.isascii()):
                return None
            dimensions, own = found
            power = sign * pending * int(exponent or 1)
            last = {dimension: power * each for dimension, each in dimensions.items()}
            for dimension, each in last.items():
                powers[dimension] = powers.get(dimension, 0) + each
            factor *= own**power
            pending = 1
    if not text:
        return None
    return tuple(sorted((d, p) for d, p in powers.items() if p)), factor


def matched(first: Unit, second: Unit) -> tuple[Unit, Unit]:
    """Both units, a "pound" read as the one of mass or of money that the other one is."""
    word = (("poundword", 1),)
    if first[0] == word and second[0] != word:
        first = _POUNDS.get(second[0], first)
    elif second[0] == word:
        second = _POUNDS.get(first[0], second)
    return first, second


def product(first: Unit, second: Unit | None) -> Unit:
    """The unit of a product."""
    if second is None:
        return first
    powers = dict(first[0])
    for dimension, power in second[0]:
        powers[dimension] = powers.get(dimension, 0) + power
    return tuple(sorted((d, p) for d, p in powers.items() if p)), first[1] * second[1]


def _lookup(word: str) -> tuple[dict[str, int], Fraction] | None:
    for form in (word, word.casefold(), _singular(word.casefold())):
        if form in _TABLE:
            return _TABLE[form]
    if len(word) >= 3 and word.casefold() not in _NO_THING:
        return {"thing " + _singular(word.casefold()): 1}, Fraction(1)
    return None


def _singular(word: str) -> str:
    return word[:-1] if word.endswith("s") and len(word) > 2 else word


_PART = rf"(\d+(?:\.\d+)?)\s*({_LETTERS}{{1,12}})\.?"
_COMPOUND = re.compile(rf"{_PART}(?:\s*(?:,|and|,\s*and)?\s*{_PART}){{1,2}}")


def compound(text: str) -> tuple[Fraction, Unit] | None:
    """A quantity in several units of one kind, as how much of the first it is: 2 hours 30 minutes, 5 ft 6 in."""
    if not _COMPOUND.fullmatch(text):
        return None
    total, first = Fraction(0), None
    smallest: Fraction | None = None
    for match in re.finditer(_PART, text):
        unit = read_unit(match[2], True)
        if unit is None or unit[0] not in ((("time", 1),), (("length", 1),), (("mass", 1),), (("money", 1),)):
            return None
        if first is not None and (unit[0] != first[0] or smallest is None or unit[1] >= smallest):
            return None
        first, smallest = first or unit, unit[1]
        total += Fraction(match[1]) * unit[1]
    return None if first is None else (total / first[1], first)
