"""Sampled ids against their own text: the worked example of the notes, and every class on the shipped tokenizer."""

from __future__ import annotations

from functools import lru_cache

import pytest
import torch
from runs import metrics, parse
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from mmcredit.diagnose.models import load_tokenizer
from mmcredit.policy.prompt import Prompt
from mmcredit.policy.tokenisation import CLASSES, TokenisationCheck, symbol_bytes
from mmcredit.rollouts import Rollouts
from mmcredit.train.loop import train
from mmcredit.train.metrics import sampled_stretches, tokenisation_metrics


@lru_cache(maxsize=1)
def shipped():
    """The tokenizer of the shipped tiny Qwen3: byte-level BPE, NFC."""
    return load_tokenizer("builtin:tiny-qwen3")


def usual(text: str) -> list[int]:
    return shipped()(text, add_special_tokens=False)["input_ids"]


def spelt(text: str | bytes) -> list[int]:
    """One token per byte."""
    raw = text.encode() if isinstance(text, str) else text
    symbol = {byte: symbol for symbol, byte in symbol_bytes().items()}
    return [shipped().convert_tokens_to_ids(symbol[byte]) for byte in raw]


def read(ids: list[int]):
    return TokenisationCheck(shipped()).readings([ids])[0]


def test_worked_example():
    """Greedy longest match over un, believ, able, unb, eliev, " the", the, " "."""
    vocabulary = ["un", "believ", "able", "unb", "eliev", " the", "the", " "]
    core = Tokenizer(models.WordLevel({piece: i for i, piece in enumerate([*vocabulary, "?"])}, unk_token="?"))
    longest = "|".join(sorted(vocabulary, key=len, reverse=True))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(longest), "isolated")
    core.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core)
    ids = [vocabulary.index(piece) for piece in ("un", "believ", "able", " ", "the")]
    check = TokenisationCheck(tokenizer)
    (found,) = check.readings([ids])
    assert check.text(ids) == "unbelievable the"
    assert found.drifted
    assert (found.prefix, found.matched, found.tokens, found.again) == (0, 1, 5, 4)
    assert found.regions == ((0, 8, "word"), (12, 16, "whitespace"))
    summary = check.summary([ids])
    assert (summary.drift, summary.matched, summary.length_gap) == (1.0, 0.2, 1.0)


def test_ids_that_the_tokenizer_itself_would_choose_do_not_drift():
    for text in ("The answer is 12.", "", "a  b\n\nc", "<think>é ▁ 好</think><|im_end|>", "\ufffd"):
        found = read(usual(text))
        assert not found.drifted
        assert found.matched == found.tokens == found.again == found.prefix
        assert found.regions == ()


@pytest.mark.parametrize(
    ("ids", "regions"),
    [
        (spelt("answer") + usual(" is"), ((0, 2, "word"), (2, 6, "word"))),
        (usual("The") + spelt(" answer"), ((3, 10, "whitespace"),)),
        (spelt("<|im_end|>"), ((0, 10, "special_token"),)),
        (usual("The") + spelt("é".encode()[:1]) + usual(" answer"), ((3, 6, "partial_utf8"),)),
        (spelt("▁".encode()[:2]) + spelt(b"\xff") + usual(" answer"), ((0, 3, "partial_utf8"), (3, 6, "partial_utf8"))),
        (usual("The ") + spelt("e\u0301") + usual(" answer"), ((4, 7, "normalised"),)),
    ],
    ids=["word", "whitespace", "special", "half a character", "two broken characters", "not NFC"],
)
def test_classes(ids, regions):
    found = read(ids)
    assert found.drifted
    assert found.regions == regions


