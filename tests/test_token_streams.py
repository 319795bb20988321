"""Token premiums, stream statistics, oracle gap, and prompts with words left out: numbers, edges, commands."""

import json
import math

import pytest
import yaml
from tiny import save, tiny_text, tiny_tokenizer

from mmcredit import cli
from mmcredit.data.sample import Media, Sample
from mmcredit.diagnose.token_streams import premiums, read_parallel
from mmcredit.evaluate.decoded import read_keeps
from mmcredit.evaluate.frugal import frugal, is_protected, min_max, prompt_filter, rarity, shortened
from mmcredit.statistics import token_streams as streams


def test_premiums_and_fair_limits():
    found = streams.premium({"en": [10, 20], "de": [15, 30], "xx": [60, 60]}, "en")
    assert found == {"en": 1.0, "de": 1.5, "xx": 4.0}
    assert streams.fair_limit(100, found) == {"en": 100, "de": 150, "xx": 400}
    assert streams.fair_limit(3, {"a": 1.1}) == {"a": 4}
    for tokens, told in (
        ({"de": [1]}, "'en' is not there"),
        ({"en": [1], "de": [1, 2]}, "not parallel"),
        ({"en": [0]}, "no tokens"),
    ):
        with pytest.raises(ValueError, match=told):
            streams.premium(tokens, "en")


def test_entropies_and_divergence():
    assert streams.unigram_entropy([[1, 2], [1, 2]]) == pytest.approx(1.0)
    assert streams.unigram_entropy([[7, 7, 7]]) == 0
    assert math.isnan(streams.unigram_entropy([]))
    # Four bigrams of two ids, each context once continued each way: (1 + 1/2) / (2 + 1) = 1/2.
    assert streams.conditional_entropy([[0, 0, 1, 1, 0]], 2) == pytest.approx(1.0)
    # 0 -> 1 always, 2 of 2: -log2(2.5 / 3); 1 -> 0 once: -log2(1.5 / 2).
    expected = -(2 / 3 * math.log2(2.5 / 3) + 1 / 3 * math.log2(1.5 / 2))
    assert streams.conditional_entropy([[0, 1, 0, 1]], 2) == pytest.approx(expected)
    assert streams.conditional_entropy([[0, 1]], 1) == pytest.approx(1.0)
    assert math.isnan(streams.conditional_entropy([[1]], 2))
    with pytest.raises(ValueError, match="up to 3"):
        streams.conditional_entropy([[1]], 4)
    assert streams.jensen_shannon([[1, 2]], [[2, 1]]) == pytest.approx(0.0)
    assert streams.jensen_shannon([[1]], [[2]]) == pytest.approx(1.0)
    # p = (1, 0), q = (1/2, 1/2): 1/2 log2(4/3) + 1/2 (1/2 log2(2/3) + 1/2 log2 2)
    expected = 0.5 * math.log2(4 / 3) + 0.5 * (0.5 * math.log2(2 / 3) + 0.5)
    assert streams.jensen_shannon([[1]], [[1, 2]]) == pytest.approx(expected)
    found = streams.stream_statistics([[0, 1, 2, 3]], 16)
    assert found["capacity_used"] == pytest.approx(0.5)
    assert found["ids_used"] == 4
    assert streams.drift([[1]], [[2]])["entropy_change"] == 0


def test_a_router_against_its_oracle():
    small, large, routed = [3.0, 1.0, 2.0, 0.5], [1.0, 1.0, 0.5, 1.0], [True, True, False, False]
    found = streams.oracle_gap(small, large, routed)
    assert found == {"share": 0.5, "recall": 0.5, "gain": pytest.approx(0.5), "oracle_gain": pytest.approx(0.875)}
    never = streams.oracle_gap(small, large, [False] * 4)
    assert math.isnan(never["recall"])
    assert never["gain"] == never["oracle_gain"] == 0
    with pytest.raises(ValueError, match=r"\[N\]"):
        streams.oracle_gap([1.0], [1.0], [True, False])


WORDS = ["Natalia", "sold", "clips", "to", "48", "of", "her", "friends", "in", "April", "."]
SCORES = [0.9, 0.7, 0.95, 0.1, 0.8, 0.05, 0.2, 0.75, 0.15, 0.6, 0.02]


