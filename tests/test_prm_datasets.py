"""Loaders of public annotations, on files written in their formats, and the measures of a verifier on them."""

from __future__ import annotations

import io
import json
import shutil
import sys
from dataclasses import replace

import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from mmcredit import cli
from mmcredit.data.sample import Media
from prm.datasets import load
from prm.datasets.base import LabelledSpan, SpanSample, tagged
from prm.datasets.chair import chair_scores
from prm.datasets.pope import says_yes
from prm.datasets.rlhf_v import changed_spans
from prm.datasets.spans_jsonl import load_spans, save_spans
from prm.evaluate import exchanged, judge, measures
from prm.parse import Verification, failed
from prm.serve import command
from prm.verifier import ScriptedVerifier


def write(path, value, lines=False):
    path.write_text("".join(json.dumps(row) + "\n" for row in value) if lines else json.dumps(value))
    return str(path)


def gold(sample):
    return [sample.response[a:b] for a, b in sample.gold]


def test_mhal_detect(tmp_path):
    response = "A dog on a red mat. It barks."
    rows = [
        {
            "question": "describe",
            "response": response,
            "image": "COCO_val2014_1.jpg",
            "annotations": [
                {"start": 0, "end": 5, "text": "A dog", "label": "ACCURATE"},
                {"start": 9, "end": 18, "text": "a red mat", "label": "INACCURATE"},
                {"start": 20, "end": 29, "text": "It barks.", "label": "ANALYSIS"},
            ],
        },
        {"question": "q", "response": "short", "image": "b.jpg", "annotations": []},
        {
            "question": "q",
            "response": "x",
            "image": "c.jpg",
            "annotations": [{"start": 0, "end": 9, "label": "ACCURATE"}],
        },
        {
            "question": "q",
            "response": "abc",
            "image": "d.jpg",
            "annotations": [{"start": 0, "end": 1, "text": "b", "label": "ACCURATE"}],
        },
    ]
    found = load({"mhal_detect": {"path": write(tmp_path / "val_raw.json", rows), "images": str(tmp_path)}})
    assert [gold(s) for s in found.samples] == [["a red mat"], []]
    assert [s.label for s in found.samples[0].spans] == ["accurate", "hallucination", "analysis"]
    assert found.samples[0].image.name == "COCO_val2014_1.jpg"
    assert dict(found.dropped) == {"span outside the response": 1, "span text differs": 1}
    rows[0]["image"] = "../secret.jpg"
    with pytest.raises(ValueError, match="leads out"):
        load({"mhal_detect": {"path": write(tmp_path / "x.json", rows), "images": str(tmp_path)}})
    with pytest.raises(ValueError, match="item 0.*annotations"):
        load({"mhal_detect": {"path": write(tmp_path / "y.json", [{"response": "x"}])}})


def test_mhalo_with_spans_and_with_tags(tmp_path):
    plain = "a cat sits here"
    rows = [
        {
            "id": 1,
            "prompt": "q",
            "test_solution": plain,
            "hallucination_spans": [{"start": 2, "end": 5, "text": "cat"}],
        },
        {
            "id": 2,
            "prompt": "q",
            "test_solution": plain,
            "hallucinated_solution": "a <hallucination>cat</hallucination> sits <hallucination>here</hallucination>",
        },
        {"id": 3, "prompt": "q", "test_solution": plain, "hallucinated_solution": "a <hallucination>cat sits here"},
        {"id": 4, "prompt": "q", "test_solution": plain, "hallucinated_solution": "a dog"},
    ]
    found = load({"mhalo": {"path": write(tmp_path / "processed_x.json", rows)}})
    assert [gold(s) for s in found.samples] == [["cat"], ["cat", "here"]]
    assert dict(found.dropped) == {"tags do not pair up": 1, "tagged text differs": 1}
    assert next(tagged("no tags")) == ("no tags", [])


