"""The choice that is nearest to a text by edit distance (MathVista)."""

from __future__ import annotations

from collections.abc import Sequence

LONGEST = 2000  # characters compared; an extraction is a few words


def levenshtein(a: str, b: str) -> int:
    """Insertions, deletions and substitutions that turn `a` into `b`."""
    if len(a) < len(b):
        a, b = b, a
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (x != y))
    return row[-1]


def nearest_choice(text: str, choices: Sequence[str]) -> str:
    """The choice at the least distance, of equals the first."""
    return min(choices, key=lambda choice: levenshtein(text[:LONGEST], choice[:LONGEST]))