def test_frugal_prompt_worked_example():
    for keep, text in (
        (0.8, "Natalia sold clips to 48 her friends in April"),
        (0.6, "Natalia sold clips 48 her friends April"),
        (0.5, "Natalia sold clips 48 friends April"),  # 5.5 rounds to 6
    ):
        assert " ".join(prompt_filter(WORDS, SCORES, keep)) == text
    assert prompt_filter(WORDS, SCORES, 1.0) == WORDS
    assert prompt_filter([], [], 0.5) == []
    assert prompt_filter(["a"], [1.0], 0.4) == []
    assert prompt_filter(["a", "b", "c"], [1, 1, 1], 0.6) == ["a", "b"]
    protected = prompt_filter(
        WORDS, [0.0 if w == "48" else s for w, s in zip(WORDS, SCORES, strict=True)], 0.5, is_protected
    )
    assert "48" in protected
    assert min_max([2.0, 2.0]) == [1.0, 1.0]
    assert min_max([1.0, 3.0]) == [0.0, 1.0]
    for bad in ((WORDS, [1.0], 0.5), (WORDS, SCORES, 0.0), (WORDS, SCORES, 1.5)):
        with pytest.raises(ValueError, match="scores|keep"):
            prompt_filter(*bad)


def test_what_is_protected_stays_whatever_the_share():
    for word in ("48", "3.5", "x=2", "a+b", "(A)", "B.", "$x$", "\\frac{1}{2}", "<image>", "C"):
        assert is_protected(word), word
    for word in ("apples", "How", "a", "the", "many?"):
        assert not is_protected(word), word
    text = "How many apples are 3 + 4 apples?\n(A) 7 (B) 8"
    short = shortened(text, 0.1, rarity([text]))
    assert short == "3 + 4\n(A) 7 (B) 8"
    assert shortened(text, 1, rarity([])) == text
    content = [{"type": "image"}, {"type": "text", "text": "what is the colour of 2 shapes"}]
    sample = Sample("s", ({"role": "user", "content": content},), (Media("image", data=b"x"),))
    changed = frugal(sample, 0.3, rarity(["what is the", "what is the"]))
    assert changed.media == sample.media
    assert changed.messages[0]["content"][0] == {"type": "image"}
    assert changed.messages[0]["content"][1]["text"] == "colour 2"
    assert read_keeps("0.9,0.5") == [0.9, 0.5]
    for bad in ("a", "0", "1.2", ""):
        with pytest.raises(ValueError, match="--frugal"):
            read_keeps(bad)


def test_parallel_files_and_their_faults(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text('{"en": "how many", "de": "wie viele sind es"}\n\n{"en": "red", "de": "rot"}\n')
    texts = read_parallel(path)
    assert texts["de"] == ["wie viele sind es", "rot"]
    found = premiums(texts, tiny_tokenizer(), "en", 64)
    assert found["en"]["premium"] == 1
    assert found["de"]["limit"] == math.ceil(64 * found["de"]["premium"])
    for content, told in (
        ("{", "not valid JSON"),
        ('{"en": ""}', "text in each"),
        ("", "no row"),
        ('{"en": "a"}\n{"de": "b"}', ":2 has"),
    ):
        path.write_text(content)
        with pytest.raises(ValueError, match=told):
            read_parallel(path)


def test_the_commands(tmp_path, capsys):
    model = save(*tiny_text(), tmp_path / "model")
    content = {
        "model": {"path": str(model)},
        "run": {"dir": str(tmp_path / "run")},
        "data": {"train": "sums", "evaluate": {"sums": {"split": "test"}}},
        "rewards": ["number"],
        "rollout": {"sampling": {"max_new_tokens": 4}},
    }
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(content))
    parallel = tmp_path / "p.jsonl"
    parallel.write_text('{"en": "how many", "de": "wie viele sind es"}\n')
    assert cli.main(["diagnose", "tokens", str(path), "--parallel", str(parallel), "--questions", "5"]) == 0
    written = json.loads((tmp_path / "run/diagnose/tokens.json").read_text())
    assert written["premiums"]["de"]["premium"] > 1
    assert written["streams"]["prompts"]["unigram_entropy"] > 1
    assert cli.main(["evaluate", str(path), "--frugal", "0.7,0.4", "--limit", "3"]) == 0
    said = capsys.readouterr().out
    assert "70%" in said
    assert "words_left 0." in said
    assert cli.main(["evaluate", str(path), "--frugal", "0.7", "--decoding", "{tokenselect: {}}"]) == 2
    assert cli.main(["diagnose", "tokens", str(path), "--parallel", str(parallel), "--reference", "fr"]) == 2
