"""Scenes: pictures show their graphs, answers follow from them, splits share nothing, claims are found and judged."""

from __future__ import annotations

import hashlib
import io
import json
import re
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mmcredit.components import build, lookup, page
from mmcredit.data.media import MediaLimits, load_image
from mmcredit.data.sample import Sample
from mmcredit.data.scenes import (
    KINDS,
    Bar,
    Question,
    Scene,
    Thing,
    check,
    claims,
    draw,
    make_question,
    setting_of,
    unread,
)
from mmcredit.data.scenes.drawing import BASE, LEFT, RIGHT, TOP
from mmcredit.data.scenes.graph import COLORS, LATTICE, RADIUS, SHAPES
from mmcredit.data.splits import in_test

SIZES = {"easy": 96, "medium": 112, "hard": 224}
Graph = dict[str, Any]


def load(**fields: Any) -> Sequence[Sample]:
    return build("source", {"scenes": fields}).load(MediaLimits())  # type: ignore[attr-defined, no-any-return]


def questions(difficulty: str, size: int, split: str = "train", seed: int = 3) -> list[Question]:
    setting = setting_of(difficulty)  # type: ignore[arg-type]
    return [make_question(setting, KINDS, seed, split, i) for i in range(size)]  # type: ignore[arg-type]


def text_of(sample: Sample) -> str:
    return str(sample.messages[0]["content"][1]["text"])


# --- the picture shows the graph


def nearest_color(pixel: np.ndarray) -> tuple[str, float]:
    distances = {name: float(np.abs(pixel.astype(int) - rgb).max()) for name, rgb in COLORS.items()}
    best = min(distances, key=distances.__getitem__)
    return best, distances[best]


@pytest.mark.parametrize("difficulty", ["easy", "medium", "hard"])
def test_pixels_show_the_graph(difficulty: str) -> None:
    side = SIZES[difficulty]
    for question in questions(difficulty, 120):
        pixels = np.asarray(draw(question.scene, side))
        assert pixels.shape == (side, side, 3)
        unit = side / LATTICE
        covered = np.zeros((side, side), dtype=bool)
        for thing in question.scene.things:
            x, y, r = thing.x * unit, thing.y * unit, RADIUS[thing.size] * unit
            box = np.s_[int(y - r) : int(np.ceil(y + r)) + 1, int(x - r) : int(np.ceil(x + r)) + 1]
            assert not covered[box].any() or question.scene.bars
            covered[box] = True
            inside = pixels[box].reshape(-1, 3)
            exact = Counter(name for name, rgb in COLORS.items() for _ in range(int((inside == rgb).all(axis=1).sum())))
            if thing.label:
                exact.pop("black", None) if thing.color != "black" else None
            assert exact.most_common(1)[0][0] == thing.color
            center = pixels[int(y), int(x)]
            if thing.label is None:
                assert nearest_color(center)[0] == thing.color or thing.shape == "ring"
                assert (thing.shape == "ring") == bool((center == 255).all())
        if question.scene.things:
            assert (pixels[~covered] == 255).all()  # nothing stands beside what the graph knows


def test_bars_have_their_heights_and_stand_in_order() -> None:
    for difficulty, side in SIZES.items():
        scenes = [q.scene for q in questions(difficulty, 60) if q.scene.bars]
        assert scenes
        for scene in scenes:
            pixels = np.asarray(draw(scene, side))
            unit = side / LATTICE
            columns = np.linspace(LEFT, RIGHT, len(scene.bars), endpoint=False) + (RIGHT - LEFT) / len(scene.bars) / 2
            for bar, column in zip(scene.bars, columns, strict=True):
                line = pixels[int(TOP * unit) : int(BASE * unit) - 1, int(column * unit)]
                colored = (np.abs(line.astype(int) - COLORS[bar.color]).max(axis=1) <= 2).sum()
                assert abs(colored - bar.value * (BASE - TOP) / scene.axis * unit) <= 2


def test_shapes_and_labels_look_different() -> None:
    pictures = {
        (shape, size, label): draw(Scene((Thing(shape, "red", size, 24, 24, label),)), 96).tobytes()
        for shape in SHAPES
        for size, label in (("small", None), ("big", None), ("big", "A"), ("big", "B"))
    }
    assert len(set(pictures.values())) == len(pictures)