def hand_made(pieces: list[str], special: str = "<s>") -> PreTrainedTokenizerFast:
    """Byte-level, whole-text longest match over `pieces` and all single bytes."""
    table = {byte: symbol for symbol, byte in symbol_bytes().items()}
    names = [*table.values(), *("".join(table[b] for b in piece.encode()) for piece in pieces)]
    vocabulary = {name: i for i, name in enumerate(dict.fromkeys(names))}
    merges = []
    for piece in pieces:  # a merge from the left builds each piece
        symbols = [table[b] for b in piece.encode()]
        for i in range(1, len(symbols)):
            left = "".join(symbols[:i])
            vocabulary.setdefault(left, len(vocabulary))
            vocabulary.setdefault(left + symbols[i], len(vocabulary))
            merges.append((left, symbols[i]))
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=list(dict.fromkeys(merges))))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token=special)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("12", "digits"),
        ("a1", "digits"),
        ("a.", "punctuation"),
        ("ab", "word"),
        ("a b", "whitespace"),
        ("é", "partial_utf8"),
    ],
)
def test_a_border_has_the_class_of_what_stands_beside_it(text, kind):
    tokenizer = hand_made([text])
    (whole,) = tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"])
    (found,) = TokenisationCheck(tokenizer).readings([tokenizer.convert_tokens_to_ids(list(whole))])
    assert found.again == 1
    assert found.matched == 0
    assert [r[2] for r in found.regions] == [kind]


def test_ids_beyond_the_vocabulary_decode_to_nothing_and_count():
    found = read([*usual("The"), len(shipped()) + 3, *usual(" answer")])
    assert (found.tokens, found.again, found.matched) == (3, 2, 2)
    assert found.regions == ((3, 3, "normalised"),)


def test_the_prompt_may_merge_with_the_response():
    check = TokenisationCheck(hand_made(["ab"]))
    a, b = (check.tokenizer.convert_tokens_to_ids(c) for c in "ab")
    end = check.tokenizer.eos_token_id
    assert check.boundary_drift([[a], [a], [a, end]], [[b], [a], [b]]) == [True, False, False]


def test_any_ids_are_read_and_every_difference_has_a_region():
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, len(shipped()), (40, 60), generator=generator).tolist()
    for found in TokenisationCheck(shipped()).readings(ids):
        assert found.drifted == bool(found.regions)
        assert 0 <= found.matched <= found.tokens == 60
        ends = [(a, b) for a, b, _ in found.regions]
        assert ends == sorted(ends)
        assert {kind for *_, kind in found.regions} <= CLASSES.keys()


def rollouts(rows: list[list[int]], mask: list[list[bool]]) -> Rollouts:
    return Rollouts(
        tokens=torch.tensor(rows),
        mask=torch.tensor(mask, dtype=torch.bool),
        valid=torch.ones(len(rows), len(rows[0]), dtype=torch.bool),
        group=torch.zeros(len(rows), dtype=torch.int64),
        rewards=torch.zeros(len(rows)),
    )


def test_metrics_of_a_batch_leave_inserted_tokens_out():
    answer = usual("The answer is")
    bad = spelt("an")
    assert (len(answer), len(usual("an"))) == (3, 1)
    batch = rollouts([[*answer, 5], [*bad, 5, answer[0]], [5, 5, 5, 5]], [[1, 1, 1, 0], [1, 1, 0, 1], [0, 0, 0, 0]])
    stretches, first = sampled_stretches(batch)
    assert stretches == [answer, bad, [answer[0]]]
    assert first == [0, 1, -1]
    prompt = Prompt("p", torch.tensor(usual("what")), torch.arange(1), 1, torch.zeros(1, dtype=torch.bool))
    found = tokenisation_metrics(batch, shipped(), [prompt])
    assert found["tokenisation/drift"] == pytest.approx(1 / 3)
    assert found["tokenisation/matched"] == pytest.approx(4 / 6)
    assert found["tokenisation/mismatch/word"] == 1
    assert set(found) == {f"tokenisation/{n}" for n in ("drift", "matched", "length_gap", "boundary")} | {
        f"tokenisation/mismatch/{name}" for name in CLASSES
    }


def test_a_batch_without_tokens_has_no_drift():
    batch = rollouts([[1, 2]], [[False, False]])
    found = tokenisation_metrics(batch, shipped())
    assert found["tokenisation/drift"] == 0
    assert found["tokenisation/matched"] == 1


def test_every_run_logs_it(tmp_path):
    """An untrained model samples half characters all the time."""
    run = parse(tmp_path, run__steps=1)
    train(run)
    (row,) = metrics(tmp_path / "run")
    assert row["tokenisation/drift"] > 0
    assert 0 < row["tokenisation/matched"] < 1
    assert sum(row[f"tokenisation/mismatch/{name}"] for name in CLASSES) > 0
