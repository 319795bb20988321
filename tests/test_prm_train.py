"""Training a verifier: edits, annotation, filters, balance, the loss, and the command from end to end."""

from __future__ import annotations

import json
import math
import random

import pytest
import yaml
from runs import model_folder
from tiny import tiny_vl

from mmcredit import cli
from mmcredit.components import build
from mmcredit.data.media import MediaLimits, content_key
from mmcredit.policy.policy import Policy
from prm.oracles import SceneOracle
from prm.parse import Verification, failed, parse_verification
from prm.spans import think_zone
from prm.train.annotate import Example, annotate, ideal_and_edits, target_text
from prm.train.edits import EASY_VQA, SCENES, edited
from prm.train.filters import balanced, keep_sound
from prm.train.sft import SFTConfig, Taught, prepare, train
from prm.verifier import Query, ScriptedVerifier


def test_edits_change_one_word_of_the_reasoning_for_another_of_its_kind():
    text = "<think>The red circle is at the top left. there are 3 squares.</think><answer>top left</answer>"
    rng = random.Random(0)
    found = {edited(text, SCENES, rng) for _ in range(200)}
    assert None not in found
    assert text not in found
    for other in found:
        assert other.endswith("<answer>top left</answer>")
        a, b = (t[slice(*think_zone(t))].split() for t in (text, other))
        changed = [w for w in b if w not in a]
        assert 1 <= len(changed) <= 2  # a place has up to two words
    assert any("center" in other for other in found)
    assert edited("<think>nothing known</think><answer>red</answer>", EASY_VQA, rng) is None


@pytest.mark.parametrize(
    "strings", [(), ("red",), ("a \"quoted\" 'piece'", "back\\slash"), ("two\nlines",), ("été 🐶", "[x], y")]
)
def test_targets_are_read_back_by_the_parser(strings):
    said = Verification(strings, "flagged" if strings else "clean", "I looked.")
    again = parse_verification(target_text(said))
    assert (again.strings, again.status, again.think) == (strings, said.status, said.think)


def scenes(count=6):
    samples = build("source", {"scenes": {"size": count, "image_size": 64}}).load(MediaLimits())
    return [samples[i] for i in range(count)]


def test_scene_annotation_is_exact_and_filters_drop_what_cannot_be_learnt():
    samples = scenes(24)
    queries = ideal_and_edits(samples, lambda s: s.meta["response"], SCENES, 3, seed=0)
    examples = annotate(queries, SceneOracle(), lambda query: "true words")
    assert all(not e.flagged for e in examples if e.origin == "ideal")
    assert any(e.flagged for e in examples if e.origin == "edit")
    assert {e.said.think for e in examples} == {"true words"}
    query = examples[0].query
    bad = [
        Example(query, failed("x"), "rollout"),
        Example(query, Verification(status="parse_error"), "rollout"),
        Example(query, Verification(("not in it",), "flagged"), "rollout"),
        Example(query, Verification(("",), "flagged"), "rollout"),
    ]
    forbidden = {content_key(samples[1].media[0])}
    kept, dropped = keep_sound([*examples, examples[0], *bad], forbidden)
    assert dropped["prm_error"] == dropped["parse_error"] == 1
    assert dropped["string not in the response"] == 2
    assert dropped["duplicate"] >= 1
    assert dropped["picture of the test set"] >= 1
    assert all(content_key(e.query.images[0]) not in forbidden for e in kept)
    some, thinned = balanced(kept, seed=0)
    share = sum(not e.flagged for e in some) / len(some)
    assert 0.39 <= share <= 0.61
    assert len(some) + sum(thinned.values()) == len(kept)
    with pytest.raises(ValueError, match="both needed"):
        balanced([e for e in kept if e.flagged], seed=0)


def policy():
    model, processor = tiny_vl(max_pixels=56 * 56)
    return Policy(model, processor.tokenizer, processor)


def small(count=6):
    queries = ideal_and_edits(scenes(count), lambda s: s.meta["response"], SCENES, 1, seed=0)
    return annotate(queries, SceneOracle(), lambda query: "")


def test_training_learns_its_examples_and_is_reproducible():
    config = SFTConfig(learning_rate=3e-3, epochs=12, batch=4, warmup=0.1)
    runs = []
    for _ in range(2):
        own = policy()
        taught, _ = prepare(small(3), own, "short", 10_000)
        runs.append(train(taught, own, config, seed=1))
    assert runs[0] == runs[1]
    assert runs[0][-1] < 0.7 * runs[0][0]
    assert len(train(taught, policy(), SFTConfig(steps=2, batch=2), seed=0)) == 2
    with pytest.raises(ValueError, match="no example"):
        train([], policy(), config, seed=0)


def test_what_is_too_long_or_refused_is_counted():
    own = policy()
    examples = small(2)
    odd = Example(Query("q", "<|im_end|>", examples[0].query.images), Verification(), "rollout")
    taught, dropped = prepare([*examples, odd], own, "short", 10_000)
    assert dropped == {"too long": 0, "refused": 1}
    assert all(isinstance(each, Taught) and each.tokens[-1] == own.eos_token_ids[0] for each in taught)
    assert prepare(examples, own, "short", 10)[1]["too long"] == len(examples)


def test_the_command_makes_a_verifier_and_its_card(tmp_path):
    config = {
        "output": str(tmp_path / "prm"),
        "model": str(model_folder(tmp_path)),
        "annotator": "scene_oracle",
        "ideal": "scenes",
        "data": {
            "train": {"scenes": {"size": 40, "image_size": 64}},
            "test": {"scenes": {"split": "test", "size": 40, "image_size": 64}},
            "questions": 8,
            "test_questions": 4,
            "rollouts": 1,
            "edits": 2,
            "max_new_tokens": 4,
        },
        "max_new_tokens": 8,
        "sft": {"steps": 2, "batch": 4},
    }
    path = tmp_path / "prm.yaml"
    path.write_text(yaml.safe_dump(config))
    assert cli.main(["prm-train", str(path), "sft.batch=3"]) == 0
    card = json.loads((tmp_path / "prm" / "card.json").read_text())
    assert card["steps"] == 2
    assert card["config"]["sft"]["batch"] == 3
    assert set(card["test"]) == {"verifier", "exchanged pictures", "flags nothing", "flags everything"}
    assert math.isfinite(card["last_loss"])
    assert ScriptedVerifier([]).version == "scripted"
    local = build("verifier", {"prm_local": {"model": str(tmp_path / "prm")}})
    assert local.model.path == str(tmp_path / "prm")
    assert cli.main(["prm-train", str(path)]) == 2  # the folder holds a verifier already
    assert cli.main(["prm-train", str(path), "output=" + str(tmp_path / "x"), "sft.bach=3"]) == 2