def test_no_two_things_touch_and_all_are_inside() -> None:
    for difficulty in SIZES:
        for question in questions(difficulty, 200):
            things = question.scene.things
            assert [(t.y, t.x) for t in things] == sorted((t.y, t.x) for t in things)
            for i, a in enumerate(things):
                r = RADIUS[a.size]
                assert r < min(a.x, a.y)
                assert max(a.x, a.y) < LATTICE - r
                for b in things[:i]:
                    assert max(abs(a.x - b.x), abs(a.y - b.y)) > r + RADIUS[b.size]


def test_graph_survives_json() -> None:
    for question in questions("medium", 20):
        assert Scene.from_json(json.loads(json.dumps(question.scene.to_json()))) == question.scene
    with pytest.raises(ValueError, match="no scene graph"):
        Scene.from_json({"things": []})


# --- answers, by another routine than the one that made them


def fits(thing: Graph, words: str) -> bool:
    noun = words.split()[-1]
    noun = noun if noun in SHAPES else noun.removesuffix("s")
    if noun not in ("object", thing["shape"]):
        return False
    return all(word in (thing["color"], thing["size"]) for word in words.split()[:-1])


def only(found: list[Graph]) -> Graph:
    assert len(found) == 1
    return found[0]


def clearly(a: Graph, relation: str, b: Graph) -> bool:
    gap = {"left of": b["x"] - a["x"], "right of": a["x"] - b["x"], "above": b["y"] - a["y"], "below": a["y"] - b["y"]}
    return bool(gap[relation] >= 4)


RELATION = r"(left of|right of|above|below)"


