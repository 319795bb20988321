"""Tables that are not what their name says, text tables, names with slips: each is read rightly, or named in a line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mmcredit.answers.choices import choices_of
from mmcredit.answers.item import RewardItem
from mmcredit.components import build
from mmcredit.data.columns import meant
from mmcredit.data.media import MediaLimits, load_image

ROW = '{"prompt": "é?", "answer": "5"}\n'


def load(kind: str, path: Path, **fields: Any) -> Any:
    return build("source", {kind: {"path": str(path), **fields}}).load(MediaLimits())  # type: ignore[attr-defined]


def read(samples: Any) -> list[tuple[Any, Any]]:
    return [(sample.messages[0]["content"], sample.answer) for sample in samples]


@pytest.mark.parametrize(
    ("kind", "name", "content", "message"),
    [
        ("jsonl", "a.jsonl", ROW.encode("utf-16"), "is UTF-16, not UTF-8; save it as UTF-8"),
        ("jsonl", "a.jsonl", ROW.encode("utf-16-le"), "is UTF-16, not UTF-8"),
        ("jsonl", "a.json", f"[{ROW}]".encode("utf-16"), r"a\.json is UTF-16, not UTF-8; save it as UTF-8$"),
        (
            "jsonl",
            "a.jsonl",
            ROW.encode("latin-1"),
            r"a\.jsonl:1 is not UTF-8: byte 0xe9 at 12; save the file as UTF-8",
        ),
        ("jsonl", "a.json", f"[{ROW}]".encode("latin-1"), "is not UTF-8: byte 0xe9 at 13"),
        ("jsonl", "a.jsonl", b"PAR1\0\0", "is a Parquet file; use the source parquet"),
        ("jsonl", "a.jsonl.gz", b"\x1f\x8b\x08\0", r"is packed \(gzip\)"),
        ("jsonl", "a.csv", b"prompt,answer\na,5\n", "is a table of text; use the source csv"),
        ("jsonl", "a.json", b'{"data": [{"prompt": "a"}]}', "its key 'data' holds one: save that list alone"),
        ("jsonl", "a.jsonl", b'[{"prompt": "a"}]', r"a JSON document, not lines of JSON, is named \.json"),
        ("jsonl", "a.jsonl", b'{"prompt": "a\\ud800"}', r"a\.jsonl:1 holds half a character"),
        ("csv", "a.csv", b"prompt;answer\na;5\n", r"it looks separated by semicolons; set separator: ';'"),
        ("csv", "a.csv", b"prompt,prompt\na,5\n", "has column 'prompt' twice"),
        ("csv", "a.csv", 'prompt\n"é"\n'.encode("utf-16"), "is UTF-16: byte 0xff at 0; save it as UTF-8"),
        ("csv", "a.csv", "prompt\né\n".encode("latin-1"), "is not UTF-8: byte 0xe9 at 7"),
        ("csv", "a.csv", b'prompt,answer\n"a,5\n', r"a\.csv:2 is not readable as CSV"),
        ("csv", "a.csv", b"prompt,answer\n", "holds no rows"),
        ("csv", "a.csv", b"PK\x03\x04\0\0", "it is no table of text"),
        ("csv", "a.csv", b"query,answer\na,5\n", "did you mean 'query'"),
    ],
)
def test_files_that_cannot_be_read_say_what_they_are(
    tmp_path: Path, kind: str, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        load(kind, tmp_path / name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "fields", "rows"),
    [
        ("a.csv", 'prompt,answer\n"a, ""b""\nc",5\nb,\n', {}, [('a, "b"\nc', "5"), ("b", None)]),
        ("a.csv", "\ufeffprompt,answer\r\na,5\r\n\r\nb,6\r\n", {}, [("a", "5"), ("b", "6")]),
        ("a.tsv", "prompt\tanswer\na, b\t5\n", {}, [("a, b", "5")]),
        ("a.csv", "prompt;answer\na;0,5\n", {"separator": ";"}, [("a", "0,5")]),
        ("a.csv", 'prompt,answer\n"[{""role"": ""user"", ""content"": ""a""}]",5\n', {}, [("a", "5")]),
        ("a.csv", "prompt,answer,level\na,5,1\nb,6,2\n", {"where": {"level": "2"}}, [("b", "6")]),
    ],
)
def test_tables_of_text(tmp_path: Path, name: str, content: str, fields: dict[str, Any], rows: list[Any]) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8", newline="")
    assert read(load("csv", tmp_path / name, **fields)) == rows


def test_a_row_of_other_length_is_one_sample_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("prompt,answer\na,5\nb,c,6\nd,7\n")
    samples = load("csv", tmp_path / "a.csv")
    assert read([samples[0], samples[2]]) == [("a", "5"), ("d", "7")]
    with pytest.raises(ValueError, match=r"a\.csv:3 has 3 cells, the table has 2 columns \(prompt, answer\)"):
        samples[1]


def test_a_filter_says_which_values_there_are(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("prompt,level\na,1\nb,2\n")
    with pytest.raises(ValueError, match=r"passes where=\{'level': 1\}; there level is '1', '2'$"):
        load("csv", tmp_path / "a.csv", where={"level": 1})
    with pytest.raises(ValueError, match="did you mean 'level'"):
        load("csv", tmp_path / "a.csv", where={"levle": 1})


@pytest.mark.parametrize(
    ("part", "columns", "found"),
    [
        ("prompt", ["Question", "Answer"], "Question"), ("prompt", ["instruction", "output"], "instruction"),
        ("prompt", ["promt", "x"], "promt"), ("answer", ["prompt", "anwser"], "anwser"),
        ("answer", ["Ground Truth"], "Ground Truth"), ("answer", ["label", "query"], "label"),
        ("prompt", ["a", "b"], None),
    ],
)  # fmt: skip
def test_columns_under_other_names_are_guessed_aloud(part: Any, columns: list[str], found: str | None) -> None:
    assert meant(part, columns) == found


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("A.PNG", "did you mean 'a.png'"), ("a.jpg", "did you mean 'a.png'"), ("pictures/a.png", "'a.png' does"),
        (" a.png\n", "'a.png' does"), ("sub/scene_01.png", "did you mean 'sub/scene_1.png'"),
    ],
)  # fmt: skip
def test_a_missing_picture_names_the_one_that_may_be_meant(tmp_path: Path, name: str, hint: str) -> None:
    (tmp_path / "sub").mkdir()
    for place in ("a.png", "sub/scene_1.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / place)
    (tmp_path / "d.jsonl").write_text(json.dumps({"prompt": "a", "image": name}))
    with pytest.raises(ValueError, match=r"d\.jsonl:1, image\[0\], does not exist below .*; " + hint):
        load("jsonl", tmp_path / "d.jsonl")[0]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "pointer of Git LFS"), (b"<svg/>", "an SVG drawing"),
        (b"<?xml version='1.0'?>\n<svg>", "an SVG drawing"), (b"<!DOCTYPE html><html>404", "a page of HTML"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "a HEIC picture"), (b"%PDF-1.4", "a PDF document"),
        (b"abc", "begins with b'abc'"),
    ],
)  # fmt: skip
def test_what_is_no_picture_is_called_by_its_name(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "a.png").write_bytes(content)
    (tmp_path / "d.jsonl").write_text('{"prompt": "a", "image": {"type": "image", "image": "a.png"}}')
    sample = load("jsonl", tmp_path / "d.jsonl")[0]
    with pytest.raises(
        ValueError, match=f"image 'a.png' of sample d.jsonl:1 .*{said}.*; wanted is one of PNG"
    ) as caught:
        load_image(sample.media[0], MediaLimits())
    assert "0x" not in str(caught.value)


def test_a_picture_beyond_what_the_decoder_opens_names_the_setting(tmp_path: Path) -> None:
    Image.new("1", (20_000, 20_000)).save(tmp_path / "a.png")
    (tmp_path / "d.jsonl").write_text('{"prompt": "a", "image": "a.png"}')
    with pytest.raises(ValueError, match="more pixels than data.media.max_pixels=50000000"):
        load_image(load("jsonl", tmp_path / "d.jsonl")[0].media[0], MediaLimits())


@pytest.mark.parametrize(
    "stored",
    [
        ["red", "blue"], ["A. red", "B. blue"], ["(A) red", "(B) blue"], {"A": "red", "B": "blue"},
        {"B": "blue", "A": "red", "C": None}, {"0": "red", "1": "blue"}, {"text": ["red", "blue"], "label": ["A", "B"]},
        {"text": ["blue", "red"], "label": ["B", "A"]}, [{"label": "A", "text": "red"}, {"label": "B", "text": "blue"}],
        '["red", "blue"]', "['red', 'blue']", '{"A": "red", "B": "blue"}', "A. red\nB. blue", "A. red B. blue",
        "(A) red, (B) blue", "A) red\r\nB) blue\r\n", "A: red; B: blue",
    ],
)  # fmt: skip
def test_choices_in_every_form(stored: Any) -> None:
    assert choices_of(stored) == ["red", "blue"]
    for key in ("choices", "options"):
        item = RewardItem("<answer>It is blue.</answer>", "B", meta={key: stored})
        assert build("reward", "option")([item]) == [1.0]


@pytest.mark.parametrize("stored", [5, "red or blue", {"A": "red", "C": "blue"}, [["a"], ["b"]], "A. red", {"x": "y"}])
def test_choices_that_cannot_be_told_apart_are_refused(stored: Any) -> None:
    with pytest.raises(ValueError, match=r"meta\['choices'\] must list the choices"):
        choices_of(stored)


def test_choices_with_letters_in_their_texts() -> None:
    assert choices_of("A. vitamin C. B. vitamin D. C. none") == ["vitamin C.", "vitamin D.", "none"]
    assert choices_of(["A. red", "blue"]) == ["A. red", "blue"]
    assert choices_of(None) == choices_of([]) == choices_of("") == []


@pytest.mark.parametrize(
    ("answer", "message"),
    [("C", "'C' names none of the options AB"), ("1", "a number must become its letter first"), ("green", "AB of")],
)
def test_a_reference_beyond_the_choices_is_named(answer: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build("reward", "option")([RewardItem("<answer>A</answer>", answer, meta={"choices": ["red", "blue"]})])
