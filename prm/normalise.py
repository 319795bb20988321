"""Text made comparable, with the way back to the original characters."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

_STRAIGHT = {
    **dict.fromkeys("‘’‚‛′ʼ`´", "'"),
    **dict.fromkeys("“”„‟″«»", '"'),
}
_QUOTES = "".join(_STRAIGHT) + "'\""
_FINAL = ".,;:!?…。，；：！？、"


@dataclass(frozen=True)
class Normalised:
    """A text and, for each of its characters, the original characters [start, end) that it stands for."""

    text: str
    places: tuple[tuple[int, int], ...]

    def original(self, start: int, end: int) -> tuple[int, int]:
        """Original range of the characters [start, end), end > start."""
        return self.places[start][0], self.places[end - 1][1]


def trim(string: str) -> str:
    """Without quotes and white space at either end, and punctuation at the end."""
    while True:
        shorter = string.strip().strip(_QUOTES).strip().rstrip(_FINAL)
        if shorter == string:
            return string
        string = shorter


def normalised(text: str) -> Normalised:
    """NFKC, runs of white space as one space, typographic quotes straight."""
    return _map(text, False)


def folded(text: str) -> Normalised:
    """`normalised`, casefolded."""
    return _map(text, True)


def _map(text: str, fold: bool) -> Normalised:
    characters: list[str] = []
    places: list[tuple[int, int]] = []
    for start, end in _segments(text):
        made = unicodedata.normalize("NFKC", "".join(_STRAIGHT.get(c, c) for c in text[start:end]))
        if fold:
            made = unicodedata.normalize("NFKC", made.casefold())
        for character in made:
            character = _STRAIGHT.get(character, character)
            if character.isspace():
                if characters and characters[-1] == " ":
                    places[-1] = (places[-1][0], end)
                    continue
                character = " "
            characters.append(character)
            places.append((start, end))
    return Normalised("".join(characters), tuple(places))


def _segments(text: str) -> list[tuple[int, int]]:
    """Stretches that normalise on their own: a character with all that combines with it."""
    if text.isascii():
        return [(i, i + 1) for i in range(len(text))]
    found: list[tuple[int, int]] = []
    start = 0
    for i in range(1, len(text)):
        if text[i].isascii() or not _combines(text[start:i], text[i]):
            found.append((start, i))
            start = i
    if text:
        found.append((start, len(text)))
    return found


def _combines(before: str, character: str) -> bool:
    if unicodedata.combining(character):
        return True
    if before.isascii():
        return False
    together = unicodedata.normalize("NFKC", before[-8:] + character)
    return together != unicodedata.normalize("NFKC", before[-8:]) + unicodedata.normalize("NFKC", character)
