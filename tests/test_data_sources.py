"""Sources: easy-VQA, JSON lines, Parquet and local `datasets` folders give the same samples."""

from __future__ import annotations

import io
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mmcredit.components import UnknownName, build, lookup, names, page
from mmcredit.data.conventions import SPLIT_OFF
from mmcredit.data.dropped import UnusableSample
from mmcredit.data.media import MediaLimits, load_image
from mmcredit.data.sample import Sample
from mmcredit.data.sources.base import TableSamples
from mmcredit.train.prompts import PromptStream

NO_ROOT = MediaLimits()


def load(kind: str, limits: MediaLimits = NO_ROOT, **fields: Any) -> Sequence[Sample]:
    source = build("source", {kind: fields})
    return source.load(limits)  # type: ignore[attr-defined, no-any-return]


def png(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (value, 0, 0)).save(buffer, format="PNG")
    return buffer.getvalue()


def red(sample: Sample, limits: MediaLimits = NO_ROOT) -> list[int]:
    return [load_image(media, limits).getpixel((0, 0))[0] for media in sample.media]  # type: ignore[index]


def write_lines(path: Path, rows: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


# --- what all sources share


def test_sources_are_registered_and_explain_themselves() -> None:
    assert {"easy_vqa", "jsonl", "parquet", "hf_dataset"} <= set(names("source"))
    for name in ("easy_vqa", "jsonl", "parquet", "hf_dataset"):
        text = page(lookup("source", name))
        assert "source:" in text
        assert "limit" in text
    with pytest.raises(UnknownName, match="did you mean 'easy_vqa'"):
        build("source", "easyvqa")
    with pytest.raises(ValueError, match="unknown key 'lmit'; did you mean 'limit'"):
        build("source", {"easy_vqa": {"lmit": 3}})
    with pytest.raises(ValueError, match="path is missing"):
        build("source", "jsonl")


def test_a_source_is_rebuilt_from_its_spec(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [{"q": "1?", "answer": 1}])
    source = build("source", {"jsonl": {"path": str(path), "columns": {"prompt": "q"}, "system": "s", "limit": 1}})
    again = build("source", json.loads(json.dumps(source.spec())))
    assert again == source
    assert list(again.load(NO_ROOT)) == list(source.load(NO_ROOT))  # type: ignore[attr-defined]


# --- easy-VQA


def test_easy_vqa_official_split_and_real_pictures() -> None:
    train, test = load("easy_vqa", split="train"), load("easy_vqa", split="test")
    assert (len(train), len(test)) == (38575, 9673)
    assert isinstance(train, TableSamples)
    assert isinstance(test, TableSamples)
    ids = {train.id(i) for i in range(len(train))} | {test.id(i) for i in range(len(test))}
    assert len(ids) == len(train) + len(test)
    first = train[0]
    assert first.id == "easy_vqa/train/0"
    assert first.messages == (
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what is the blue shape?"}]},
    )
    assert (first.answer, dict(first.meta)) == ("rectangle", {"image_id": 0, "kind": "shape", "split": "train"})
    image = load_image(first.media[0], NO_ROOT)
    assert (image.size, image.mode) == ((64, 64), "RGB")
    last = test[-1]
    assert last.id == "easy_vqa/test/9672"
    assert load_image(last.media[0], NO_ROOT).size == (64, 64)


def test_easy_vqa_pictures_belong_to_their_questions() -> None:
    primary = {"red": (255, 0, 0), "blue": (0, 0, 255), "yellow": (255, 255, 0), "black": (0, 0, 0)}
    samples = load("easy_vqa", split="test", where={"kind": "color", "answer": list(primary)}, limit=40)
    assert len({sample.answer for sample in samples}) == 4
    for sample in samples:
        pixels = np.asarray(load_image(sample.media[0], NO_ROOT)).reshape(-1, 3)
        shown = {name for name, color in primary.items() if (pixels == color).all(axis=1).any()}
        assert shown == {sample.answer}


def test_easy_vqa_question_kinds() -> None:
    samples = load("easy_vqa", split="test", limit=2000)
    kinds = Counter(sample.meta["kind"] for sample in samples)
    assert set(kinds) == {"shape", "color", "yes_no"}
    for sample in samples:
        open_question = sample.messages[0]["content"][1]["text"].startswith("what")
        assert open_question == (sample.meta["kind"] != "yes_no")
    only = load("easy_vqa", split="test", where={"kind": ["shape", "color"]})
    assert len(only) == 1257 + 1280
    assert only[0].meta["kind"] in ("shape", "color")


def test_easy_vqa_shuffle_limit_and_template() -> None:
    fields = {"split": "test", "shuffle": 5, "limit": 50}
    first, again = load("easy_vqa", **fields), load("easy_vqa", **fields)
    ids = [sample.id for sample in first]
    assert ids == [sample.id for sample in again]
    assert ids != [sample.id for sample in load("easy_vqa", **fields | {"shuffle": 6})]
    assert ids[:20] == [sample.id for sample in load("easy_vqa", **fields | {"limit": 20})]
    sample = load("easy_vqa", system="Look.", template="{{ content }} Answer in tags.", limit=1)[0]
    assert sample.messages[0] == {"role": "system", "content": "Look."}
    assert sample.messages[1]["content"][1]["text"] == "what is the blue shape? Answer in tags."


def test_easy_vqa_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmcredit.data.sources.easy_vqa.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"mmcredit\[easy-vqa\]"):
        load("easy_vqa")


