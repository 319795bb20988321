"""RL on a verifier: the reward macro-IoU, annotated responses as questions, and a run of the normal trainer."""

from __future__ import annotations

import json
import random
import subprocess
import sys

import pytest
from runs import metrics, model_folder, parse
from tiny import tiny_tokenizer

from mmcredit.answers.item import RewardItem
from mmcredit.components import build
from mmcredit.data.media import MediaLimits
from mmcredit.train.loop import Trainer
from prm.datasets.base import LabelledSpan, SpanSample
from prm.datasets.spans_jsonl import save_spans
from prm.local import verification_sample
from prm.metrics import macro_iou
from prm.spans import token_spans, words
from prm.verifier import Query

RESPONSE = "<think>The image shows a brown rectangle.</think><answer>rectangle</answer>"
BROWN = [RESPONSE.index("brown"), RESPONSE.index("brown") + len("brown")]
BOTH = [BROWN[0], RESPONSE.index("rectangle") + len("rectangle")]


def value(output, spans, response=RESPONSE, **fields):
    reward = build("reward", {"span_iou": fields})
    reward.prepare()
    (found,) = reward([RewardItem(output, None, meta={"response": response, "spans": spans})])
    return found


def says(*strings):
    return f"<think>black</think><answer>{list(strings)!r}</answer>"


CLEAN = "<think>black</think><answer>The response is correct.</answer>"


def test_the_release_s_values():
    assert value(says("brown"), [BROWN]) == 1.0
    assert value(says("brown rectangle"), [BROWN]) == pytest.approx(1 / 2)
    assert value(says("brown"), [BOTH]) == pytest.approx(1 / 2)
    assert value(CLEAN, []) == 1.0
    assert value(CLEAN, [BROWN]) == 0.0
    assert value(says("brown"), []) == 0.0
    # Touching ranges are one: two flagged words next to each other are the labelled phrase.
    assert value(says("brown", "rectangle"), [BOTH]) == 1.0
    # The first place of a string: the answer's "rectangle" is not what was flagged.
    assert value(says("rectangle"), [[RESPONSE.rindex("rectangle"), RESPONSE.rindex("rectangle") + 9]]) == 0.0


def test_mistakes_that_the_release_pays_for():
    garbage = "<think>black</think><answer>fine</answer>"
    nowhere = says("a purple cat")
    assert (value(garbage, []), value(garbage, [], lenient=True)) == (0.0, 1.0)
    assert (value(nowhere, []), value(nowhere, [], lenient=True)) == (0.0, 1.0)
    assert value(says("brown", "a purple cat"), [BROWN]) == pytest.approx(1 / 4)
    assert value(says("brown", "a purple cat"), [BROWN], lenient=True) == 1.0
    assert value("<think>black</think><answer>['brown', 3]</answer>", [BROWN]) == pytest.approx(1 / 2)
    assert value(CLEAN + " and more", []) == 0.0
    assert value("black</think><answer>['brown']</answer>", [BROWN]) == 0.0
    assert value("black</think><answer>['brown']</answer>", [BROWN], prompt_opens_think=True) == 1.0


