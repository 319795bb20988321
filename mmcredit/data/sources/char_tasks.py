"""Questions about the letters of a word, with exact answers, in the manner of CharBench."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from pydantic import Field, field_validator, model_validator

from mmcredit.components import register
from mmcredit.data.sources.base import Rows, TableSource
from mmcredit.data.splits import in_test
from mmcredit.data.words import WORDS
from mmcredit.seeds import derive

Task = Literal["count", "first", "last", "distinct"]
ALPHABET = "abcdefghijklmnopqrstuvwxyz"
ABSENT_SHARE = 0.2  # of the count questions, which ask for a letter that is not there
TRIES = 20  # draws per wanted question before a set of words counts as used up

_QUESTIONS: dict[str, str] = {
    "count": 'How many times does the letter "{letter}" occur in the word "{word}"?',
    "first": 'At which position does the letter "{letter}" first occur in the word "{word}"? {rule}',
    "last": 'At which position does the letter "{letter}" last occur in the word "{word}"? {rule}',
    "distinct": 'How many different letters does the word "{word}" have?',
}
_RULES = {
    0: "Positions are counted from 0: the first letter is at position 0.",
    1: "Positions are counted from 1: the first letter is at position 1.",
}


def answer_of(task: Task, word: str, letter: str, index_base: int = 0) -> int:
    """The exact answer. Raises ValueError if a position of a letter is asked for that the word does not have.

    >>> answer_of("count", "strawberry", "r"), answer_of("first", "strawberry", "r"), answer_of("last", "abba", "a", 1)
    (3, 2, 4)
    """
    if task == "count":
        return word.count(letter)
    if task == "distinct":
        return len(set(word))
    if letter not in word:
        raise ValueError(f"the word {word!r} has no letter {letter!r}")
    return (word.index(letter) if task == "first" else word.rindex(letter)) + index_base


@register("source", "char_tasks")
class CharTasks(TableSource):
    """How often a letter occurs in a word, and where: what tokens hide (CharBench, arXiv 2508.02591).

        source:
          - char_tasks: {tasks: [count, first, last], index_base: 0, size: 2000, split: train}

    `count`: occurrences of a letter (a fifth of the questions ask for one that is not there: 0); `first`, `last`:
    position of its first or last occurrence, counted from `index_base`, which the question says; `distinct`: number of
    different letters. The tasks take turns. The letter is drawn by position, so that repeated letters come up more
    often. Answers are whole numbers: use the reward `number`, or `exact_answer`.

    Words: 691 common English ones (`words: english`), letter strings made up on the spot (`words: random`: few
    different letters, so that they repeat), or one a line from `word_file`. A word belongs to `test` (a fifth of all)
    or to `train` by a hash of it, whatever seed, task and size: the two splits share no word. No question comes twice.

    Differs from CharBench: the questions are worded here and its data are not used. Columns:
    `question`, `answer`, `task`, `word`, `letter`, `index_base`. Ids are char_tasks/split/seed/number.
    """

    tasks: list[Task] = Field(
        default=["count", "first", "last"], min_length=1, description="count, first, last, distinct"
    )
    index_base: Literal[0, 1] = Field(default=0, description="position of the first letter")
    words: Literal["english", "random"] = Field(default="english", description="where words come from")
    word_file: Path | None = Field(default=None, description="text file with one word a line, in place of `words`")
    min_length: int = Field(default=3, ge=2, description="letters of the shortest word")
    max_length: int = Field(default=13, le=100, description="letters of the longest word")
    size: int = Field(default=1000, gt=0, description="questions, before `where` and `limit`")
    seed: int = Field(default=0, ge=0, description="other seeds give other questions")
    split: Literal["train", "test"] = Field(default="train", description="which words")

    @field_validator("tasks")
    @classmethod
    def _once_each(cls, tasks: list[Task]) -> list[Task]:
        if len(set(tasks)) < len(tasks):
            raise ValueError(f"each of {', '.join(get_args(Task))} at most once")
        return tasks

    @model_validator(mode="after")
    def _lengths_fit(self) -> CharTasks:
        if self.min_length > self.max_length:
            raise ValueError(f"min_length {self.min_length} is over max_length {self.max_length}")
        return self

    def rows(self) -> Rows:
        return CharRows(self)

    def describe(self) -> str:
        return f"{self.name} ({self.split})"


def read_words(path: Path) -> list[str]:
    """The words of a text file, in small letters, each once. Raises ValueError naming file and line."""
    try:
        lines = path.expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"word_file {str(path)!r} cannot be read: {error}") from None
    words: dict[str, None] = {}
    for number, line in enumerate(lines, start=1):
        word = line.strip().lower()
        if word and not (word.isalpha() and word.isascii()):
            raise ValueError(f"{path}, line {number}: {line.strip()!r} is no word of the letters a to z")
        if word:
            words[word] = None
    return list(words)


class CharRows:
    """The questions of one split."""

    def __init__(self, source: CharTasks) -> None:
        self._source = source
        # `RandomState`: its streams are frozen (NEP 19), so that a resumed run sees the same questions.
        self._random = np.random.RandomState(derive(source.seed, "char_tasks", source.split) % 2**32)
        self._words = self._known_words()
        self._rows: list[dict[str, Any]] = []
        seen: set[tuple[str, str, str]] = set()
        for _ in range(source.size * TRIES):
            if len(self._rows) == source.size:
                return
            task = source.tasks[len(self._rows) % len(source.tasks)]
            word = self._word()
            letter = self._letter(task, word)
            if (task, word, letter) not in seen:
                seen.add((task, word, letter))
                self._rows.append(self._row(task, word, letter))
        if len(self._rows) < source.size:
            raise ValueError(
                f"source {source.describe()}: its words give only about {len(self._rows)} different questions; lower "
                f"size {source.size}, give more words in word_file, or set words: random"
            )

    def _known_words(self) -> list[str] | None:
        """The words of this split; None if they are made up."""
        source = self._source
        if source.word_file is None and source.words == "random":
            return None
        known = list(WORDS) if source.word_file is None else read_words(source.word_file)
        fitting = [w for w in known if source.min_length <= len(w) <= source.max_length]
        chosen = sorted(w for w in fitting if in_test(w) == (source.split == "test"))
        if not chosen:
            raise ValueError(
                f"source {source.describe()}: none of {len(known)} words has {source.min_length} to "
                f"{source.max_length} letters and belongs to this split"
            )
        return chosen

    def _word(self) -> str:
        if self._words is not None:
            return self._words[self._random.randint(len(self._words))]
        while True:
            length = self._random.randint(self._source.min_length, self._source.max_length + 1)
            few = self._random.permutation(26)[: max(2, (2 * length + 2) // 3)]
            word = "".join(ALPHABET[i] for i in self._random.choice(few, length))
            if in_test(word) == (self._source.split == "test"):
                return word

    def _letter(self, task: Task, word: str) -> str:
        if task == "distinct":
            return ""
        absent = [letter for letter in ALPHABET if letter not in word]
        if task == "count" and absent and self._random.random_sample() < ABSENT_SHARE:
            return absent[self._random.randint(len(absent))]
        return word[self._random.randint(len(word))]

    def _row(self, task: Task, word: str, letter: str) -> dict[str, Any]:
        base = self._source.index_base
        return {
            "question": _QUESTIONS[task].format(word=word, letter=letter, rule=_RULES[base]),
            "answer": str(answer_of(task, word, letter, base)),
            "task": task,
            "word": word,
            "letter": letter,
            "index_base": base,
        }

    def __len__(self) -> int:
        return len(self._rows)

    def columns(self) -> list[str]:
        return ["question", "answer", "task", "word", "letter", "index_base"]

    def column(self, name: str) -> Iterator[Any]:
        for row in self._rows:
            yield row.get(name)

    def read(self, index: int) -> dict[str, Any]:
        return self._rows[index]

    def place(self, index: int) -> str:
        return self.id(index)

    def id(self, index: int) -> str:
        return f"char_tasks/{self._source.split}/{self._source.seed}/{index}"