# --- JSON lines


def test_jsonl_round_trip(tmp_path: Path) -> None:
    (tmp_path / "7.png").write_bytes(png(7))
    rows = [
        {"prompt": "Text only?", "answer": "a", "level": 1},
        {"prompt": "Ünï <image>", "image": "7.png", "answer": "b", "level": 2},
        {"prompt": [{"role": "user", "content": "Chat."}], "answer": "c", "level": 1},
    ]
    path = write_lines(tmp_path / "set.jsonl", rows)
    limits = MediaLimits(root=tmp_path)
    samples = load("jsonl", limits, path=str(path))
    assert [sample.id for sample in samples] == ["set.jsonl:1", "set.jsonl:2", "set.jsonl:3"]
    assert [sample.answer for sample in samples] == ["a", "b", "c"]
    assert red(samples[1], limits) == [7]
    assert samples[1].messages[0]["content"] == [{"type": "text", "text": "Ünï "}, {"type": "image"}]
    assert [sample.id for sample in load("jsonl", limits, path=str(path), where={"level": 1})] == [
        "set.jsonl:1",
        "set.jsonl:3",
    ]

    listed = tmp_path / "set2.json"
    listed.write_text(json.dumps(rows), encoding="utf-8")
    assert [s.messages for s in load("jsonl", limits, path=str(listed))] == [s.messages for s in samples]


def test_jsonl_blank_lines_byte_order_mark_and_windows_ends(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"prompt": "one"}\r\n\r\n  \n{"prompt": "two"}')
    samples = load("jsonl", path=str(path))
    assert [(s.id, s.messages[0]["content"]) for s in samples] == [("a.jsonl:1", "one"), ("a.jsonl:4", "two")]
    path.write_bytes(b'{"prompt": "one"}\r\n\r\n{"text": "two"}')
    with pytest.raises(ValueError, match=r"sample a\.jsonl:3 has no prompt"):
        load("jsonl", path=str(path))[1]
    with pytest.raises(ValueError, match=r"has no column 'key' \(columns\.id\); columns there: prompt, text"):
        load("jsonl", path=str(path), columns={"id": "key"})


def test_jsonl_sequence_protocol(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [{"prompt": str(i)} for i in range(6)])
    samples = load("jsonl", path=str(path))
    assert len(samples[1:4]) == 3
    assert [s.id for s in samples[1:4]] == ["a.jsonl:2", "a.jsonl:3", "a.jsonl:4"]
    assert samples[-1].id == "a.jsonl:6"
    assert next(s.id for s in reversed(samples)) == "a.jsonl:6"
    with pytest.raises(IndexError):
        samples[6]