def solve(text: str, graph: Graph) -> str:
    """The answer, from the question's words and the plain graph alone."""
    things, bars = graph["things"], graph["bars"]
    if m := re.fullmatch(rf"what (color|shape) is the object {RELATION} the (.+)\?", text):
        anchor = only([t for t in things if fits(t, m[3])])
        return str(only([t for t in things if t is not anchor and clearly(t, m[2], anchor)])[m[1]])
    if m := re.fullmatch(r"what color is bar ([A-F])\?", text):
        return str(only([b for b in bars if b["label"] == m[1]])["color"])
    if m := re.fullmatch(r"what (color|shape|size) is the (.+)\?", text):
        return str(only([t for t in things if fits(t, m[2])])[m[1]])
    if m := re.fullmatch(r"where is the (.+)\?", text):
        thing = only([t for t in things if fits(t, m[1])])
        row, column = (
            ("top", "center", "bottom")[thing["y"] * 3 // 48],
            ("left", "center", "right")[thing["x"] * 3 // 48],
        )
        return row if row == column else f"{row} {column}"
    if m := re.fullmatch(r"what is written on the (.+)\?", text):
        return str(only([t for t in things if fits(t, m[1])])["label"])
    if m := re.fullmatch(r"how many (.+) are there\?", text):
        return str(sum(fits(t, m[1]) for t in things))
    if m := re.fullmatch(rf"is the (.+?) {RELATION} the (.+)\?", text):
        a, b = (only([t for t in things if fits(t, m[i])]) for i in (1, 3))
        return "yes" if clearly(a, m[2], b) else "no"
    if m := re.fullmatch(r"are there more or fewer (.+) than (.+)\?", text):
        a, b = (sum(fits(t, m[i]) for t in things) for i in (1, 2))
        return "more" if a > b else "fewer" if a < b else "same"
    if m := re.fullmatch(r"which bar is the (tallest|shortest)\?", text):
        ordered = sorted(bars, key=lambda bar: bar["value"], reverse=m[1] == "tallest")
        assert ordered[0]["value"] != ordered[1]["value"]
        return str(ordered[0]["color"])
    value = {bar["color"]: bar["value"] for bar in bars}
    assert len(value) == len(bars)
    if m := re.fullmatch(r"what is the value of the (\w+) bar\?", text):
        return str(value[m[1]])
    m = re.fullmatch(r"what is the total of the (\w+) bar and the (\w+) bar\?", text)
    assert m
    return str(value[m[1]] + value[m[2]])


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("difficulty", ["easy", "medium", "hard"])
def test_answers_follow_from_the_graph(difficulty: str, split: str) -> None:
    forms = set()
    for question in questions(difficulty, 600, split):
        assert solve(question.text, question.scene.to_json()) == question.answer, question
        assert len(question.answer.split()) <= 2
        forms.add(question.form)
    expected = {"color", "shape", "place", "label", "count", "relation_color", "relation_shape", "relation_yes_no",
                "more_or_fewer", "tallest", "shortest", "value"}  # fmt: skip
    later = set() if difficulty == "easy" else {"size", "count_all", "bar_color", "total"}
    assert forms == expected | later


# --- blind, splits, seeds


def blind_accuracy(train: list[Question], test: list[Question], key: Any) -> dict[str, float]:
    """By kind: how often the most frequent train answer of a question's `key` is right on test."""
    answers: dict[Any, Counter[str]] = defaultdict(Counter)
    for question in train:
        answers[key(question)][question.answer] += 1
    right: dict[str, list[bool]] = defaultdict(list)
    for question in test:
        seen = answers[key(question)]
        right[question.kind].append(bool(seen) and seen.most_common(1)[0][0] == question.answer)
    return {kind: float(np.mean(values)) for kind, values in right.items()}


def test_the_text_tells_nothing_about_the_answer() -> None:
    train, test = questions("easy", 3000), questions("easy", 2000, "test")
    # One answer per form is right in 1 of so many: colour 6, shape 4, place 9, label 4; 0 to 4; 6, 4, yes/no; ...
    chance = {
        "attribute": (1 / 6 + 1 / 4 + 1 / 9 + 1 / 4) / 4,
        "count": 1 / 5,
        "relation": (1 / 6 + 1 / 4 + 1 / 2) / 3,
        "comparison": (1 / 3 + 1 / 6 + 1 / 6) / 3,
        "chart": 1 / 5,
    }
    template = re.compile("|".join((*COLORS, "small", "big")))
    keys = (lambda q: q.form, lambda q: template.sub("*", q.text), lambda q: q.text)
    for key in keys:
        for kind, accuracy in blind_accuracy(train, test, key).items():
            assert accuracy <= chance[kind] + 0.07, (kind, accuracy)  # 400 questions a kind: 0.07 is 3 sigma
    for form in ("relation_yes_no", "count", "more_or_fewer", "value"):
        counts = Counter(q.answer for q in train if q.form == form)
        expected = counts.total() / len(counts)
        assert len(counts) == {"relation_yes_no": 2, "count": 5, "more_or_fewer": 3, "value": 5}[form]
        assert all(abs(n - expected) < 4 * expected**0.5 for n in counts.values()), (form, counts)


def test_train_and_test_share_no_picture_under_any_seed_or_setting() -> None:
    keys: dict[str, set[str]] = {"train": set(), "test": set()}
    pixels: dict[str, set[bytes]] = {"train": set(), "test": set()}
    for split in ("train", "test"):
        # Few objects and one kind: where the same picture would come up again.
        for difficulty, fewest, most, kinds, seed in (
            ("easy", 2, 5, KINDS, 0), ("easy", 2, 5, KINDS, 7), ("easy", 1, 2, ["attribute"], 0),
            ("easy", 2, 5, ["chart"], 0), ("medium", 2, 5, KINDS, 0),
        ):  # fmt: skip
            setting = setting_of(difficulty, fewest, most)  # type: ignore[arg-type]
            for i in range(500):
                scene = make_question(setting, kinds, seed, split, i).scene  # type: ignore[arg-type]
                keys[split].add(scene.key())
                if i < 100:
                    pixels[split].add(hashlib.sha256(draw(scene, 64).tobytes()).digest())
    assert min(map(len, keys.values())) > 1800
    assert not keys["train"] & keys["test"]
    assert not pixels["train"] & pixels["test"]
    assert all(in_test(key) for key in keys["test"])


DIGESTS = """
import hashlib
from mmcredit.components import build
from mmcredit.data.media import MediaLimits
for difficulty, side in (("easy", 96), ("medium", 112)):
    source = build("source", {"scenes": {"size": 1000, "difficulty": difficulty, "image_size": side}})
    samples = source.load(MediaLimits())
    for i in (3, 999, 7, 0):
        print(hashlib.sha256(repr(samples[i]).encode()).hexdigest())
"""


def test_an_item_is_the_same_in_every_process_and_order() -> None:
    indices = [0, 7, 999, 3]
    result = subprocess.run([sys.executable, "-c", DIGESTS], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    here = []
    for difficulty in ("easy", "medium"):
        samples = load(size=1000, difficulty=difficulty, image_size=SIZES[difficulty])
        # The text of a sample holds all of it, the picture's file included.
        made = {i: hashlib.sha256(repr(samples[i]).encode()).hexdigest() for i in indices}
        here += [made[i] for i in (3, 999, 7, 0)]
    assert result.stdout.split() == here
    samples = load(size=1000)
    backwards = {i: text_of(samples[i]) for i in reversed(indices)}
    again = load(size=5000)  # a larger size changes no item
    assert {i: text_of(again[i]) for i in indices} == backwards
    assert [text_of(load(seed=1)[i]) for i in range(5)] != [text_of(samples[i]) for i in range(5)]


def test_items_are_made_when_they_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    original = make_question
    monkeypatch.setattr(
        "mmcredit.data.sources.scenes.make_question", lambda *args: made.append(args[-1]) or original(*args)
    )
    samples = load(size=10**6)
    assert made == []
    assert samples[999_999].id == "scenes/easy/train/0/999999"
    assert samples[999_999].answer is not None
    assert made == [999_999]


# --- the source


def test_samples_carry_question_picture_graph_and_response() -> None:
    for sample in load(size=25, split="test", image_size=80):
        assert [part["type"] for part in sample.messages[0]["content"]] == ["image", "text"]
        assert load_image(sample.media[0], MediaLimits()).size == (80, 80)
        assert sample.media[0].data is not None
        assert Image.open(io.BytesIO(sample.media[0].data)).format == "PNG"
        assert set(sample.meta) == {"kind", "form", "split", "scene", "response"}
        assert json.loads(json.dumps(dict(sample.meta))) == sample.meta
        assert solve(text_of(sample), sample.meta["scene"]) == sample.answer
        assert sample.meta["response"].endswith(f"</think><answer>{sample.answer}</answer>")
    kinds = Counter(sample.meta["kind"] for sample in load(size=25))
    assert kinds == dict.fromkeys(KINDS, 5)
    assert {s.meta["kind"] for s in load(size=6, kinds=["chart", "count"])} == {"chart", "count"}
    only_places = load(size=200, where={"form": "place"}, limit=3)
    assert len(only_places) == 3
    assert all(text_of(sample).startswith("where is") for sample in only_places)


def test_settings_change_the_pictures() -> None:
    for count in (1, 6):
        fields = {"min_objects": count, "max_objects": max(count, 2), "kinds": ["attribute"], "size": 30}
        sizes = {len(sample.meta["scene"]["things"]) for sample in load(**fields)}
        assert sizes <= {count, max(count, 2)}
    free = {(t["x"], t["y"]) for s in load(layout="free", kinds=["count"], size=40) for t in s.meta["scene"]["things"]}
    grid = {(t["x"], t["y"]) for s in load(kinds=["count"], size=40) for t in s.meta["scene"]["things"]}
    assert len(grid) == 9
    assert len(free) > 30
    for fewest, most in ((6, 6), (1, 2), (2, 2)):  # the corners of what the fields allow
        assert len(list(load(min_objects=fewest, max_objects=most, size=60, split="test", difficulty="medium"))) == 60


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"min_objects": 5, "max_objects": 3}, "min_objects 5 is over max_objects 3"),
        ({"difficulty": "hard"}, "image_size 160 at least"),
        ({"kinds": ["count", "count"]}, "at most once"),
        ({"kinds": ["colour"]}, "kinds"),
        ({"kinds": []}, "kinds"),
        ({"image_size": 32}, "image_size"),
        ({"max_objects": 12}, "max_objects"),
    ],
)
def test_settings_that_cannot_work_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(**fields)


