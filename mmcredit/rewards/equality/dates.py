"""Days and times of day in one form, so that "July 4, 1776" and "4 July 1776" are one day."""

from __future__ import annotations

import re

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_LONG = (
    "january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november",
    "december",
)  # fmt: skip
_MONTH = rf"(?P<month>{'|'.join(_LONG)}|sept|{'|'.join(_MONTHS)})\.?"
_DAY = r"(?P<day>\d{1,2})(?:st|nd|rd|th)?"
_YEAR = r"(?P<year>\d{4})"
_FORMS = tuple(
    re.compile(form, re.IGNORECASE)
    for form in (
        rf"{_MONTH}\s+{_DAY}(?:\s*,?\s*{_YEAR})?",
        rf"(?:the\s+)?{_DAY}\s+(?:of\s+)?{_MONTH}(?:\s*,?\s*{_YEAR})?",
        r"(?P<year>\d{4})(?P<sign>[-/.])(?P<month>\d{2})(?P=sign)(?P<day>\d{2})",
        r"(?P<month>0?[1-9]|1[0-2])[-/.](?P<day>1[3-9]|2\d|3[01])[-/.](?P<year>\d{4})",
        r"(?P<day>1[3-9]|2\d|3[01])[-/.](?P<month>0?[1-9]|1[0-2])[-/.](?P<year>\d{4})",
    )
)
_TIME = re.compile(r"(\d{1,2}):([0-5]\d)(?::([0-5]\d))?(?:\s*([ap])\.?\s*m\.?)?", re.IGNORECASE)


def day(text: str) -> str | None:
    """A date as "month/day/year", the year empty if it is not said; None for any other text."""
    for form in _FORMS:
        match = form.fullmatch(text)
        if match is not None:
            month = match["month"].casefold()
            number = int(month) if month.isdigit() else _MONTHS.index(month[:3]) + 1
            if 1 <= number <= 12 and 1 <= int(match["day"]) <= 31:
                return f"{number}/{int(match['day'])}/{match['year'] or ''}"
    return None


def clock(text: str) -> tuple[int, bool] | None:
    """A time of day as seconds, and whether it is said which half of the day; None for any other text."""
    match = _TIME.fullmatch(text.strip())
    if match is None:
        return None
    hour, minute, second = int(match[1]), int(match[2]), int(match[3] or 0)
    if match[4]:
        hour = hour % 12 + (12 if match[4].casefold() == "p" else 0)
    return 3600 * hour + 60 * minute + second, bool(match[4]) or not 1 <= hour <= 12