def test_several_files_have_distinct_ids_without_machine_paths(tmp_path: Path) -> None:
    for name in ("x/train.jsonl", "y/train.jsonl", "y/more.jsonl"):
        write_lines(tmp_path / name, [{"prompt": name}])
    samples = load("jsonl", path=str(tmp_path / "**" / "*.jsonl"))
    assert [(s.id, s.messages[0]["content"]) for s in samples] == [
        ("x/train.jsonl:1", "x/train.jsonl"),
        ("y/more.jsonl:1", "y/more.jsonl"),
        ("y/train.jsonl:1", "y/train.jsonl"),
    ]
    assert [s.id for s in load("jsonl", path=str(tmp_path))] == [s.id for s in samples]
    twice = load("jsonl", path=[str(tmp_path / "x/train.jsonl"), str(tmp_path / "x/*.jsonl")])
    assert [s.id for s in twice] == ["train.jsonl:1"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"prompt": "a", "prompt": "b"}\n', r"a\.jsonl:1 is not valid JSON: key 'prompt' occurs twice"),
        ('{"prompt": ' + "[" * 100_000, r"none of its 1 lines can be used: a\.jsonl:1 is not valid JSON"),
        ('[\n  {\n"prompt": "a"\n}\n]', r"none of its 5 lines .*a JSON document, not lines of JSON, is named \.json"),
        ("", r"source jsonl \(.*a\.jsonl\) holds no rows"),
        ("\n\n", "holds no rows"),
        (
            '{"text": "a", "b": 1}\n',
            r"no prompt column \(prompt, problem, question, messages, conversations\).*columns there: b, text",
        ),
    ],
)
def test_jsonl_bad_files(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        load("jsonl", path=str(path))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"prompt": ', "is not valid JSON"),
        (b'["b"]', "is a JSON list; one object a line"),
        (b'{"prompt": "\xff"}', "is not UTF-8: byte 0xff at 12; save the file as UTF-8"),
        (b'{"prompt": ' + b"[" * 100_000, "is not valid JSON"),
    ],
)
@pytest.mark.parametrize("options", [{}, {"where": {"level": 1}}, {"columns": {"id": "key"}}])
def test_a_broken_line_is_one_sample_that_cannot_be_used(
    tmp_path: Path, line: bytes, message: str, options: dict[str, Any]
) -> None:
    good = [json.dumps({"prompt": f"p{i}", "level": 1, "key": f"k{i}"}).encode() for i in range(3)]
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join([good[0], line, *good[1:]]))
    samples = load("jsonl", path=str(path), **options)
    assert len(samples) == 4
    assert [samples[i].messages[0]["content"] for i in (0, 2, 3)] == ["p0", "p1", "p2"]
    assert samples.id(1) == samples.name(1) == "a.jsonl:2"
    with pytest.raises(UnusableSample, match=f"a.jsonl:2 {message}") as caught:
        samples[1]
    assert caught.value.reason == "not a JSON object"