def test_mhalubench(tmp_path):
    row = {
        "id": "7",
        "image_path": "a.jpg",
        "claim_list": ["The cup is red.", "There is a dog.", "odd", ""],
        "ref_claim_label": ["hallucination", "non-hallucination", "maybe", "hallucination"],
    }
    found = load({"mhalubench": {"path": write(tmp_path / "m.json", [row])}})
    assert [(s.response, s.hallucinated, gold(s)) for s in found.samples] == [
        ("The cup is red.", True, ["The cup is red."]),
        ("There is a dog.", False, []),
    ]
    assert dict(found.dropped) == {"unknown label": 1, "claim is no text": 1}
    row["ref_claim_label"] = ["hallucination"]
    with pytest.raises(ValueError, match="4 claims, but 1 labels"):
        load({"mhalubench": {"path": write(tmp_path / "n.json", [row])}})


def test_rlhf_v(tmp_path):
    good = "The man is holding a blue cup in his hand near the window."
    bad = "The man is holding a large red bottle in his hand near the window."
    assert [s.text for s in changed_spans(good, bad, 3)] == ["large red bottle"]
    assert [s.text for s in changed_spans("a b x d e f", "a b c d e f", 3)] == ["a b c"]  # "a b" is too short a match
    assert not changed_spans(good, good, 3)
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "PNG")
    rows = [
        {"text": json.dumps({"question": "q", "chosen": good, "rejected": bad}), "image": {"bytes": buffer.getvalue()}},
        {"text": json.dumps({"question": "q", "chosen": good, "rejected": good}), "image": {"bytes": b"x"}},
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    found = load({"rlhf_v": {"path": str(tmp_path)}})
    assert [gold(s) for s in found.samples] == [["large red bottle"], []]
    assert dict(found.dropped) == {"rejected equals chosen": 1}
    assert found.samples[0].image.data == buffer.getvalue()


@pytest.mark.parametrize(
    ("answer", "yes"),
    [("Yes, there is", True), ("No", False), ("no, nothing", False), ("There is not", False), ("Nope", True),
     ("Yes. No dog", True), ("NO", True)],
)  # fmt: skip
def test_popes_own_reading(answer, yes):
    assert says_yes(answer) == yes


def test_pope(tmp_path):
    rows = [
        {"question_id": 1, "image": "a.jpg", "text": "Is there a dog?", "label": "yes"},
        {"question_id": 2, "image": "a.jpg", "text": "Is there a cat?", "label": "no"},
    ]
    path = write(tmp_path / "p.json", rows, lines=True)
    answers = write(tmp_path / "a.json", [{"question": "", "answer": "Yes"}] * 2, lines=True)
    found = load({"pope": {"path": path, "answers": answers}})
    assert [s.hallucinated for s in found.samples] == [False, True]
    assert found.samples[0].gold is None
    assert [s.hallucinated for s in load({"pope": {"path": path}}).samples] == [False, True, True, False]
    with pytest.raises(ValueError, match="1 answers"):
        load({"pope": {"path": path, "answers": write(tmp_path / "b.json", [{"answer": "x"}], lines=True)}})


def test_chair(tmp_path):
    row = {
        "image_id": 9,
        "caption": "Two dogs play with a wine glass.",
        "hallucination_idxs": [1, 5],
        "mscoco_hallucinated_words": [["dog", "dog"], ["wine glass", "wine glass"]],
        "mscoco_generated_words": ["dog", "wine glass", "person"],
    }
    other = {**row, "hallucination_idxs": [0], "mscoco_hallucinated_words": [["zebra", "zebra"]]}
    found = load({"chair": {"path": write(tmp_path / "c.json", {"sentences": [row, other]})}})
    assert gold(found.samples[0]) == ["dogs", "wine glass"]
    assert dict(found.dropped) == {"hallucinated word not found": 1}
    assert found.samples[1].hallucinated
    assert chair_scores([row, {**row, "mscoco_hallucinated_words": []}]) == {"CHAIRs": 0.5, "CHAIRi": 2 / 6}
    with pytest.raises(ValueError, match="sentences"):
        load({"chair": {"path": write(tmp_path / "d.json", [])}})


def test_amber(tmp_path):
    fields = {
        "annotations": write(
            tmp_path / "annotations.json",
            [
                {"id": 1, "type": "generative", "truth": ["sky", "beach"], "hallu": ["people"]},
                {"id": 1005, "type": "discriminative-relation", "truth": "no"},
                {"id": 1006, "type": "discriminative-hallucination", "truth": "yes"},
            ],
        ),
        "queries": write(tmp_path / "query.json", [{"id": i, "image": "a.jpg", "query": "q"} for i in (1, 1005, 1006)]),
        "relation": write(tmp_path / "relation.json", {"beach": ["sand"], "boat": ["ship"]}),
        "responses": write(
            tmp_path / "r.json",
            [
                {"id": 1, "response": "A beach with sand, boats and people under the sky."},
                {"id": 1005, "response": "Yes"},
                {"id": 1006, "response": "Perhaps"},
                {"id": 77, "response": "Yes"},
            ],
        ),
    }
    found = load({"amber": fields})
    assert gold(found.samples[0]) == ["boats", "people"]
    assert [(s.hallucinated, s.gold) for s in found.samples[1:]] == [(True, None)]
    assert dict(found.dropped) == {"answer is not Yes or No": 1, "no annotation or query": 1}
    (tmp_path / "safe.txt").write_text("people\n")
    assert gold(load({"amber": {**fields, "safe_words": str(tmp_path / "safe.txt")}}).samples[0]) == ["boats"]


def picture(color):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), color).save(buffer, "PNG")
    return Media("image", data=buffer.getvalue(), name=color)


