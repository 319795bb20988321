"""Units behind a number: what they measure, and how much of it."""

from __future__ import annotations

import re
from fractions import Fraction

Dimensions = tuple[tuple[str, int], ...]

_TABLE: dict[str, tuple[str, Fraction]] = {}


def _known(dimension: str, **names: str) -> None:
    for factor, words in names.items():
        for word in words.split():
            _TABLE[word] = (dimension, Fraction(factor.strip("_").replace("_", "/")))


_known("length", _1="m meter metre", _1_100="cm centimeter centimetre", _1_1000="mm millimeter millimetre")
_known(
    "length", _1000="km kilometer kilometre", _127_5000="inch inche in", _381_1250="ft foot feet", _1143_1250="yd yard"
)
_known("length", _201168_125="mi mile")
_known("mass", _1="g gram", _1000="kg kilogram", _1_1000="mg milligram", _1000000="tonne")
_known("time", _1="s sec second", _60="min minute", _3600="h hr hour", _86400="day", _604800="week")
_known("time", _1_1000="ms millisecond")
_known("volume", _1="l L liter litre", _1_1000="ml mL milliliter millilitre")
_known("money", _1="dollar usd USD ¤", _1_100="cent ¢")
_known("euro", _1="euro EUR €")
_known("pound", _1="£ GBP")
_known("angle", _1="degree deg")
_known("radian", _1="radian rad")
_known("speed", _1397_3125="mph")
_known("", _1="unit")
for _plain in ("N", "J", "W", "V", "A", "K", "Pa", "Hz", "mol", "C", "F", "kJ", "kW", "eV", "Ω"):
    _TABLE.setdefault(_plain, (_plain, Fraction(1)))

_WORD = re.compile(r"[A-Za-zΩ¤€£¢°%]+")


def read_unit(text: str, spaced: bool) -> tuple[Dimensions, Fraction] | None:
    """Dimensions and factor of a unit, None if the text is none.

    `spaced`: a space stood before it; a single letter right behind a number is a variable. Unknown words of three and
    more letters ("apples") are a dimension of their own.
    """
    text = text.replace(r"\cdot", " ").replace("*", " ").strip()
    text = re.sub(r"\bper\b", "/", text)
    powers: dict[str, int] = {}
    factor = Fraction(1)
    for place, part in enumerate(text.split("/")):
        sign = 1 if place == 0 else -1
        pending = 1
        for match in re.finditer(r"([A-Za-zΩ¤€£¢]+)\s*(?:\^\s*\{?\s*(-?\d)\s*\}?)?|(\S)", part):
            word, exponent, other = match.groups()
            if other is not None:
                return None
            lowered = word.casefold()
            if lowered in ("square", "sq", "cubic", "cu"):
                pending = 2 if lowered.startswith("sq") else 3
                continue
            if lowered in ("squared", "cubed") and powers:
                last = next(reversed(powers))
                powers[last] *= 2 if lowered == "squared" else 3
                continue
            found = _lookup(word)
            if found is None or (len(word) == 1 and not spaced and word.isascii()):
                return None
            dimension, own = found
            power = sign * pending * int(exponent or 1)
            if dimension:
                powers[dimension] = powers.get(dimension, 0) + power
            factor *= own**power
            pending = 1
    if not text:
        return None
    return tuple(sorted((d, p) for d, p in powers.items() if p)), factor


def _lookup(word: str) -> tuple[str, Fraction] | None:
    for form in (word, word.casefold(), _singular(word.casefold())):
        if form in _TABLE:
            return _TABLE[form]
    if len(word) >= 3:
        return "thing " + _singular(word.casefold()), Fraction(1)
    return None


def _singular(word: str) -> str:
    return word[:-1] if word.endswith("s") and len(word) > 3 else word
