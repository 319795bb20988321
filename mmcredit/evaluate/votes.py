"""What an answer votes for in a majority over several answers to one question."""

from __future__ import annotations

from collections.abc import Hashable
from fractions import Fraction
from typing import Any

from mmcredit.answers.extract import extract, last_boxed, last_tag, normalise

RIGHT = "right"


def vote(text: str, right: bool, reward: Any) -> Hashable | None:
    """The candidate that a response votes for; None if it answers nothing.

    All right answers are one candidate, however they are written ("1/2", "0.5"): the reward has said that they mean the
    reference. A wrong one votes for its answer text in normal form (case, white space and edge punctuation aside;
    decimal numbers by value). Where the answer stands is what the judging reward says (its fields `extract` and `tag`);
    a reward without them: the last ``<answer>``, else the last ``\\boxed{}``, else the whole response.
    """
    if right:
        return RIGHT
    how = getattr(reward, "extract", None)
    if how is None:
        tagged = last_tag(text)
        boxed = last_boxed(text) if tagged is None else tagged
        found: str | None = text if boxed is None else boxed
    else:
        found = extract(text, how, getattr(reward, "tag", "answer"))
    answer = normalise(found or "")
    return ("wrong", _by_value(answer)) if answer else None


def _by_value(answer: str) -> str:
    """One spelling per number: "7", "7.0" and "007" are the same wrong answer."""
    plain = answer.replace(",", "")
    # Only short decimal numbers: the value of "1e999999999" has a billion digits.
    if len(plain) > 40 or not plain.isascii() or any(c not in "+-.0123456789" for c in plain):
        return answer
    try:
        return str(Fraction(plain))
    except ValueError:
        return answer