def test_page_explains_the_source() -> None:
    text = page(lookup("source", "scenes"))
    assert "image_size" in text
    assert "blind" in text.lower() or "without looking" in text


def test_source_and_reward_work_with_the_shipped_model() -> None:
    pytest.importorskip("torch")
    from mmcredit import compat  # noqa: F401
    from mmcredit.answers.item import RewardItem
    from mmcredit.config import ModelConfig
    from mmcredit.policy.policy import Policy

    policy = Policy.load(ModelConfig(path="builtin:tiny-qwen2_5-vl"))
    pad = policy.tokenizer.convert_tokens_to_ids("<|image_pad|>")
    for sample in load(size=10):
        prompt = policy.encode(sample, max_tokens=256)
        assert int((prompt.tokens == pad).sum()) == 36  # 96 pixels / 16, squared
        assert int(prompt.visual.sum()) == 36
        assert text_of(sample) in policy.tokenizer.decode(prompt.tokens)
    reward = build("reward", "exact_answer")
    samples = load(size=25, split="test")
    ideal = [RewardItem(s.meta["response"], s.answer) for s in samples]
    wrong = [RewardItem("<think>x</think><answer>none</answer>", s.answer) for s in samples]
    assert reward(ideal) == [1.0] * 25  # type: ignore[operator]
    assert reward(wrong) == [0.0] * 25  # type: ignore[operator]