def test_a_broken_line_is_counted_and_replaced_in_training(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"prompt": "one"}\n{"prompt": \n{"prompt": "two"}\n')
    stream = PromptStream(load("jsonl", path=str(path)), lambda sample: sample, seed=0)
    taken = [sample.messages[0]["content"] for sample, _ in stream.take(4)]
    assert sorted(set(taken)) == ["one", "two"]
    assert stream.dropped.counts["not a JSON object"] >= 1


def test_what_was_decided_is_said_once_in_training(tmp_path: Path) -> None:
    chat = {"messages": [{"role": "user", "content": "2+3?"}, {"role": "assistant", "content": "5"}]}
    said: list[str] = []
    samples = load("jsonl", path=str(write_lines(tmp_path / "a.jsonl", [chat] * 3)))
    stream = PromptStream(samples, lambda sample: sample, seed=0, note=said.append)
    stream.take(6)
    assert len(said) == 1
    assert said[0].startswith(f"data.train: {SPLIT_OFF} (first: a.jsonl:")


def test_json_lists(tmp_path: Path) -> None:
    for content, message in (
        ('{"prompt": "a"}', "holds a JSON dict; a list of objects"),
        ("[1]", r"none of its 1 items is an object: b\.json\[0\] is a JSON int"),
        ('{"prompt": "a"}\n{"prompt": "b"}', r"JSON lines are named \.jsonl"),
        ("[]", "holds no rows"),
    ):
        (tmp_path / "b.json").write_text(content)
        with pytest.raises(ValueError, match=message):
            load("jsonl", path=str(tmp_path / "b.json"))
    (tmp_path / "b.json").write_text('[{"prompt": "a"}, 7, {"prompt": "b"}]')
    samples = load("jsonl", path=str(tmp_path / "b.json"), where={"prompt": "b"})
    assert [samples.name(i) for i in range(len(samples))] == ["b.json[1]", "b.json[2]"]
    with pytest.raises(UnusableSample, match=r"b\.json\[1\] is a JSON int; an object is wanted"):
        samples[0]
    with pytest.raises(ValueError, match=r"nothing\*\.jsonl': no such file"):
        load("jsonl", path=str(tmp_path / "nothing*.jsonl"))


def test_jsonl_that_changes_after_loading_is_noticed(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [{"prompt": "one"}, {"prompt": "two"}])
    samples = load("jsonl", path=str(path))
    write_lines(path, [{"prompt": "a longer first line"}, {"prompt": "two"}])
    with pytest.raises(ValueError, match=r"a\.jsonl has changed since it was loaded"):
        samples[1]
    path.unlink()
    with pytest.raises(ValueError, match=r"a\.jsonl:2 cannot be read"):
        samples[1]


def test_filter_that_keeps_nothing_names_source_and_filter(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [{"prompt": "one", "level": 1, "extra": {"split": "train"}}])
    with pytest.raises(ValueError, match=r"source jsonl \(.*a\.jsonl\): none of its 1 rows passes where=\{'lev"):
        load("jsonl", path=str(path), where={"level": 2})
    with pytest.raises(
        ValueError, match=r"no column 'lvel' \(where\); columns there: extra, level, prompt; did you mean 'level'"
    ):
        load("jsonl", path=str(path), where={"lvel": 2})
    assert len(load("jsonl", path=str(path), where={"extra.split": "train", "level": [1, 2]})) == 1
    with pytest.raises(ValueError, match="none of its 1 rows"):
        load("jsonl", path=str(path), where={"extra.split": "test"})


def test_explicit_ids_must_be_there_and_unique(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "key": "k1"}, {"prompt": "b", "key": "k1"}, {"prompt": "c", "key": 3}, {"prompt": "d"}]
    path = write_lines(tmp_path / "a.jsonl", rows)
    with pytest.raises(ValueError, match=r"id 'k1' occurs twice: a\.jsonl:1 and a\.jsonl:2; columns\.id='key'"):
        load("jsonl", path=str(path), columns={"id": "key"})
    with pytest.raises(ValueError, match=r"b\.jsonl:3 has no id in column 'key'"):
        load("jsonl", path=str(write_lines(tmp_path / "b.jsonl", rows[1:])), columns={"id": "key"})
    good = load("jsonl", path=str(write_lines(tmp_path / "c.jsonl", rows[1:3])), columns={"id": "key"})
    assert [s.id for s in good] == ["k1", "3"]
    assert load("jsonl", path=str(path))[0].meta == {"key": "k1"}


def test_rows_that_are_bad_alone_are_errors_of_their_own(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [{"prompt": "ok"}, {"prompt": None}, {"prompt": "x", "image": "no.png"}])
    samples = load("jsonl", MediaLimits(root=tmp_path), path=str(path))
    assert isinstance(samples, TableSamples)
    assert samples[0].id == samples.id(0) == "a.jsonl:1"
    assert samples.id(2) == "a.jsonl:3"  # known without reading the row
    with pytest.raises(ValueError, match=r"data\.media\.root is no folder: .*gone"):
        load("jsonl", MediaLimits(root=tmp_path / "gone"), path=str(path))
    with pytest.raises(ValueError, match=r"sample a\.jsonl:2 has no prompt"):
        samples[1]
    with pytest.raises(
        ValueError, match=r"'no\.png' of sample a\.jsonl:3, image\[0\], does not exist below data\.media\.root"
    ):
        samples[2]


def test_template_file(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [{"prompt": " Q "}])
    template = tmp_path / "format.jinja"
    template.write_text("{{ content | trim }} Box it.\n")
    assert load("jsonl", path=str(path), template_file=str(template))[0].messages[0]["content"] == "Q Box it."
    with pytest.raises(ValueError, match="template or template_file, not both"):
        load("jsonl", path=str(path), template_file=str(template), template="{{ content }}")
    with pytest.raises(ValueError, match=r"template_file .*gone\.jinja.* cannot be read"):
        load("jsonl", path=str(path), template_file=str(tmp_path / "gone.jinja"))
    with pytest.raises(ValueError, match="question is lost"):
        load("jsonl", path=str(path), template="Box it.")