def test_tokens_of_a_tokenizer_and_ways_to_find(tmp_path):
    tiny_tokenizer().save_pretrained(tmp_path)
    found = value(says("brown rectangle"), [BROWN], tokenizer=str(tmp_path))
    spans = tiny_tokenizer()(RESPONSE, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    share = [i for i, (a, b) in enumerate(spans) if a < BOTH[1] and b > BOTH[0]]
    right = [i for i in share if spans[i][0] < BROWN[1] and spans[i][1] > BROWN[0]]
    assert found == pytest.approx(len(right) / len(share))
    assert value(says("“brown”"), [BROWN]) == 0.0
    assert value(says("“brown”"), [BROWN], ladder=["exact", "trimmed"]) == 1.0


def test_what_is_missing_or_wrong_is_told():
    reward = build("reward", "span_iou")
    assert reward([RewardItem(CLEAN, None)]) == [None]
    assert reward([RewardItem(CLEAN, None, meta={"response": "x"})]) == [None]
    for spans in ([[0, 900]], [[3, 3]], "brown", [["a", "b"]]):
        with pytest.raises(ValueError, match="spans"):
            value(CLEAN, spans)


def test_the_reward_runs_without_torch():
    program = "import sys, prm.train.reward; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def rows(count=12, seed=0):
    """Annotated responses to pictures of scenes; every second one has a wrong word."""
    samples = build("source", {"scenes": {"size": count, "image_size": 64}}).load(MediaLimits())
    rng = random.Random(seed)
    out = []
    for i in range(count):
        image, word = samples[i].media[0], rng.choice(("red", "blue"))
        text = f"<think>There is a {word} circle.</think><answer>{word}</answer>"
        at = text.index(word)
        spans = (LabelledSpan(at, at + len(word), word),) if i % 2 else ()
        out.append(SpanSample(f"s/{i}", image, "<image>what color?", text, spans, bool(spans)))
    return out


def test_annotated_responses_are_the_verifier_s_own_questions(tmp_path):
    made = rows()
    save_spans(made, tmp_path / "rows.jsonl")
    entry = {"annotated_responses": {"data": {"spans": {"path": str(tmp_path / "rows.jsonl")}}, "limit": 8}}
    samples = build("source", entry).load(MediaLimits())
    assert len(samples) == 8
    for sample, row in zip(samples, made, strict=False):
        asked = verification_sample(Query(row.question, row.response, (row.image,), {}, row.id), "short")
        assert (sample.id, sample.messages) == (asked.id, asked.messages)
        assert sample.media[0].data == row.image.data
        assert sample.meta["response"] == row.response
        assert [row.response[a:b] for a, b in sample.meta["spans"]] == [span.text for span in row.spans]
    json_rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    json_rows[1]["spans"][0]["text"] = "other"
    json_rows[3]["id"] = json_rows[2]["id"]
    (tmp_path / "twice.jsonl").write_text("\n".join(map(json.dumps, json_rows)))
    entry["annotated_responses"]["data"]["spans"]["path"] = str(tmp_path / "twice.jsonl")
    with pytest.raises(ValueError, match=r"two responses have the id 's/2'"):
        build("source", entry).load(MediaLimits())
    entry["annotated_responses"]["limit"] = 2
    assert build("source", entry).load(MediaLimits()).dropped.counts == {"span text differs": 1}
    whole = {"id": "a", "question": "q", "image": None, "response": "r", "spans": []}
    (tmp_path / "none.jsonl").write_text(json.dumps({**whole, "spans": [{"start": 0, "end": 9, "text": "r"}]}))
    entry["annotated_responses"]["data"] = "{spans: {path: " + str(tmp_path / "none.jsonl") + "}}"
    with pytest.raises(ValueError, match="no response with labelled spans"):
        build("source", entry).load(MediaLimits())


def test_two_steps_of_the_normal_trainer(tmp_path):
    save_spans(rows(), tmp_path / "rows.jsonl")
    source = {"annotated_responses": {"data": {"spans": {"path": str(tmp_path / "rows.jsonl")}}}}
    run = parse(
        tmp_path,
        run__steps=2,
        model__path=str(model_folder(tmp_path)),
        data__train=source,
        rewards=["span_iou", {"function": {"path": f"{tmp_path / 'vowels.py'}:vowels"}}],
    )
    Trainer(run).run()
    found = metrics(tmp_path / "run")
    assert len(found) == 2
    # An untrained model never writes the format; the other reward gives the groups something to differ in.
    assert all(row["reward/part/span_iou"] == 0 for row in found)
    assert all(row["policy/grad_norm"] > 0 for row in found)
    assert not any(row.get(f"reward/span_iou/{kind}") for row in found for kind in ("error", "timeout"))


def test_macro_iou_of_the_reward_is_that_of_the_evaluation():
    rng = random.Random(0)
    text = "a b c d e f g h i j"
    for _ in range(50):
        gold = [[s, min(len(text), s + rng.randint(1, 5))] for s in rng.sample(range(0, 18, 2), 2)]
        start = rng.randrange(0, 18, 2)
        flagged = text[start : start + rng.choice((1, 3, 5))]
        expected = macro_iou(token_spans(gold, words(text)), token_spans([(start, start + len(flagged))], words(text)))
        assert value(says(flagged), gold, response=text) == pytest.approx(expected)