# --- claims

SCENE = Scene(
    (
        Thing("circle", "red", "big", 8, 8, "B"),
        Thing("square", "blue", "small", 24, 8),
        Thing("square", "blue", "big", 40, 24),
        Thing("triangle", "green", "small", 16, 40),  # on the line between left and center
    )
)
CHART = Scene((), (Bar("red", 4, "A"), Bar("blue", 5, "B"), Bar("green", 5, "C"), Bar("black", 1, "D")), 5)


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("there is a red circle", "true"),
        ("There is a big red circle at the top left", "true"),
        ("there is a small red circle", "false"),
        ("a blue square at the center right", "true"),
        ("there is a blue square at the center", "false"),
        ("I see an object at the top", "true"),
        ("there is a green triangle at the bottom center", "true"),
        ("there is a green triangle at the bottom left", "unknown"),
        ("there is a green triangle at the bottom right", "false"),
        ("there is no green circle", "true"),
        ("there is no blue square", "false"),
        ("there is no triangle at the left", "unknown"),
        ("there are 2 blue squares", "true"),
        ("there are two squares", "true"),
        ("there are 3 squares", "false"),
        ("there is 1 red object", "true"),
        ("there are no stars", "true"),
        ("there are 4 objects", "true"),
        ("there are 2 objects at the top", "true"),
        ("there are 2 objects at the left", "unknown"),
        ("there are 3 objects at the left", "false"),
        ("the red circle is at the top left", "true"),
        ("the red circle is at the left", "true"),
        ("the red circle is at the center", "false"),
        ("the star is at the center", "false"),  # there is none
        ("the blue square is at the top center", "unknown"),  # one of two
        ("the circle is red", "true"),
        ("the circle is blue", "false"),
        ("the square is small", "unknown"),
        ("the square is blue", "true"),
        ("the green object is a triangle", "true"),
        ("the red object is a square", "false"),
        ("the red circle says B", "true"),
        ("the red circle says C", "false"),
        ("the blue square says B", "false"),
        ("the red circle is left of the blue square", "true"),
        ("the red circle is above the blue square", "unknown"),  # level with one, above the other
        ("the blue square is left of the red circle", "false"),
        ("the green triangle is below the red circle", "true"),
        ("there are more squares than circles", "true"),
        ("there are fewer squares than circles", "false"),
        ("there are as many circles as triangles", "true"),
        ("there is a red bar", "false"),
        ("the red bar is 4", "false"),
    ],
)
def test_claims_about_things_by_hand(text: str, verdict: str) -> None:
    (claim,) = claims(text)
    assert claim.text == text
    assert check(claim, SCENE) == verdict


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("the red bar is 4", "true"),
        ("the red bar is four", "true"),
        ("the red bar is 5", "false"),
        ("the pink bar is 3", "false"),
        ("bar D is 1", "true"),
        ("bar D is black", "true"),
        ("bar A is blue", "false"),
        ("there are 4 bars", "true"),
        ("there is a green bar", "true"),
        ("the black bar is the shortest", "true"),
        ("the shortest bar is black", "true"),
        ("the blue bar is the tallest", "unknown"),  # it shares the height
        ("the red bar is the tallest", "false"),
        ("bar D is the shortest", "true"),
        ("there are 4 objects", "false"),
    ],
)
def test_claims_about_bars_by_hand(text: str, verdict: str) -> None:
    (claim,) = claims(text)
    assert check(claim, CHART) == verdict


