"""A run's records: what is written is read back, resumes cut where they must, damage is counted and named."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny import tiny_tokenizer

from mmcredit.report.files import Lines, read_lines, replace_file
from mmcredit.report.pieces import token_pieces
from mmcredit.report.records import EvaluationWriter, EventWriter, MetricsWriter, Records, load_run
from mmcredit.report.samples import MediaStore, SampleRow, SampleWriter, read_samples

HOSTILE = "</script><script>alert(1)</script><!-- \u2028 \u202e"


def row(**changes) -> SampleRow:
    fields = {
        "sample_id": "s/1",
        "member": 0,
        "question": "what?",
        "answer": "red",
        "response": "red ▁",
        "pieces": ["red", " ", "<0xE2><0x96>", "<0x81>"],
        "token_ids": [1, 2, 3, 4],
        "advantages": [0.5, -0.25, 0.0, 1.0],
        "logprobs": [-0.1, -0.2, math.nan, -3.0],
        "mask": [True, True, False, True],
        "reward": 1.0,
        "parts": {"answer": 1.0},
        "weights": {"pgpo": [1.0, 0.5, math.inf, 2.0]},
        "signals": {"entropy": [0.1, 0.2, 0.3, 0.4]},
    }
    return SampleRow(**{**fields, **changes})


def test_metrics_resume_takes_out_the_steps_that_are_written_again(tmp_path: Path) -> None:
    writer = MetricsWriter(tmp_path)
    for step in range(1, 6):
        writer.write(step, {"reward/mean": step / 10})
    writer.close()
    again = MetricsWriter(tmp_path, resume_step=4)
    assert again.removed == 2
    again.write(4, {"reward/mean": 9.0})
    again.close()
    rows, broken = read_lines(tmp_path / "metrics.jsonl")
    assert [(r["step"], r["reward/mean"]) for r in rows] == [(1, 0.1), (2, 0.2), (3, 0.3), (4, 9.0)]
    assert broken == 0


def test_a_new_run_starts_empty_files(tmp_path: Path) -> None:
    for _ in range(2):
        with Records(tmp_path) as records:
            records.metrics.write(1, {"reward/mean": 1.0})
            records.events.write(1, "hello")
            records.evaluations.write(0, "test", n=10, accuracy=0.5, low=0.2, high=0.8)
    for name in ("metrics", "events", "evaluations"):
        assert len(read_lines(tmp_path / f"{name}.jsonl")[0]) == 1


def test_half_a_last_line_is_counted_on_reading_and_removed_on_resuming(tmp_path: Path) -> None:
    writer = MetricsWriter(tmp_path)
    writer.write(1, {"reward/mean": 0.5})
    writer.close()
    path = tmp_path / "metrics.jsonl"
    with path.open("ab") as file:
        file.write('{"step": 2, "reward/mean": 0.6, "x": "\u00e9'.encode()[:-1])
    assert read_lines(path)[1] == 1
    again = MetricsWriter(tmp_path, resume_step=2)
    assert again.broken == 1
    again.write(2, {"reward/mean": 0.7})
    again.close()
    rows, broken = read_lines(path)
    assert [r["reward/mean"] for r in rows] == [0.5, 0.7]
    assert broken == 0


def test_a_number_that_is_not_finite_is_null_and_an_event(tmp_path: Path) -> None:
    with Records(tmp_path) as records:
        records.metrics.write(7, {"policy/grad_norm": math.nan, "policy/ratio_max": math.inf, "policy/loss": 0.25})
    line = (tmp_path / "metrics.jsonl").read_text()
    assert "NaN" not in line
    assert "Infinity" not in line
    assert json.loads(line)["policy/grad_norm"] is None
    assert json.loads(line)["policy/loss"] == 0.25
    (event,), _ = read_lines(tmp_path / "events.jsonl")
    assert event["step"] == 7
    assert event["level"] == "warning"
    assert event["kind"] == "alarm"
    assert event["data"] == {"policy/grad_norm": "nan", "policy/ratio_max": "inf"}


def test_metrics_take_tensors_of_one_element_and_refuse_text(tmp_path: Path) -> None:
    writer = MetricsWriter(tmp_path)
    writer.write(1, {"a": torch.tensor(0.5), "b": torch.tensor([2])})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="metric 'c' must be a number, got 'high'"):
        writer.write(2, {"c": "high"})  # type: ignore[dict-item]
    writer.close()
    assert read_lines(tmp_path / "metrics.jsonl")[0][0]["b"] == 2


def test_tensorboard_gets_the_same_numbers(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    writer = MetricsWriter(tmp_path, tensorboard=True)
    writer.write(1, {"reward/mean": 0.25, "policy/grad_norm": math.nan})
    writer.write(2, {"reward/mean": 0.75})
    writer.close()
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(e.step, e.value) for e in board.Scalars("reward/mean")] == [(1, 0.25), (2, 0.75)]
    assert board.Tags()["scalars"] == ["reward/mean"]


def test_evaluations_keep_the_last_of_each_and_resume_keeps_the_one_at_the_step(tmp_path: Path) -> None:
    def write(step: int, accuracy: float, resume: int = 0) -> None:
        writer = EvaluationWriter(tmp_path, resume)
        writer.write(step, "test", n=100, accuracy=accuracy, low=0.0, high=1.0, seconds=2.0)
        writer.close()

    write(0, 0.5)
    write(10, 0.6, resume=10)
    write(10, 0.7, resume=10)
    write(20, 0.8, resume=10)
    write(11, 0.9, resume=10)
    MetricsWriter(tmp_path).close()
    (tmp_path / "config.yaml").write_text("run: {name: x}\n")
    run = load_run(tmp_path)
    assert [(e["step"], e["accuracy"]) for e in run.evaluations] == [(0, 0.5), (10, 0.7), (11, 0.9)]
    assert run.evaluations[0]["seconds"] == 2.0


def test_events_are_never_taken_back_and_replayed_ones_show_once(tmp_path: Path) -> None:
    for resume in (0, 5):
        writer = EventWriter(tmp_path, resume)
        writer.write(5, "2 prompts dropped", kind="drop", data={"reason": "too long", "count": 2})
        writer.close()
    assert len(read_lines(tmp_path / "events.jsonl")[0]) == 2
    MetricsWriter(tmp_path).close()
    (tmp_path / "config.yaml").write_text("run: {name: x}\n")
    assert len(load_run(tmp_path).events) == 1
    with pytest.raises(ValueError, match="kind 'oops'"):
        EventWriter(tmp_path).write(1, "x", kind="oops")  # type: ignore[arg-type]


def test_samples_come_back_as_written(tmp_path: Path) -> None:
    writer = SampleWriter(tmp_path)
    path = writer.write(10, [row(question=HOSTILE), row(member=1, answer=None, media=["a.png"], truncated=True)])
    assert path.name == "step-000010.parquet"
    first, second = read_samples(path)
    assert first["question"] == HOSTILE
    assert first["pieces"] == ["red", " ", "<0xE2><0x96>", "<0x81>"]
    assert first["advantages"] == [0.5, -0.25, 0.0, 1.0]
    assert first["mask"] == [True, True, False, True]
    assert first["weights"] == [{"method": "pgpo", "values": [1.0, 0.5, math.inf, 2.0]}]
    assert first["signals"][0]["name"] == "entropy"
    assert first["parts"] == [{"name": "answer", "value": 1.0}]
    assert math.isnan(first["logprobs"][2])
    assert second["answer"] is None
    assert second["media"] == ["a.png"]
    assert second["truncated"] is True
    assert second["step"] == 10
    assert not list(path.parent.glob(".*"))


def test_a_lone_surrogate_is_written_as_its_escape(tmp_path: Path) -> None:
    path = SampleWriter(tmp_path).write(1, [row(response="a\ud800b", pieces=["a", "\ud800", "b", "c"])])
    (read,) = read_samples(path)
    assert read["response"] == "a\\ud800b"
    assert read["pieces"][1] == "\\ud800"


def test_sample_tables_from_the_resumed_step_on_are_removed(tmp_path: Path) -> None:
    writer = SampleWriter(tmp_path)
    for step in (10, 20, 30):
        writer.write(step, [row()])
    assert SampleWriter(tmp_path, resume_step=21).removed == 1
    assert list(SampleWriter.find(tmp_path)) == [10, 20]


@pytest.mark.parametrize("name", ["pieces", "advantages", "logprobs", "mask"])
def test_a_list_of_the_wrong_length_is_named(name: str) -> None:
    with pytest.raises(ValueError, match=rf"sample s/1 member 0: {name} has 1 entries for 4 tokens"):
        row(**{name: [1]})
    with pytest.raises(ValueError, match=r"weights\['pgpo'\] has 2 entries"):
        row(weights={"pgpo": [1.0, 2.0]})


def test_a_damaged_or_foreign_parquet_is_named(tmp_path: Path) -> None:
    path = SampleWriter(tmp_path).write(1, [row()])
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"step-000001\.parquet: not a readable parquet file"):
        read_samples(path)
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"x": [1]}), path)
    with pytest.raises(ValueError, match=r"columns .*'sample_id'.* are missing"):
        read_samples(path)


def test_media_are_stored_once_and_scaled_down(tmp_path: Path) -> None:
    store = MediaStore(tmp_path, max_side=300)
    small, large = Image.new("RGB", (64, 32), "teal"), Image.new("RGB", (900, 600), "red")
    assert store.put("key1", small) == "key1.png"
    before = (tmp_path / "media" / "key1.png").stat().st_mtime_ns
    assert store.put("key1", large) == "key1.png"  # the key is the content: nothing is written again
    assert (tmp_path / "media" / "key1.png").stat().st_mtime_ns == before
    name = store.put("key2", large)
    with Image.open(tmp_path / "media" / name) as image:
        assert image.size == (300, 200)
        assert image.format == "JPEG"
    assert large.size == (900, 600)
    odd = store.put("../../etc/passwd", small)
    assert (tmp_path / "media" / odd).is_file()
    assert "/" not in odd
    with Image.open(tmp_path / "media" / store.put("key3", Image.new("RGBA", (400, 400), (0, 0, 0, 0)))) as image:
        assert image.mode == "RGBA"


def test_a_full_disk_leaves_the_old_file_and_no_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "cost.json"
    replace_file(path, "old")

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        replace_file(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["cost.json"]


def test_lines_refuse_what_json_does_not_have(tmp_path: Path) -> None:
    lines = Lines(tmp_path / "x.jsonl")
    with pytest.raises(ValueError, match="JSON compliant"):
        lines.append({"a": math.nan})
    lines.append({"a": 1})
    lines.close()
    assert read_lines(tmp_path / "x.jsonl") == ([{"a": 1}], 0)


def test_what_is_missing_or_broken_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no run directory .*nowhere"):
        load_run(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"config.yaml and metrics.jsonl not found"):
        load_run(tmp_path)
    MetricsWriter(tmp_path).close()
    (tmp_path / "config.yaml").write_text("a: [1\n")
    with pytest.raises(ValueError, match=r"config.yaml: not valid YAML"):
        load_run(tmp_path)
    (tmp_path / "config.yaml").write_text("a: 1\n")
    (tmp_path / "cost.json").write_text('{"stages": ')
    with pytest.raises(ValueError, match=r"cost.json: not valid JSON"):
        load_run(tmp_path)
    (tmp_path / "cost.json").unlink()
    (tmp_path / "metrics.jsonl").write_text('[1]\n{"step": "one"}\n{"step": 3}\nnull\n')
    run = load_run(tmp_path)
    assert [r["step"] for r in run.metrics] == [3]
    assert run.unreadable == {"metrics.jsonl": 3}


@pytest.mark.parametrize(
    "text", ["what colour is the square", "naïve café", "答案是 42 \U0001f600", "a\n\n b\t  c", "\u202e<|im_end|>"]
)
def test_pieces_join_to_the_text_except_for_parts_of_characters(text: str) -> None:
    tokenizer = tiny_tokenizer()
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    pieces = token_pieces(tokenizer, ids)
    assert len(pieces) == len(ids)
    raw = bytearray()
    for piece in pieces:  # undo the notation of fragments: the bytes must be those of the text
        while piece:
            if piece.startswith("<0x") and piece[5:6] == ">":
                raw.append(int(piece[3:5], 16))
                piece = piece[6:]
            else:
                raw += piece[0].encode()
                piece = piece[1:]
    assert raw.decode() == text
    if text.isascii():
        assert "".join(pieces) == text
