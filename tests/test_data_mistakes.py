"""Data as people store it: read right where it is clear, else refused with file, row, column, value and setting."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mmcredit.answers.item import RewardItem
from mmcredit.answers.references import references
from mmcredit.components import build, lookup, names
from mmcredit.data.audit import Audit, unread_media
from mmcredit.data.columns import Columns
from mmcredit.data.conventions import CONTINUED, JSON_PROMPT, SPLIT_OFF, SPLIT_OFF_BLANK, Reading, to_sample
from mmcredit.data.dropped import UnusableSample
from mmcredit.data.media import MediaLimits, load_image
from mmcredit.data.reference import same, texts_of
from mmcredit.data.sample import Sample, last_text
from mmcredit.data.sample_state import pack, unpack
from mmcredit.data.templates import compile_template
from mmcredit.rewards.exact_answer import ExactAnswer


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(content: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content}


def read(row: Mapping[str, Any], limits: MediaLimits | None = None, folder: Path | None = None, **how: Any) -> Sample:
    return to_sample(row, "d.jsonl:4", Reading(limits=limits or MediaLimits(), **how), "d.jsonl:4", folder)


def load(kind: str, limits: MediaLimits | None = None, **fields: Any) -> Sequence[Sample]:
    return build("source", {kind: fields}).load(limits or MediaLimits())  # type: ignore[attr-defined, no-any-return]


def png(shade: int = 200) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, 0, 0)).save(buffer, format="PNG")
    return buffer.getvalue()


def shade(sample: Sample) -> list[int]:
    return [load_image(media, MediaLimits()).getpixel((0, 0))[0] for media in sample.media]  # type: ignore[index]


def paid(sample: Sample, answer: str) -> float | None:
    """What `exact_answer` pays for `answer` in its tag."""
    item = RewardItem(f"<answer>{answer}</answer>", sample.answer, meta=sample.meta)
    return ExactAnswer()([item])[0]


# --- references


@pytest.mark.parametrize(
    ("stored", "answer"),
    [
        ("48/2 = 24 and 24+2 = 26\n#### 26", "26"),
        ("<answer> red </answer>", "red"),
        ("\\boxed{red}", "red"),
        ("First 3, then 4. So the answer is $\\boxed{7}$.", "7"),
        (1.0, "1"),
        (-3.0, "-3"),
        (0.5, "0.5"),
        (7, "7"),
        (np.float64(26.0), "26"),
        (np.int64(26), "26"),
        (Decimal("26.00"), "26"),
        (Decimal("1.5"), "1.5"),
        (True, "true"),
        (["red", "crimson"], "crimson"),
        ([1.0, 2.0], "2"),
        (np.array(["red", "crimson"]), "crimson"),
    ],
)
@pytest.mark.parametrize("column", ["answer", "solution", "ground_truth"])
def test_an_answer_is_paid_however_its_reference_is_stored(stored: Any, answer: str, column: str) -> None:
    sample = read({"prompt": "?", column: stored})
    assert paid(sample, answer) == 1
    assert paid(sample, "something else") == 0


@pytest.mark.parametrize("missing", [None, float("nan"), np.float64("nan"), "", "  ", [], [None, float("nan")]])
def test_a_missing_reference_is_no_reference(missing: Any) -> None:
    sample = read({"prompt": "?", "answer": missing})
    assert sample.answer is None
    assert paid(sample, "nan") is None
    assert json.dumps(dict(sample.meta), allow_nan=False)
    assert read({"prompt": "?", "answer": missing, "solution": "5"}).answer == "5"


def test_texts_of_a_value() -> None:
    assert texts_of([10, 20, 30, 40]) == ("[10, 20, 30, 40]",)  # a rectangle, not four alternatives
    assert texts_of([[1, 2], [3, 4]]) == ("[[1, 2], [3, 4]]",)
    assert texts_of({"a": 1}) == ('{"a": 1}',)
    assert texts_of(["a", "a", None, " "]) == ("a",)
    assert texts_of(1e20) == ("1e+20",)
    sample = read({"prompt": "?", "answer": ["a", "b"], "answers": ["c"]})
    assert references(RewardItem("", sample.answer, meta=sample.meta)) == ["a", "b", "c"]
    with pytest.raises(
        UnusableSample, match=r"d\.jsonl:4: column 'answers' must be a list of accepted answers, got 'c'"
    ):
        read({"prompt": "?", "answer": ["a", "b"], "answers": "c"})


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_integers_that_pandas_made_floats(tmp_path: Path, suffix: str) -> None:
    frame = pd.DataFrame({"prompt": ["a", "b", "c"], "answer": [1, None, 26]})
    path = tmp_path / f"set.{suffix}"
    if suffix == "parquet":
        frame.to_parquet(path)
    else:
        path.write_text("\n".join(json.dumps(row) for row in frame.to_dict("records")))  # NaN, as Python writes it
        assert "NaN" in path.read_text()
    assert [sample.answer for sample in load(suffix, path=str(path))] == ["1", None, "26"]


@pytest.mark.parametrize(
    ("row", "column"),
    [
        ({"answer": "5", "reward_model": {"ground_truth": "7"}}, "reward_model.ground_truth"),
        ({"answer": "5", "ground_truth": "7"}, "ground_truth"),
        ({"answer": 5.0, "ground_truth": 7}, "ground_truth"),
        ({"answer": "red", "ground_truth": "blue"}, "ground_truth"),
        ({"answer": "5", "solution": "#### 7"}, "solution"),
        ({"answer": "5", "solution": "<answer>7</answer>"}, "solution"),
    ],
)
def test_two_references_that_disagree_are_refused(row: dict[str, Any], column: str) -> None:
    with pytest.raises(UnusableSample) as caught:
        read({"prompt": "?", **row})
    said = str(caught.value)
    assert said.startswith("sample d.jsonl:4: columns 'answer' (")
    assert f"and {column!r} (" in said
    assert "say in columns.answer which one counts" in said
    assert caught.value.reason == "references disagree"
    chosen = read({"prompt": "?", **row}, columns=Columns(answer=column))
    assert chosen.answer is not None


@pytest.mark.parametrize(
    "row",
    [
        {"answer": "26", "reward_model": {"ground_truth": "26", "style": "rule"}},
        {"answer": "#### 1,000", "ground_truth": 1000.0},
        {"answer": "Red", "ground_truth": "red."},
        {"answer": "$5$", "solution": "So it is \\boxed{5}."},
        {"answer": "5", "solution": "We add 2 and 3, which makes five."},
        {"answer": ["5", "five"], "ground_truth": "five"},
        {"answer": "5", "ground_truth": float("nan")},
    ],
)
def test_references_that_agree_are_worth_no_word(row: dict[str, Any]) -> None:
    sample = read({"prompt": "?", **row})
    assert sample.answer in ("26", "#### 1,000", "Red", "$5$", "5")
    assert sample.notes == ()


def test_a_nested_column_may_be_its_json_text() -> None:
    assert read({"prompt": "?", "reward_model": '{"ground_truth": "7", "style": "rule"}'}).answer == "7"
    assert read({"prompt": "?", "reward_model": "{broken"}).answer is None


def test_references_in_other_words_are_decided_aloud() -> None:
    sample = read({"prompt": "?", "answer": "\\frac{1}{2}", "ground_truth": "0.5"})
    assert (sample.answer, len(sample.notes)) == ("\\frac{1}{2}", 1)
    assert "columns answer and ground_truth both hold a reference in different words; answer counts" in sample.notes[0]
    assert same(["1/2"], ["0.5"]) is None
    assert same(["12 cm"], ["12"]) is None


# --- chats that end with the assistant


def test_the_last_assistant_turn_becomes_the_reference() -> None:
    for row in (
        {"prompt": [user("2+3?"), assistant("It is 5.\n#### 5")]},
        {"messages": [user("2+3?"), assistant([{"type": "text", "text": "It is 5.\n"}, "#### 5"])]},
        {"conversations": [{"from": "human", "value": "2+3?"}, {"from": "gpt", "value": "#### 5"}]},
    ):
        sample = read(row)
        assert sample.messages == (user("2+3?"),)
        assert sample.notes == (SPLIT_OFF,)
        assert paid(sample, "5") == 1


def test_earlier_assistant_turns_stay_and_a_reference_column_counts() -> None:
    turns = [user("a"), assistant("b"), user("c"), assistant("the long way to 7")]
    sample = read({"prompt": turns, "answer": "7"})
    assert [m["role"] for m in sample.messages] == ["user", "assistant", "user"]
    assert sample.answer == "7"
    assert len(sample.notes) == 1
    assert sample.notes[0].endswith("its last turn was taken out, the reference is column answer")
    blank = read({"prompt": [user("a"), assistant(" ")], "answer": "7"})
    assert (blank.messages, blank.notes) == ((user("a"),), (SPLIT_OFF_BLANK,))


def test_the_last_assistant_turn_is_continued_where_that_is_asked_for() -> None:
    turns = [user("2+3?"), assistant("It is")]
    sample = read({"prompt": turns, "answer": "5"}, last_assistant_turn="continue")
    assert (list(sample.messages), sample.answer, sample.notes) == (turns, "5", (CONTINUED,))
    assert last_text(sample) == "2+3?"


def test_template_and_system_go_around_the_question_of_such_a_chat() -> None:
    sample = read(
        {"prompt": [user("2+3?"), assistant("5")]}, system="Think.", template=compile_template("{{ content }} Now!")
    )
    assert list(sample.messages) == [{"role": "system", "content": "Think."}, user("2+3? Now!")]


def test_a_reference_is_text() -> None:
    row = {"prompt": [user("draw"), assistant([{"type": "image", "bytes": png()}])]}
    with pytest.raises(
        UnusableSample, match=r"column 'prompt': the last turn is the assistant's and holds image parts"
    ):
        read(row)


# --- prompts in odd forms


def test_a_prompt_that_is_the_json_of_messages_is_read_as_messages_and_said() -> None:
    turns = [{"role": "system", "content": "s"}, user("2+3?")]
    sample = read({"prompt": json.dumps(turns), "answer": "5"})
    assert (list(sample.messages), sample.notes) == (turns, (JSON_PROMPT,))
    with pytest.raises(UnusableSample, match=r"d\.jsonl:4, column 'prompt': .*text of a Python list of messages"):
        read({"prompt": str(turns)})
    for text in ("[1, 2]", '["role"]', "[a]", '[{"a": 1}]', "[]"):
        assert read({"prompt": text}).messages == (user(text),)


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        ([{"role": "system", "content": "a"}, {"role": "system", "content": "b"}, user("?")], "2 system turns"),
        ([user("?"), {"role": "system", "content": "a"}], "the system turn is message 1, not the first"),
        ([{"role": "system", "content": "a"}], "no user turn with content (turns there: system)"),
        ([user("  ")], "no user turn with content"),
        ([user([{"type": "text", "text": ""}])], "no user turn with content"),
        ([{"role": "human", "content": "?"}], "message 0 has role 'human'; known: system, developer, user"),
        ([{"from": "narrator", "value": "?"}], "message 0 has role 'narrator'"),
    ],
)
def test_turns_that_no_template_reads_as_meant(turns: Any, message: str) -> None:
    with pytest.raises(UnusableSample) as caught:
        read({"prompt": turns})
    assert str(caught.value).startswith("sample d.jsonl:4, column 'prompt': ")
    assert message in str(caught.value)


def test_a_system_prompt_of_the_source_mends_doubled_ones() -> None:
    turns = [{"role": "system", "content": "a"}, user("?"), {"role": "system", "content": "b"}]
    assert list(read({"prompt": turns}, system="c").messages) == [{"role": "system", "content": "c"}, user("?")]


# --- media as people store them


def test_every_way_to_store_an_image(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "red.png").write_bytes(png())
    text = base64.b64encode(png()).decode()
    wrapped = "\n".join(text[i : i + 48] for i in range(0, len(text), 48))
    values = [
        "images/red.png",
        "images\\red.png",
        str(tmp_path / "images" / "red.png"),
        text,
        wrapped,
        text.rstrip("="),
        base64.urlsafe_b64encode(png()).decode(),
        {"bytes": text},
        {"bytes": text, "path": "red.png"},
        {"bytes": f"data:image/png;base64,{text}"},
        {"base64": wrapped},
        {"bytes": None, "path": "images/red.png"},
        {"path": "images/red.png"},
        f"data:image/png;base64,{text}",
        png(),
        json.dumps(["images/red.png"]),
    ]
    for value in values:
        for stored in (value, [value]) if not (isinstance(value, str) and value.startswith("[")) else (value,):
            sample = read({"prompt": "<image>?", "images": stored}, MediaLimits(root=tmp_path))
            assert shade(sample) == [200], value


def test_paths_start_at_the_folder_of_the_file(tmp_path: Path) -> None:
    folder = tmp_path / "sets" / "geo"
    folder.mkdir(parents=True)
    (folder / "a.png").write_bytes(png(90))
    (tmp_path / "b.png").write_bytes(png(20))
    path = folder / "train.jsonl"
    path.write_text("\n".join(json.dumps({"prompt": "?", "image": name}) for name in ("a.png", "b.png", "../../b.png")))
    pq.write_table(pa.table({"prompt": ["?"], "image": ["a.png"]}), folder / "train.parquet")
    bare = load("jsonl", path=str(path))
    assert shade(bare[0]) == [90]
    with pytest.raises(
        UnusableSample, match=r"'b\.png' of sample train\.jsonl:2, image\[0\], does not exist below .*geo"
    ):
        bare[1]
    with pytest.raises(UnusableSample, match=r"train\.jsonl:3, image\[0\], contains '\.\.'"):
        bare[2]
    assert shade(load("parquet", path=str(folder / "train.parquet"))[0]) == [90]
    rooted = load("jsonl", MediaLimits(root=tmp_path), path=str(path))
    assert [shade(rooted[0]), shade(rooted[1])] == [[90], [20]]
    elsewhere = load("jsonl", MediaLimits(root=tmp_path / "sets" / "geo"), path=str(path))
    assert shade(elsewhere[0]) == [90]


def test_paths_of_other_machines_are_named(tmp_path: Path) -> None:
    for value, message in (
        ("C:\\data\\red.png", "is an absolute Windows path; name it relative to data.media.root"),
        ("..\\red.png", "contains '..'"),
        ("/data/red.png", "does not exist below data.media.root"),
    ):
        with pytest.raises(UnusableSample, match="sample d.jsonl:4") as caught:
            read({"prompt": "?", "image": value}, MediaLimits(root=tmp_path))
        assert message in str(caught.value)


def test_images_in_assistant_turns_count_like_others() -> None:
    turns = [user("<image> and?"), assistant("This: <image>"), user("So?")]
    sample = read({"prompt": turns, "images": [png(1), png(2)], "answer": "5"})
    assert shade(sample) == [1, 2]
    assert sample.messages[1]["content"][-1] == {"type": "image"}
    with pytest.raises(UnusableSample, match="2 <image> placeholders, the columns give 1 images"):
        read({"prompt": turns, "images": [png(1)]})
    # the reference that is split off asks for no image
    split = read({"prompt": [user("<image>?"), assistant("an <image> of 5")], "image": png(3)})
    assert (shade(split), split.answer) == ([3], "an <image> of 5")


# --- names, sources


def test_one_row_has_one_name(tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text('{"prompt": "ok", "key": "q1"}\n{"prompt": "", "key": "q2"}\n{"prompt": "<image>", "key": "q3"}\n')
    for columns, shown in (({}, "bad.jsonl:2"), ({"id": "key"}, "q2 (bad.jsonl:2)")):
        samples = load("jsonl", path=str(path), columns=columns)
        assert samples.name(1) == shown  # type: ignore[attr-defined]
        with pytest.raises(UnusableSample) as caught:
            samples[1]
        assert str(caught.value).startswith(f"sample {shown} has no prompt")
        good = samples[0]
        assert good.name == shown.replace("q2", "q1").replace(":2", ":1")
        assert unpack(pack(good)).name == good.name


def test_every_source_takes_a_system_prompt_and_a_template() -> None:
    wanted = {"system", "template", "template_file"}
    for name in set(names("source")) - {"annotated_responses"}:  # a verifier's prompt is its `layout`
        assert wanted <= set(lookup("source", name).model_fields), name
    for kind, fields in (
        ("sums", {}),
        ("char_tasks", {"size": 3}),
        ("scenes", {"size": 3}),
        ("reasoning_gym", {"task": "chain_sum", "size": 3}),
        ("easy_vqa", {"limit": 3}),
    ):
        pytest.importorskip(kind) if kind in ("reasoning_gym", "easy_vqa") else None
        sample = load(kind, system="Be brief.", template="Q: {{ content }} A:", **fields)[0]
        assert sample.messages[0] == {"role": "system", "content": "Be brief."}
        assert last_text(sample).startswith("Q: ")
        assert last_text(sample).endswith(" A:")
        assert sample.name == sample.id


# --- what only several samples show


def test_repeated_and_leaked_questions_are_counted() -> None:
    audit = Audit()
    rows = [{"prompt": "one"}, {"prompt": "two"}, {"prompt": " one\n", "answer": "1"}, {"prompt": "three"}]
    for number, row in enumerate(rows):
        audit.add(to_sample(row, f"t:{number}", Reading(MediaLimits())))
    assert audit.warnings() == []
    assert audit.notes() == ["1 of 4 samples read from data.train ask what an earlier one asks (t:2 repeats t:0)"]
    for number, row in enumerate([{"prompt": "two"}, {"prompt": "four"}, {"prompt": "three"}]):
        audit.add(to_sample(row, f"h:{number}", Reading(MediaLimits())), held_out=True)
    (warning,) = audit.warnings()
    assert warning.startswith("2 of the 3 held-out questions read are among the 3 training questions read (t:1 is h:0)")
    assert "separate data.train and data.evaluate" in warning


def test_the_same_words_about_another_image_are_another_question() -> None:
    audit = Audit()
    for number in (1, 2, 1):
        audit.add(read({"prompt": "how many?", "image": png(number)}))
    assert len(audit.repeated["train"]) == 1
    audit.add(read({"prompt": "how many?", "image": png(2)}), held_out=True)
    assert len(audit.shared) == 1


def test_decisions_are_counted_and_columns_that_nobody_reads_are_found() -> None:
    audit = Audit()
    samples = [read({"prompt": [user(str(i)), assistant("a")], "pic": f"{i}.png", "n": i}) for i in range(3)]
    for sample in samples:
        audit.add(sample)
    assert audit.notes() == [f"3 of 3 samples: {SPLIT_OFF}"]
    assert unread_media(samples) == ["pic"]
