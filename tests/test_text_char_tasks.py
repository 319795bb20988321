"""Questions about letters: exact answers, words that never cross the split, seeded and without repetition."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from mmcredit.answers.item import RewardItem
from mmcredit.components import build, lookup, page
from mmcredit.data.media import MediaLimits
from mmcredit.data.sample import Sample
from mmcredit.data.sources.char_tasks import ALPHABET, answer_of
from mmcredit.data.words import WORDS


def load(**fields: Any) -> Sequence[Sample]:
    source = build("source", {"char_tasks": fields})
    return source.load(MediaLimits())  # type: ignore[attr-defined, no-any-return]


def test_answers_by_hand() -> None:
    assert answer_of("count", "strawberry", "r") == 3
    assert answer_of("count", "strawberry", "z") == 0
    assert (answer_of("first", "strawberry", "r"), answer_of("last", "strawberry", "r")) == (2, 8)
    assert (answer_of("first", "strawberry", "r", 1), answer_of("last", "strawberry", "r", 1)) == (3, 9)
    assert answer_of("first", "strawberry", "s") == 0
    assert answer_of("distinct", "strawberry", "") == 8
    with pytest.raises(ValueError, match="has no letter 'z'"):
        answer_of("first", "strawberry", "z")


@pytest.mark.parametrize("words", ["english", "random"])
@pytest.mark.parametrize("base", [0, 1])
def test_every_question_can_be_answered_from_its_text(words: str, base: int) -> None:
    """The answer is found again by walking through the word that the question quotes."""
    samples = load(tasks=["count", "first", "last", "distinct"], words=words, index_base=base, size=200)
    for sample in samples:
        text = str(sample.messages[0]["content"])
        quoted = re.findall(r'"([a-z]+)"', text)
        word, letter = quoted[-1], quoted[0]
        places = [i + base for i, c in enumerate(word) if c == letter]
        if "How many different" in text:
            expected = sum(c in word for c in ALPHABET)
        elif "How many times" in text:
            expected = len(places)
        else:
            assert f"counted from {base}: the first letter is at position {base}." in text
            expected = places[0] if " first occur" in text else places[-1]
        assert sample.answer == str(expected)
    assert {s.meta["task"] for s in samples[:4]} == {"count", "first", "last", "distinct"}
    counts = [s.answer for s in samples if s.meta["task"] == "count"]
    assert "0" in counts
    assert any(int(str(c)) >= 2 for c in counts)


@pytest.mark.parametrize("words", ["english", "random"])
def test_train_and_test_share_no_word_under_any_seed(words: str) -> None:
    short = {"words": words, "max_length": 5}
    train = {s.meta["word"] for seed in (0, 1) for s in load(seed=seed, size=400, **short)}
    test = {s.meta["word"] for seed in (1, 2) for s in load(seed=seed, size=50, split="test", **short)}
    assert train
    assert test
    assert not train & test


def test_the_two_splits_cover_the_list() -> None:
    assert len(WORDS) == len(set(WORDS)) == 691
    assert all(re.fullmatch("[a-z]{4,12}", word) for word in WORDS)
    found = {
        s.meta["word"] for split in ("train", "test") for s in load(size=3000 if split == "train" else 900, split=split)
    }
    assert len(found) > 650


def test_seeded_distinct_and_stable() -> None:
    first, again, other = load(seed=5, size=300), load(seed=5, size=300), load(seed=6, size=300)
    assert list(first) == list(again)
    assert [s.messages for s in first] != [s.messages for s in other]
    assert list(load(seed=5, size=100)) == list(first)[:100]
    texts = [s.messages[0]["content"] for s in first]
    assert len(set(texts)) == 300
    assert len({s.id for s in first}) == 300
    assert first[0].id == "char_tasks/train/5/0"
    # Frozen: a resumed run, and another machine, must see the same questions.
    assert [(s.meta["word"], s.meta["letter"], s.answer) for s in load(seed=0, size=3)] == FIRST_OF_SEED_0


FIRST_OF_SEED_0 = [("airport", "v", "0"), ("gather", "h", "3"), ("decade", "c", "2")]


def test_words_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text("Apple\n\nbanana\nBANANA\n" + "".join(f"{c}{c}ab\n" for c in ALPHABET))
    found = {s.meta["word"] for s in load(word_file=str(path), size=40)}
    assert found <= {"apple", "banana", *(f"{c}{c}ab" for c in ALPHABET)}
    path.write_text("apple\nnaïve\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"words\.txt, line 2: 'naïve' is no word"):
        load(word_file=str(path))
    with pytest.raises(ValueError, match="cannot be read"):
        load(word_file=str(tmp_path / "none.txt"))


def test_settings_that_cannot_work_are_refused() -> None:
    with pytest.raises(ValueError, match=r"only about \d+ different questions; lower size 500"):
        load(max_length=4, tasks=["distinct"], size=500)
    with pytest.raises(ValueError, match="none of 691 words has 50 to 60 letters"):
        load(min_length=50, max_length=60)
    with pytest.raises(ValueError, match="min_length 9 is over max_length 5"):
        load(min_length=9, max_length=5)
    with pytest.raises(ValueError, match="at most once"):
        load(tasks=["count", "count"])
    with pytest.raises(ValueError, match="index_base"):
        load(index_base=2)
    assert "CharBench" in page(lookup("source", "char_tasks"))


def test_filters_template_and_reward() -> None:
    samples = load(size=90, where={"task": "last"}, template="{{ content }} Answer in tags.", limit=5)
    assert len(samples) == 5
    assert all(s.meta["task"] == "last" for s in samples)
    assert str(samples[0].messages[0]["content"]).endswith("Answer in tags.")
    reward = build("reward", "number")
    right = [RewardItem(f"It is <answer>{s.answer}</answer>", s.answer) for s in samples]
    wrong = [RewardItem(f"It is <answer>{int(str(s.answer)) + 1}</answer>", s.answer) for s in samples]
    assert reward(right + wrong) == [1.0] * 5 + [0.0] * 5  # type: ignore[operator]