# --- Parquet


def image_table(values: list[int]) -> pa.Table:
    return pa.table(
        {
            "problem": [f"<image>Find {value}." for value in values],
            "images": [[{"bytes": png(value), "path": f"{value}.png"}] for value in values],
            "answer": [str(value) for value in values],
        }
    )


def test_parquet_embedded_images_over_row_groups_and_files(tmp_path: Path) -> None:
    pq.write_table(image_table([0, 1, 2, 3, 4]), tmp_path / "train-0.parquet", row_group_size=2)
    pq.write_table(image_table([5, 6]), tmp_path / "train-1.parquet")
    for cache_bytes in (1, 2**30):  # one row group at a time, and all
        samples = load("parquet", path=str(tmp_path / "train-*.parquet"), cache_bytes=cache_bytes)
        assert [s.id for s in samples] == [f"train-0.parquet[{i}]" for i in range(5)] + [
            "train-1.parquet[0]",
            "train-1.parquet[1]",
        ]
        for number in (6, 0, 3, 5, 1, 4, 2, 0):
            sample = samples[number]
            assert (red(sample), sample.answer, dict(sample.meta)) == ([number], str(number), {})
            assert sample.messages[0]["content"][0] == {"type": "image"}
        assert "'4.png' of sample train-0.parquet[4]" in samples[4].media[0].name
        assert len(samples._rows._cache) == (1 if cache_bytes == 1 else 4)  # type: ignore[attr-defined]


def test_parquet_other_image_columns(tmp_path: Path) -> None:
    (tmp_path / "9.png").write_bytes(png(9))
    limits = MediaLimits(root=tmp_path)
    for name, column in (
        ("struct", [{"bytes": png(9), "path": None}]),
        ("bytes", [png(9)]),
        ("bytes_list", [[png(9), png(9)]]),
        ("path", ["9.png"]),
        ("path_struct", [{"bytes": None, "path": "9.png"}]),
    ):
        path = tmp_path / f"{name}.parquet"
        pq.write_table(pa.table({"prompt": ["?"], "image": column}), path)
        sample = load("parquet", limits, path=str(path))[0]
        assert red(sample, limits) == [9] * len(sample.media)
        assert sample.media


def test_parquet_verl_rows_with_nested_columns(tmp_path: Path) -> None:
    rows = [
        {
            "data_source": "gsm8k",
            "prompt": [{"role": "user", "content": f"What is {i}+1?"}],
            "reward_model": {"style": "rule", "ground_truth": str(i + 1)},
            "extra_info": {"split": "train" if i < 2 else "test", "index": i},
        }
        for i in range(3)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "gsm8k.parquet")
    samples = load(
        "parquet", path=str(tmp_path), where={"extra_info.split": "train"}, columns={"id": "extra_info.index"}
    )
    assert [(s.id, s.answer, s.messages[0]["content"]) for s in samples] == [
        ("0", "1", "What is 0+1?"),
        ("1", "2", "What is 1+1?"),
    ]


def test_parquet_bad_files(tmp_path: Path) -> None:
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(ValueError, match=r"bad\.parquet cannot be read as Parquet"):
        load("parquet", path=str(tmp_path / "bad.parquet"))
    twice = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["prompt", "prompt"])
    pq.write_table(twice, tmp_path / "twice.parquet")
    with pytest.raises(ValueError, match=r"twice\.parquet has column 'prompt' twice"):
        load("parquet", path=str(tmp_path / "twice.parquet"))
    pq.write_table(image_table([])[:0], tmp_path / "empty.parquet")
    with pytest.raises(ValueError, match=r"source parquet \(.*empty\.parquet\) holds no rows"):
        load("parquet", path=str(tmp_path / "empty.parquet"))
    pq.write_table(pa.table({"question": ["?"], "label": ["a"]}), tmp_path / "good.parquet")
    with pytest.raises(ValueError, match=r"no column 'lable' \(columns\.answer\).*did you mean 'label'"):
        load("parquet", path=str(tmp_path / "good.parquet"), columns={"answer": "lable"})
    with pytest.raises(ValueError, match="did you mean 'answer'"):
        load("parquet", path=str(tmp_path / "good.parquet"), columns={"anwser": "label"})


# --- folders of the package `datasets`


