"""Oracles, the control, the cache, and a local model as a verifier."""

from __future__ import annotations

import io
import re
from collections import Counter

import pytest
from PIL import Image
from tiny import tiny_vl

from mmcredit.components import build
from mmcredit.data.media import MediaLimits
from mmcredit.data.sample import Media
from mmcredit.data.scenes.claims import check, claims
from mmcredit.data.scenes.errors import first_error
from mmcredit.data.scenes.graph import Scene, Thing
from mmcredit.policy.policy import Policy
from prm.cache import CachedVerifier
from prm.control import RandomSpans
from prm.local import LocalVerifier, verification_sample
from prm.oracles import EasyVqaOracle, SceneOracle, easy_vqa_facts
from prm.parse import Verification, failed
from prm.refine import verifier_cost
from prm.spans import locate
from prm.verifier import Query, ScriptedVerifier, query_of

GOOD = "<think>seen</think><answer>['red']</answer>"


def picture(color="red"):
    buffer = io.BytesIO()
    Image.new("RGB", (28, 28), color).save(buffer, "PNG")
    return Media("image", data=buffer.getvalue(), name=color)


# -- oracles ------------------------------------------------------------------------------------------------------


def test_scene_oracle_flags_the_false_claims_where_they_stand():
    source = build("source", {"scenes": {"size": 12, "image_size": 64}})
    samples = list(source.load(MediaLimits()))
    oracle = SceneOracle()
    ideal = oracle.verify([query_of(s, s.meta["response"]) for s in samples])
    assert {said.status for said in ideal} == {"clean"}
    wrong = "There is a purple hexagon. There are 10 objects, there are 10 objects."
    (said,) = oracle.verify([query_of(samples[0], f"<think>{wrong}</think><answer>3</answer>")])
    assert said.strings == ("There are 10 objects", "there are 10 objects")
    located = locate(said.strings, f"<think>{wrong}</think><answer>3</answer>", places=said.places)
    assert [(s.start, s.end) for s in located.spans] == list(said.places)
    assert [c.rung for c in located.claims] == ["exact", "exact"]
    assert oracle.verify([Query("q", "there is a red circle")])[0].status == "prm_error"


@pytest.mark.parametrize(
    ("response", "answers", "strings"),
    [
        ("<think>The image shows a {c} {s}.</think><answer>{s}</answer>", False, []),
        ("<think>The image shows a {w} {s}.</think><answer>{s}</answer>", False, ["{w}"]),
        ("<think>The image shows a {w} {v}.</think><answer>{v}</answer>", False, ["{w}", "{v}"]),
        ("<think>The image shows a {w} {v}.</think><answer>{v}</answer>", True, ["{w}", "{v}", "{v}"]),
        ("It is no {w} {s}, it is {C}.", False, []),
        ("It is {w}ish.", False, []),
    ],
)
def test_easy_vqa_oracle(response, answers, strings):
    pytest.importorskip("easy_vqa")
    facts = easy_vqa_facts("test")
    image, (color, shape) = next((i, (f["color"], f["shape"])) for i, f in facts.items() if len(f) == 2)
    words = {
        "c": color,
        "C": color.upper(),
        "s": shape,
        "w": "teal" if color != "teal" else "red",
        "v": "circle" if shape != "circle" else "triangle",
    }
    text = response.format(**words)
    (said,) = EasyVqaOracle(answers).verify([Query("q", text, meta={"split": "test", "image_id": image})])
    assert list(said.strings) == [s.format(**words) for s in strings]
    assert [text[a:b] for a, b in said.places] == list(said.strings)


def test_easy_vqa_facts_agree_with_every_question():
    pytest.importorskip("easy_vqa")
    rows = build("source", {"easy_vqa": {"split": "test", "where": {"kind": ["shape", "color"]}}}).load(MediaLimits())
    facts = easy_vqa_facts("test")
    assert len(facts) == 984
    assert sum(len(known) == 2 for known in facts.values()) > 850
    for i in range(0, len(rows), 37):
        sample = rows[i]
        assert facts[sample.meta["image_id"]][sample.meta["kind"]] == sample.answer  # an open question tells it
    oracle = EasyVqaOracle()
    one = next(i for i, known in facts.items() if len(known) == 1)
    known = facts[one]
    other = {"color": "circle", "shape": "teal"}[next(iter(known))]
    (said,) = oracle.verify([Query("q", f"It is {other}", meta={"split": "test", "image_id": one})])
    assert said.status == "clean"  # what is not known is not judged
    assert oracle.verify([Query("q", "red", meta={"split": "test", "image_id": -1})])[0].status == "prm_error"
    assert oracle.verify([Query("q", "red")])[0].status == "prm_error"


# -- control ------------------------------------------------------------------------------------------------------