def made(number, color, said, bad):
    text = f"The picture is {said}."
    spans = (LabelledSpan(15, 15 + len(said), said),) if bad else ()
    return SpanSample(str(number), picture(color), "what?", text, spans, bad, "made")


SAMPLES = [made(0, "red", "red", False), made(1, "blue", "red", True), made(2, "red", "blue", True)]


def test_span_files_round_trip(tmp_path):
    save_spans(SAMPLES, tmp_path / "s.jsonl")
    again = load_spans(str(tmp_path / "s.jsonl")).samples
    assert [(s.id, s.response, s.spans, s.hallucinated, s.image.data) for s in again] == [
        (s.id, s.response, s.spans, s.hallucinated, s.image.data) for s in SAMPLES
    ]
    (tmp_path / "other").mkdir()
    for name, sample in zip("ab", SAMPLES, strict=False):
        (tmp_path / "other" / f"{name}.png").write_bytes(sample.image.data)
    files = [
        replace(SAMPLES[i], image=Media("image", path=tmp_path / "other" / f"{'ab'[i % 2]}.png", name="a name"))
        for i in range(3)
    ]
    (tmp_path / "made").mkdir()
    save_spans(files, tmp_path / "made" / "s.jsonl")
    assert len(list((tmp_path / "made" / "images").iterdir())) == 2  # each picture once
    (tmp_path / "made").rename(tmp_path / "moved")
    shutil.rmtree(tmp_path / "other")
    found = load_spans(str(tmp_path / "moved" / "s.jsonl")).samples
    assert [s.image.path.read_bytes() for s in found] == [SAMPLES[i % 2].image.data for i in range(3)]
    shutil.rmtree(tmp_path / "moved" / "images")
    lost = load_spans(str(tmp_path / "moved" / "s.jsonl"))
    assert [s.image for s in lost.samples] == [None] * 3
    assert sum(lost.dropped.values()) == 3
    ragtruth = {"prompt": "q", "answer": "abc def", "labels": [{"start": 4, "end": 7, "label": "hallucination"}]}
    assert gold(load_spans(write(tmp_path / "r.jsonl", [ragtruth], lines=True)).samples[0]) == ["def"]
    (tmp_path / "bad.jsonl").write_text('{"a": 1}\nnot json\n')
    with pytest.raises(ValueError, match="line 2"):
        load_spans(str(tmp_path / "bad.jsonl"))


