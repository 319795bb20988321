"""Rows that teach retrieval: public rows, clips, what is left out and why; the command."""

import json
import random
from argparse import ArgumentParser

import pytest

import video.components  # noqa: F401
from mmcredit.components import build
from mmcredit.data.media import MediaLimits
from video import cold_start
from video.commands import add
from video.retrieval import parse_calls

CALL = "<span>0.83 - 19.86</span><fps>2</fps>"
TARGET = f"<think>See. {CALL}<video>\nThere it is.</think><answer>0.83 - 19.86</answer>"


def row(target=TARGET, question="<video>\nWhen?", path=("a.mp4",)):
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": target}]
    return {"index": 0, "video": list(path), "conversations": turns, "gemini_suggested_fps": 2, "original_fps": 2}


def test_a_public_row():
    assert cold_start.from_dm_cot(row()) == {
        "question": "When?",
        "video": "a.mp4",
        "completion": TARGET.replace("<video>", ""),
        "answer": "0.83 - 19.86",
        "span": [0.83, 19.86],
        "fps": 2,
    }
    plain = cold_start.from_dm_cot(row("<think>a</think><answer>B</answer>", path=("a.mp4", "a.mp4")))
    assert "span" not in plain  # a row without a call teaches when none is needed


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (row(TARGET.replace("19.86</span>", "0.5</span>")), "call malformed"),
        (row(TARGET.replace("<fps>2", "<fps>99")), "call malformed"),
        (row(TARGET.replace("</fps>", "")), "call cut"),
        (row(TARGET.replace("<video>", "")), "placeholders"),
        (row(TARGET.replace("</fps><video>", "</fps> <video>")), "placeholders"),
        (row(TARGET + "<video>"), "placeholders"),
        (row(question="When?"), "placeholders"),
        (row(TARGET.replace("</think>", "")), "format"),
        (row("See. " + TARGET), "format"),
        (row(path=()), "video missing"),
        (row(path=("a.mp4", "b.mp4")), "video missing"),
        ({**row(), "conversations": []}, "turns differ"),
    ],
)
def test_rows_that_cannot_be_taught_are_counted(bad, reason):
    made = cold_start.build([row(), bad, bad], "x.json")
    assert (len(made.rows), made.dropped) == (1, {reason: 2})
    assert made.examples[reason].startswith("x.json[1]: ")


def test_windows_are_widened_and_answers_stay():
    whole = cold_start.from_dm_cot(row())
    for seed in range(20):
        wide = cold_start.widened(whole, 0.3, random.Random(seed))
        (call,) = parse_calls(wide["completion"])
        assert [call.start, call.end] == wide["span"]
        assert 0 <= call.start <= 0.83
        assert 19.86 <= call.end <= 19.86 + 0.3 * 19.03 + 0.01
        assert wide["answer"] == whole["answer"]
        assert wide["completion"].endswith("\nThere it is.</think><answer>0.83 - 19.86</answer>")
    assert cold_start.widened(whole, 0.3, random.Random(0)) != whole


def test_messages_hold_the_window_where_it_is_shown():
    asked, said = cold_start.messages(cold_start.from_dm_cot(row()))
    assert [part["type"] for part in asked["content"]] == ["video", "text"]
    assert said["content"][1] == {"type": "video", "video": "a.mp4", "video_start": 0.83, "video_end": 19.86, "fps": 2}
    assert said["content"][0]["text"].endswith("</fps>")
    assert "".join(p.get("text", "") for p in said["content"]) == TARGET.replace("<video>", "")


def run(*words):
    parser = ArgumentParser()
    add(parser.add_subparsers())
    options = parser.parse_args(["video-rows", *map(str, words)])
    return options.run(options)


def test_the_command(tmp_path, capsys):
    pytest.importorskip("av")
    (tmp_path / "rows.json").write_text(json.dumps([row(), row("x")]))
    assert run(tmp_path / "out", "--rows", tmp_path / "rows.json", "--widen", "0.2") == 0
    said = capsys.readouterr().out
    assert "1 rows" in said
    assert "left out, placeholders: 1" not in said
    assert "left out, format: 1, first rows.json[1]" in said
    assert run(tmp_path / "events", "--events", "{size: 4, image_size: 32, kinds: [flash]}") == 0
    source = build("source", {"jsonl": {"path": str(tmp_path / "events" / "rows.jsonl")}})
    samples = source.load(MediaLimits())
    assert len(samples) == 4
    assert samples[0].media[0].path.read_bytes()[4:8] == b"ftyp"
    assert samples[0].meta["completion"].startswith("<think>")
    assert run(tmp_path / "more", "--events", "{size: 2, image_size: 32}", "--messages") == 0
    line = json.loads((tmp_path / "more" / "rows.jsonl").read_text().splitlines()[0])
    assert [m["role"] for m in line["messages"]] == ["user", "assistant"]
    with pytest.raises(ValueError, match=r"nothing.json holds no JSON rows"):
        run(tmp_path / "x", "--rows", tmp_path / "nothing.json")
    with pytest.raises(ValueError, match="--events: a mapping of fields is wanted"):
        run(tmp_path / "x", "--events", "[1]")