def test_random_spans_keep_number_and_length_but_not_the_place():
    text = "<think>one two three four five six seven eight nine ten</think><answer>ten</answer>"
    inner = ScriptedVerifier(lambda q: Verification(("three four", "nine"), "flagged"))
    control = RandomSpans(inner, seed=1)
    queries = [Query("q", text, sample_id=str(i)) for i in range(40)]
    found = control.verify(queries)
    places = set()
    for said in found:
        assert [len(s.split()) for s in said.strings] == [2, 1]
        assert [text[a:b] for a, b in said.places] == list(said.strings)
        (a, b), (c, d) = said.places
        assert b <= c or d <= a
        assert max(b, d) <= text.index("</think>")
        places.add(said.places)
    assert len(places) > 20
    assert control.verify(queries) == found  # the same every time
    assert RandomSpans(inner, seed=2).verify(queries) != found
    clean = RandomSpans(ScriptedVerifier(lambda q: Verification())).verify(queries[:1])
    assert clean[0].status == "clean"
    broken = RandomSpans(ScriptedVerifier(lambda q: failed("x"))).verify(queries[:1])
    assert broken[0].status == "prm_error"


def test_a_status_that_is_drawn_says_nothing_about_the_response():
    text = "<think>one two three four five six</think><answer>ten</answer>"
    inner = ScriptedVerifier(lambda q: Verification(("two",), "flagged") if int(q.sample_id) % 2 else Verification())
    queries = [Query("q", text, sample_id=str(i)) for i in range(400)]
    control = RandomSpans(inner, flagged=0.3)
    found = control.verify(queries)
    for half in (found[::2], found[1::2]):
        assert 40 < sum(said.status == "flagged" for said in half) < 80
    assert len({said.places for said in found if said.status == "flagged"}) == 6
    assert all(len(said.strings) == (said.status == "flagged") for said in found)
    assert control.verify(queries) == found
    broken = RandomSpans(ScriptedVerifier(lambda q: failed("x")), flagged=1.0).verify(queries[:1])
    assert broken[0].status == "prm_error"


# -- cache --------------------------------------------------------------------------------------------------------


def scripted():
    return ScriptedVerifier(lambda q: f"<think>t</think><answer>['{q.response}']</answer>")


def test_cache_asks_once_and_survives(tmp_path):
    inner = scripted()
    cached = CachedVerifier(inner, tmp_path / "a" / "prm.sqlite")
    queries = [Query("q", "x", (picture(),)), Query("q", "y", (picture(),)), Query("q", "x", (picture(),))]
    first = cached.verify(queries)
    assert [said.strings for said in first] == [("x",), ("y",), ("x",)]
    assert len(inner.asked) == 2
    assert [said.usage.get("cache_hits", 0) for said in first] == [0, 0, 1]
    cached.close()
    other = scripted()
    again = CachedVerifier(other, tmp_path / "a" / "prm.sqlite")
    second = again.verify(queries)
    assert not other.asked
    assert [(s.strings, s.status, s.think, s.raw) for s in second] == [
        (s.strings, s.status, s.think, s.raw) for s in first
    ]
    assert again.counts["hits"] == 2


def test_a_cached_answer_says_what_it_took_to_make(tmp_path):
    made = Verification(usage={"new_tokens": 7.0, "prompt_tokens": 9.0, "calls": 1.0})
    cached = CachedVerifier(ScriptedVerifier(lambda q: made), tmp_path / "prm.sqlite")
    first, same = cached.verify([Query("q", "x"), Query("q", "x")])
    (later,) = cached.verify([Query("q", "x")])
    assert first.usage["new_tokens"] == 7
    for said in (same, later):
        assert said.usage == {"cache_hits": 1.0, "cached_new_tokens": 7.0, "cached_prompt_tokens": 9.0}
        spent = verifier_cost(said)
        assert (spent.prm_calls, spent.prm_new_tokens, spent.prm_prefill_tokens) == (1, 7, 9)


def test_cache_key_is_the_content(tmp_path):
    inner = scripted()
    cached = CachedVerifier(inner, tmp_path / "prm.sqlite")
    base = Query("q", "x", (picture(),), sample_id="one")
    path = tmp_path / "red.png"
    path.write_bytes(picture().data)
    same = Query("q", "x", (Media("image", path=path, name="other"),), sample_id="two")
    cached.verify([base, same])
    assert len(inner.asked) == 1
    others = [
        Query("p", "x", (picture(),)),
        Query("q", "y", (picture(),)),
        Query("q", "x", (picture("blue"),)),
        Query("q", "x", (picture(), picture())),
        Query("q", "x", (picture(),), attempt=1),
    ]
    cached.verify(others)
    assert len(inner.asked) == 6
    inner.version = "another"
    renewed = CachedVerifier(inner, tmp_path / "prm.sqlite")
    renewed.verify([base])
    assert len(inner.asked) == 7