def test_spans_are_exact_in_running_text() -> None:
    text = (
        "<think>\nThere is a Big  red circle at the top left, a blue square: nice!  so the red bar is 3.5 and "
        "the red bar is 4.</think><answer>a</answer> (the circle is red)"
    )
    found = claims(text)
    assert [text[c.start : c.end] for c in found] == [
        "There is a Big  red circle at the top left", "a blue square", "the red bar is 4", "the circle is red",
    ]  # fmt: skip
    assert [c.text for c in found] == [text[c.start : c.end] for c in found]
    assert [c.kind for c in found] == ["exists", "exists", "value", "color"]
    rest = [text[start:end] for start, end in unread(text)]
    assert rest == ["think", "nice", "the red bar is 3.5", "/think", "answer", "a", "/answer"]


@pytest.mark.parametrize(
    "text",
    ["", "there is a mauve circle", "there is a red circle at the moon", "the circle says b", "red", "the red bar is",
     "the big red bar is 4", "there is a red circle left", "therefore", "the circle is left of square"],
)  # fmt: skip
def test_what_is_no_claim(text: str) -> None:
    assert claims(text) == []


def test_odd_texts_are_read_in_time() -> None:
    for text in ("the " * 20000, "there is a red circle, " * 3000, " " * 100_000, "\x00<>\ud800" * 500):
        found = claims(text)
        for a, b in pairwise(found):
            assert a.end <= b.start


@pytest.mark.parametrize("difficulty", ["easy", "medium", "hard"])
def test_ideal_responses_consist_of_true_claims(difficulty: str) -> None:
    kinds: Counter[str] = Counter()
    for question in questions(difficulty, 500):
        response = question.response()
        assert re.fullmatch(r"<think>[^<>]+</think><answer>[^<>]+</answer>", response)
        thought = response[len("<think>") : response.index("</think>")]
        found = claims(thought)
        assert unread(thought) == []
        assert len(found) >= len(question.claims)
        for claim in found:
            assert thought[claim.start : claim.end] == claim.text
            assert check(claim, question.scene) == "true", (claim, question.scene)
            kinds[claim.kind] += 1
    assert {"exists", "count", "place", "color", "shape", "label", "relation", "value"} <= set(kinds)


@pytest.mark.parametrize("difficulty", ["easy", "hard"])
def test_descriptions_name_everything_and_end_with_the_question_s_claims(difficulty: str) -> None:
    for question in questions(difficulty, 200):
        text = question.response(describe=True).removeprefix("<think>").partition("</think>")[0]
        found = claims(text)
        assert unread(text) == []
        assert all(check(claim, question.scene) == "true" for claim in found), text
        scene = question.scene
        assert len({claim.text.lower() for claim in found}) >= len({(b.color, b.value) for b in scene.bars})
        assert sum(claim.kind == "exists" for claim in found) >= len({(t.color, t.shape) for t in scene.things})
        assert all(claim.lower() in text.lower() for claim in question.claims)


def test_perturbed_claims_are_false() -> None:
    """A word of a true claim is exchanged so that, by the graph's plain facts, it becomes wrong."""
    judged: Counter[str] = Counter()
    opposite = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
    for question in questions("easy", 1500):
        graph = question.scene.to_json()
        text = question.response()
        for claim in claims(text):
            if claim.kind in ("color", "shape", "label") or (claim.kind == "value"):
                pool = {"color": ["red", "blue"], "shape": ["star", "circle"], "label": ["A", "B"], "value": ["1", "2"]}
                word = claim.text.split()[-1]
                new = next(other for other in pool[claim.kind] if other != word)
                changed = claim.text[: -len(word)] + new
            elif claim.kind == "relation":
                assert claim.value
                changed = claim.text.replace(claim.value, opposite[claim.value])
            elif claim.kind == "count":
                changed = re.sub(r"\d", lambda m: str(int(m[0]) + 1), claim.text)
            elif claim.kind == "place":
                changed = re.sub("at the .*", "at the {}", claim.text)
                changed = changed.format("bottom right" if claim.place != "bottom right" else "top left")
            else:
                assert claim.kind == "exists"
                changed = re.sub(rf"an? {claim.subject.color}", "a pink", claim.text)
                assert not any(thing["color"] == "pink" for thing in graph["things"])
            spliced = text[: claim.start] + changed + text[claim.end :]
            (found,) = [c for c in claims(spliced) if c.start == claim.start]
            assert spliced[found.start : found.end] == changed
            assert check(found, question.scene) == "false", (claim, changed, question.scene)
            judged[claim.kind] += 1
    assert min(judged[k] for k in ("color", "shape", "label", "value", "relation", "count", "place", "exists")) >= 40