def test_a_verifier_that_could_not_be_asked_about_anything_is_an_error(tmp_path, capsys):
    save_spans([replace(s, image=None, question="<image>what?") for s in SAMPLES], tmp_path / "s.jsonl")
    data, out = "{spans: {path: " + str(tmp_path / "s.jsonl") + "}}", str(tmp_path / "out")
    prm = "{prm_endpoint: {endpoint: {base_url: 'http://127.0.0.1:9/v1', model: m}, cache_mb: 0}}"
    assert cli.main(["prm-evaluate", "--prm", prm, "--data", data, "-o", out]) == 2
    assert "3 of 3 responses have no verification, first 0: query: the question mentions 1 images" in (
        " ".join(capsys.readouterr().err.split())
    )


def looks(query):
    """A verifier that reads the pixels."""
    color = Image.open(io.BytesIO(query.images[0].data)).getpixel((0, 0))
    name = "red" if color[0] > 200 else "blue"
    other = "blue" if name == "red" else "red"
    return Verification((other,), "flagged") if other in query.response else Verification()


def test_measures_of_a_perfect_and_of_a_blind_verifier():
    perfect = measures(judge(SAMPLES, ScriptedVerifier(looks)))
    assert perfect["spans"]["macro_iou"] == perfect["spans"]["f1"] == perfect["response"]["auroc"] == 1.0
    assert perfect["response"]["accuracy"] == 1.0
    assert perfect["response"]["majority"] == pytest.approx(2 / 3)
    blind = measures(judge(SAMPLES, ScriptedVerifier(lambda q: Verification())))
    assert blind["spans"]["macro_iou"] == blind["spans"]["nothing_flagged_iou"] == pytest.approx(1 / 3)
    assert (blind["spans"]["recall"], blind["response"]["auroc"]) == (0.0, 0.5)
    swapped = exchanged(SAMPLES)
    assert all(a.image.data != b.image.data for a, b in zip(swapped, SAMPLES, strict=True) if a.id != "x")
    assert measures(judge(swapped, ScriptedVerifier(looks)))["spans"]["f1"] < 1


def test_errors_are_counted_and_left_out():
    said = iter([failed("down"), Verification(status="parse_error"), Verification(("blue", "nowhere"), "flagged")])
    found = measures(judge(SAMPLES, ScriptedVerifier(lambda q: next(said))))
    assert found["statuses"] == {"prm_error": 1, "parse_error": 1, "flagged": 1}
    assert found["not_found"] == 1
    assert found["spans"]["samples"] == 1
    nothing = measures(judge(SAMPLES, ScriptedVerifier(lambda q: failed("down"))))
    assert "response" not in nothing


def test_the_commands(tmp_path, capsys):
    save_spans(SAMPLES, tmp_path / "s.jsonl")
    data = json.dumps({"spans": {"path": str(tmp_path / "s.jsonl")}})
    words = ["prm-evaluate", "--prm", "scene_oracle", "--data", data, "-o", str(tmp_path / "out"), "--exchange"]
    assert cli.main(words) == 2  # no scene graph: every answer is an error; that is written, and said
    results = json.loads((tmp_path / "out" / "prm-evaluate.json").read_text())["results"]
    assert results["scene_oracle"]["statuses"] == {"prm_error": 3}
    assert results["flags nothing"]["spans"]["recall"] == 0
    assert len((tmp_path / "out" / "verifications.jsonl").read_text().splitlines()) == 3
    for bad in ("{no_such: {}}", "{pope: {nothing: 1}}", "text"):
        assert cli.main(["prm-evaluate", "--prm", "scene_oracle", "--data", bad, "-o", str(tmp_path / "o")]) == 2


def test_a_server_is_not_opened_to_others_without_a_key(monkeypatch):
    from argparse import Namespace

    options = Namespace(
        model="m",
        host="0.0.0.0",
        port=1,
        name="prm",
        api_key_env=None,
        max_model_len=9,
        arguments=["--dtype", "float32"],
    )
    with pytest.raises(ValueError, match="api-key-env"):
        command(options)
    options.host = "127.0.0.1"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="needs vLLM"):
        command(options)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    words = command(options)
    assert words[:3] == [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    assert words[-2:] == ["--dtype", "float32"]