def hf_rows(count: int) -> dict[str, list[Any]]:
    return {
        "problem": [f"<image>Which, {i}?" for i in range(count)],
        "images": [[{"bytes": png(i), "path": None}] for i in range(count)],
        "label": [i % 2 for i in range(count)],
    }


def hf_features() -> Any:
    datasets = pytest.importorskip("datasets")
    return datasets.Features(
        {
            "problem": datasets.Value("string"),
            "images": datasets.List(datasets.Image()),
            "label": datasets.ClassLabel(names=["even", "odd"]),
        }
    )


def test_hf_saved_dataset_parquet_and_arrow_give_the_same_samples(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_dict(hf_rows(5), features=hf_features())
    data.save_to_disk(str(tmp_path / "saved"))
    datasets.DatasetDict(train=data, test=data.select([3, 1])).save_to_disk(str(tmp_path / "dict"))
    (tmp_path / "hub" / "data").mkdir(parents=True)
    data.select(range(3)).to_parquet(str(tmp_path / "hub" / "data" / "train-00000-of-00002.parquet"))
    data.select(range(3, 5)).to_parquet(str(tmp_path / "hub" / "data" / "train-00001-of-00002.parquet"))
    data.select([3, 1]).to_parquet(str(tmp_path / "hub" / "data" / "test-00000-of-00001.parquet"))
    (tmp_path / "cache").mkdir()
    with datasets.arrow_writer.ArrowWriter(
        path=str(tmp_path / "cache" / "parquet-train.arrow"), features=hf_features()
    ) as writer:
        writer.write_table(data.with_format("arrow")[:])
        writer.finalize()

    fields: dict[str, Any] = {"columns": {"answer": "label"}}
    for folder, split in (("saved", None), ("dict", "train"), ("hub", "train"), ("cache", None)):
        samples = load("hf_dataset", path=str(tmp_path / folder), split=split, **fields)
        assert [red(sample) for sample in samples] == [[0], [1], [2], [3], [4]]
        assert [sample.answer for sample in samples] == ["even", "odd", "even", "odd", "even"]
        assert samples[4].messages[0]["content"] == [{"type": "image"}, {"type": "text", "text": "Which, 4?"}]
        assert len({sample.id for sample in samples}) == 5
        odd = load("hf_dataset", path=str(tmp_path / folder), split=split, where={"label": "odd"}, **fields)
        assert [red(sample) for sample in odd] == [[1], [3]]
    for folder in ("dict", "hub"):
        test = load("hf_dataset", path=str(tmp_path / folder), split="test", **fields)
        assert [red(sample) for sample in test] == [[3], [1]]
        for split in (None, "validation"):
            with pytest.raises(ValueError, match="set split to one of"):
                load("hf_dataset", path=str(tmp_path / folder), split=split, **fields)


def test_hf_parts_with_pictures_inside_messages(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = [
        {
            "prompt": [
                {"role": "user", "content": [{"type": "image", "text": None}, {"type": "text", "text": "Which?"}]}
            ],
            "images": [{"bytes": png(8), "path": None}],
        }
    ]
    datasets.Dataset.from_list(rows).save_to_disk(str(tmp_path / "set"))
    sample = load("hf_dataset", path=str(tmp_path / "set"))[0]
    assert sample.messages == ({"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Which?"}]},)
    assert red(sample) == [8]


def test_hf_folder_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="a hub name is not fetched"):
        load("hf_dataset", path="hiyouga/geometry3k")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"holds no saved data set and no \.parquet or \.arrow file"):
        load("hf_dataset", path=str(tmp_path / "empty"))
    for config in ("main", "socratic"):
        (tmp_path / "gsm8k" / config).mkdir(parents=True)
        pq.write_table(pa.table({"question": ["?"]}), tmp_path / "gsm8k" / config / "train-00000-of-00001.parquet")
    with pytest.raises(ValueError, match=r"several folders of .*: main, socratic; point path at one"):
        load("hf_dataset", path=str(tmp_path / "gsm8k"))
    assert len(load("hf_dataset", path=str(tmp_path / "gsm8k" / "main"))) == 1
    (tmp_path / "empty" / "state.json").write_text("{}")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ModuleNotFoundError, match=r"mmcredit\[datasets\]"):
        load("hf_dataset", path=str(tmp_path / "empty"))