def test_cache_keeps_no_errors_and_obeys_its_limit(tmp_path):
    inner = ScriptedVerifier(lambda q: failed("down"))
    cached = CachedVerifier(inner, tmp_path / "prm.sqlite")
    cached.verify([Query("q", "x")])
    cached.verify([Query("q", "x")])
    assert len(inner.asked) == 2
    gone = Query("q", "x", (Media("image", path=tmp_path / "gone.png"),))
    assert cached.verify([gone])[0].status == "prm_error"
    small = CachedVerifier(scripted(), tmp_path / "small.sqlite", max_bytes=2000)
    for i in range(40):
        small.verify([Query("q", f"x{i}")])
    assert 0 < small.bytes <= 2000
    assert small.counts["evicted"] > 0
    hits = small.counts["hits"]
    small.verify([Query("q", "x39")])  # the newest is still there
    assert small.counts["hits"] == hits + 1
    with pytest.raises(ValueError, match="max_bytes"):
        CachedVerifier(scripted(), tmp_path / "x.sqlite", max_bytes=0)
    (tmp_path / "junk.sqlite").write_bytes(b"not a data base, but long enough to look at" * 50)
    with pytest.raises(ValueError, match="cannot be opened"):
        CachedVerifier(scripted(), tmp_path / "junk.sqlite")


# -- a local model ------------------------------------------------------------------------------------------------


def test_local_model_answers_every_query():
    model, processor = tiny_vl()
    policy = Policy(model, processor.tokenizer, processor)
    local = LocalVerifier(policy, "tiny", layout="short", max_new_tokens=6, batch=2)
    queries = [Query("what color?", f"red {i}", (picture(),), sample_id=str(i)) for i in range(3)]
    found = local.verify([*queries, Query("q", "", (picture(),)), Query("q", "<|im_end|>", (picture(),))])
    assert [said.status for said in found] == ["parse_error"] * 3 + ["clean", "prm_error"]
    assert all(0 < said.usage["new_tokens"] <= 6 for said in found[:3])
    assert [s.raw for s in local.verify(queries[::-1])] == [s.raw for s in found[:3]][::-1]
    sample = verification_sample(queries[0], "short")
    assert re.search(r"what color\?\nResponse: red 0", sample.messages[0]["content"][1]["text"])
    assert verification_sample(queries[0], "full").messages[0]["role"] == "system"


def test_a_response_that_is_too_long_for_the_model_does_not_take_the_others_along():
    model, processor = tiny_vl()
    policy = Policy(model, processor.tokenizer, processor)
    local = LocalVerifier(policy, "tiny", layout="short", max_new_tokens=4)
    queries = [Query("what color?", f"red {i}", sample_id=str(i)) for i in range(4)]
    queries.insert(2, Query("what color?", "red " * model.config.get_text_config().max_position_embeddings))
    found = local.verify(queries)
    assert [said.status for said in found] == ["parse_error"] * 2 + ["prm_error"] + ["parse_error"] * 2
    assert "exceed the model's" in found[2].error
    assert [said.raw for said in found if said.raw] == [said.raw for said in local.verify(queries[:2] + queries[3:])]


def test_scene_oracle_flags_the_word_at_which_a_claim_becomes_false():
    scene = Scene(
        (
            Thing("circle", "red", "big", 6, 6),
            Thing("star", "blue", "small", 40, 40),
            Thing("square", "green", "big", 24, 24),
        )
    )
    cases = {
        "There is a red star at the top left": "star",  # a red thing is there
        "there is a red circle at the bottom right": "bottom right",
        "there is a purple circle at the top left": "purple",
        "there are 3 red circles": "3",
        "the blue star is left of the red circle": "left of",
        "the yellow star is left of the red circle": "yellow",
        "the red circle is above the green star": "star",
        "the red circle is a star": "star",
        "the red bar is 5": "the red bar is 5",  # no bar can stand there
    }
    text = "<think>" + ". ".join(cases) + ". the red circle is at the top left.</think><answer>red</answer>"
    query = Query("", text, meta={"scene": scene.to_json()})
    (found,) = SceneOracle("word").verify([query])
    assert list(found.strings) == list(cases.values())
    whole = SceneOracle().verify([query])[0]
    assert list(whole.strings) == list(cases)
    for (a, b), (start, end) in zip(found.places, whole.places, strict=True):
        assert start <= a < b <= end
    assert SceneOracle("word").version != SceneOracle().version
    claim = claims("the red circle is at the top left")[0]
    with pytest.raises(ValueError, match="not false"):
        first_error(claim, scene)


def test_the_first_error_of_a_description_follows_from_the_graph():
    rows = build("source", {"scenes": {"split": "test", "size": 80, "described": True}}).load(MediaLimits())
    scenes = [Scene.from_json(row.meta["scene"]) for row in rows]
    seen = Counter()
    for i, row in enumerate(rows):
        other = scenes[(i + 1) % len(scenes)]
        for claim in claims(row.meta["response"]):
            if claim.kind != "exists" or check(claim, other) != "false" or not other.things:
                continue
            start, end = first_error(claim, other)
            color, shape = claim.subject.color, claim.subject.shape
            if all(thing.color != color for thing in other.things):
                expected = color
            elif all((thing.color, thing.shape) != (color, shape) for thing in other.things):
                expected = shape
            else:
                expected = claim.place
            assert row.meta["response"][start:end].lower() == expected, claim.text
            seen[expected == color, expected == shape] += 1
    assert len(seen) == 3
