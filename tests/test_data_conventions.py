"""Rows as TRL, EasyR1 and verl write them become samples without options."""

from __future__ import annotations

import base64
import datetime
import io
import json
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mmcredit.data.columns import Columns, media_like
from mmcredit.data.conventions import Reading, to_sample
from mmcredit.data.dropped import UnusableSample
from mmcredit.data.media import MediaLimits, load_image
from mmcredit.data.sample import Sample
from mmcredit.data.templates import compile_template


def encode(color: tuple[int, int, int], file_format: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), color).save(buffer, format=file_format)
    return buffer.getvalue()


RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
IMAGE = {"type": "image"}


def text(value: str) -> dict[str, str]:
    return {"type": "text", "text": value}


def read(row: Mapping[str, Any], root: Path | None = None, **options: Any) -> Sample:
    return to_sample(row, "set/3", Reading(limits=MediaLimits(root=root), **options), "set.jsonl:4")


def colors(sample: Sample) -> list[tuple[int, ...]]:
    return [load_image(media, MediaLimits()).getpixel((0, 0)) for media in sample.media]


# --- TRL


def test_trl_plain_prompt() -> None:
    sample = read({"prompt": "The sky is", "solution": "blue", "level": 3})
    assert sample.id == "set/3"
    assert sample.messages == ({"role": "user", "content": "The sky is"},)
    assert (sample.media, sample.answer, dict(sample.meta)) == ((), "blue", {"level": 3})


def test_trl_conversational_prompt_with_one_image() -> None:
    row = {
        "prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Which colour?"}],
        "image": {"bytes": encode(RED), "path": "red.png"},
        "solution": "red",
    }
    sample = read(row)
    assert sample.messages == (
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [IMAGE, text("Which colour?")]},
    )
    assert colors(sample) == [RED]
    assert sample.media[0].name == "'red.png' of sample set/3 (set.jsonl:4)"


def test_trl_images_go_to_the_front_of_the_first_user_turn() -> None:
    row = {
        "prompt": [
            {"role": "user", "content": "First."},
            {"role": "assistant", "content": "Yes."},
            {"role": "user", "content": "Second."},
        ],
        "images": [encode(RED), encode(BLUE)],
    }
    sample = read(row)
    assert sample.messages[0]["content"] == [IMAGE, IMAGE, text("First.")]
    assert sample.messages[2]["content"] == "Second."
    assert colors(sample) == [RED, BLUE]


def test_trl_parts_without_content_take_the_images_in_order() -> None:
    row = {
        "prompt": [
            {"role": "user", "content": [text("a"), {"type": "image"}, text("b")]},
            {"role": "user", "content": [{"type": "image"}]},
        ],
        "images": [encode(RED), encode(BLUE)],
    }
    sample = read(row)
    assert [m["content"] for m in sample.messages] == [[text("a"), IMAGE, text("b")], [IMAGE]]
    assert colors(sample) == [RED, BLUE]


def test_parts_with_null_keys_as_tables_write_them() -> None:
    row = {
        "prompt": [
            {
                "role": "user",
                "name": None,
                "content": [
                    {"type": "image", "text": None, "image": None},
                    {"type": "text", "text": "Which?", "image": None},
                ],
            }
        ],
        "images": [{"bytes": encode(GREEN), "path": None}],
    }
    sample = read(row)
    assert sample.messages == ({"role": "user", "content": [IMAGE, text("Which?")]},)
    assert colors(sample) == [GREEN]


def test_parts_that_bring_their_own_image(tmp_path: Path) -> None:
    (tmp_path / "red.png").write_bytes(encode(RED))
    uri = "data:image/png;base64," + base64.b64encode(encode(GREEN)).decode()
    parts = [
        {"type": "image", "image": "red.png"},
        {"type": "image", "path": "red.png"},
        {"type": "image_url", "image_url": {"url": uri, "detail": "auto"}},
        {"type": "image", "image": Image.new("RGB", (8, 8), BLUE)},
        {"type": "image", "base64": base64.b64encode(encode(BLUE)).decode()},
        {"type": "image"},
        text("?"),
    ]
    row = {"prompt": [{"role": "user", "content": parts}], "images": [encode(RED)]}
    sample = read(row, tmp_path)
    assert sample.messages[0]["content"] == [IMAGE] * 6 + [text("?")]
    assert colors(sample) == [RED, RED, GREEN, BLUE, BLUE, RED]


# --- EasyR1 and verl


@pytest.mark.parametrize("column", ["prompt", "problem", "question"])
def test_easyr1_placeholder_stands_for_the_image(column: str) -> None:
    row = {column: "<image>Find x.", "images": [{"bytes": encode(RED), "path": None}], "answer": "48"}
    sample = read(row)
    assert sample.messages == ({"role": "user", "content": [IMAGE, text("Find x.")]},)
    assert (sample.answer, dict(sample.meta)) == ("48", {})


def test_easyr1_placeholders_in_the_middle_keep_white_space() -> None:
    row = {"problem": "Is\n<image>\nlike <image>?", "images": [encode(RED), encode(BLUE)], "answer": 2}
    sample = read(row)
    assert sample.messages[0]["content"] == [text("Is\n"), IMAGE, text("\nlike "), IMAGE, text("?")]
    assert colors(sample) == [RED, BLUE]
    assert sample.answer == "2"


def test_easyr1_without_placeholder_puts_images_in_front() -> None:
    assert read({"problem": "Find x.", "images": [encode(RED)]}).messages[0]["content"] == [IMAGE, text("Find x.")]


def test_easyr1_format_prompt() -> None:
    template = compile_template("{{ content | trim }} Put the answer in \\boxed{}.\n")
    row = {"problem": "  <image> Find x. ", "images": [encode(RED)], "answer": "1"}
    sample = read(row, template=template)
    assert sample.messages[0]["content"] == [IMAGE, text(" Find x. Put the answer in \\boxed{}.")]
    moved = read(row | {"problem": "Find x."}, template=compile_template("See <image>. {{ content }}"))
    assert moved.messages[0]["content"] == [text("See "), IMAGE, text(". Find x.")]


def test_easyr1_videos(tmp_path: Path) -> None:
    (tmp_path / "v.mp4").write_bytes(b"video")
    row = {"problem": "<video> against <image>", "images": [encode(RED)], "videos": ["v.mp4"]}
    sample = read(row, tmp_path)
    assert sample.messages[0]["content"] == [{"type": "video"}, text(" against "), IMAGE]
    assert [media.kind for media in sample.media] == ["video", "image"]
    assert sample.media[0].path == tmp_path / "v.mp4"


def test_verl_row() -> None:
    row = {
        "data_source": "hiyouga/geometry3k",
        "prompt": [{"role": "system", "content": "Think."}, {"role": "user", "content": "<image>Find x."}],
        "images": [{"bytes": encode(BLUE), "path": None}],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": "48"},
        "extra_info": {"split": "train", "index": 0},
    }
    sample = read(row)
    assert sample.messages[1]["content"] == [IMAGE, text("Find x.")]
    assert sample.answer == "48"
    assert sample.meta["extra_info"] == {"split": "train", "index": 0}
    assert sample.meta["data_source"] == "hiyouga/geometry3k"
    assert set(sample.meta) == {"data_source", "ability", "reward_model", "extra_info"}
    assert colors(read(row | {"images": [{"image": Image.new("RGB", (8, 8), GREEN)}]})) == [GREEN]


# --- literal placeholders


@pytest.mark.parametrize("images", [{}, {"images": []}, {"images": None}, {"image": ""}, {"images": float("nan")}])
def test_placeholder_without_an_image_is_an_error_that_names_the_columns(images: dict[str, Any]) -> None:
    row = {"prompt": "What colour is it? <image>", "image_path": "scenes/7.png", "answer": "red", **images}
    with pytest.raises(UnusableSample) as caught:
        read(row)
    assert caught.value.reason == "placeholder without media"
    said = str(caught.value)
    assert "sample set/3 (set.jsonl:4), column 'prompt': the text 'What colour is it? <image>' has 1 <image>" in said
    assert f"columns there: {', '.join(row)}; 'image_path' may hold them: name it in columns.images" in said
    assert "literal_placeholders: true" in said


def test_columns_that_may_hold_the_image_are_told_by_their_values() -> None:
    for value in (encode(RED), {"bytes": encode(RED), "path": None}, ["a.JPEG", "b.webp"], "data:image/png;base64,xx"):
        assert media_like({"pic": value, "note": "a red.png b", "n": 3, "empty": [], "text": "see a.png."}) == ["pic"]


def test_literal_placeholders_are_words_where_the_source_says_so() -> None:
    asked = "What does the <image> tag, <video> or <|image_pad|> do?"
    sample = read({"prompt": asked}, literal_placeholders=True)
    assert (sample.messages, sample.media) == (({"role": "user", "content": asked},), ())
    shown = read({"prompt": asked, "images": [encode(RED)]}, literal_placeholders=True)
    assert shown.messages[0]["content"] == [IMAGE, text(asked)]


def test_placeholders_of_another_kind_or_beside_parts_are_errors() -> None:
    with pytest.raises(UnusableSample, match="has 1 <video> placeholders, but the row gives no video"):
        read({"prompt": "<image> no <video> here", "images": [encode(RED)]})
    row = {"prompt": [{"role": "user", "content": [IMAGE, text("the <image> tag")]}], "images": [encode(RED)]}
    with pytest.raises(UnusableSample, match="1 <image> placeholders beside 1 image parts"):
        read(row)
    assert read(row, literal_placeholders=True).messages[0]["content"] == [IMAGE, text("the <image> tag")]


@pytest.mark.parametrize(
    ("prompt", "images", "message"),
    [
        ("<image> and <image>", 1, "2 <image> placeholders, the columns give 1"),
        ("<image>", 3, "1 <image> placeholders, the columns give 3"),
        ([{"role": "user", "content": [IMAGE, text("a")]}], 0, "1 image parts without content, the columns give 0"),
        ([{"role": "user", "content": [IMAGE, text("a")]}], 2, "1 image parts without content, the columns give 2"),
        (
            [{"role": "user", "content": [{"type": "image", "bytes": encode(RED)}, text("a")]}],
            1,
            "0 image parts without content and 1 with it, the columns give 1",
        ),
        ([{"role": "assistant", "content": "a"}], 1, "no user turn with content (turns there: none)"),
    ],
)
def test_counts_that_do_not_match_name_sample_and_counts(prompt: Any, images: int, message: str) -> None:
    with pytest.raises(ValueError, match=r"sample set/3 \(set\.jsonl:4\)") as caught:
        read({"prompt": prompt, "images": [encode(RED)] * images})
    assert message in str(caught.value)


# --- values of media columns


def test_every_form_of_an_image(tmp_path: Path) -> None:
    (tmp_path / "red.png").write_bytes(encode(RED))
    uri = "data:image/jpeg;base64," + base64.b64encode(encode(RED, "PNG")).decode()
    forms = [
        {"bytes": encode(RED), "path": "/elsewhere/red.png"},
        {"bytes": None, "path": "red.png"},
        {"path": "red.png"},
        {"url": uri},
        "red.png",
        tmp_path / "red.png",
        encode(RED),
        bytearray(encode(RED)),
        uri,
        Image.new("RGB", (8, 8), RED),
    ]
    for form in forms:
        for value in (form, [form]):
            sample = read({"prompt": "?", "image": value}, tmp_path)
            assert colors(sample) == [RED]
    for mode in ("RGBA", "CMYK", "L", "P", "1", "YCbCr"):
        image = Image.new("RGB", (8, 8), (255, 255, 255)).convert(mode)
        assert colors(read({"prompt": "?", "image": image})) == [(255, 255, 255)]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (["missing.png"], "'missing.png' of sample set/3 (set.jsonl:4), images[0], does not exist"),
        (["../x.png"], "of sample set/3 (set.jsonl:4), images[0], contains '..'"),
        (["https://host/x.png"], "of sample set/3 (set.jsonl:4), images[0], is a remote address"),
        ([{"url": "https://host/x.png"}], "of sample set/3 (set.jsonl:4), images[0], is a remote address"),
        ([None], "images[0] of sample set/3 (set.jsonl:4) is null"),
        (["red.png", 7], "images[1] of sample set/3 (set.jsonl:4) is int"),
        ([["red.png"]], "images[0] of sample set/3 (set.jsonl:4) is a list"),
        ([{}], "images[0] of sample set/3 (set.jsonl:4) names no content"),
        ([{"path": "red.png", "url": "red.png"}], "images[0] of sample set/3 (set.jsonl:4) names ['path', 'url']"),
        ([{"path": "red.png", "max_pixels": 9}], "images[0] of sample set/3 (set.jsonl:4) has keys ['max_pixels']"),
        (["data:image/png;base64,%%"], "images[0] of sample set/3 (set.jsonl:4) is not valid base64"),
        ([{"base64": "%%"}], "images[0] of sample set/3 (set.jsonl:4) is not valid base64"),
        ([""], "is no usable file name"),
    ],
)
def test_bad_media_values_name_the_sample(tmp_path: Path, value: Any, message: str) -> None:
    (tmp_path / "red.png").write_bytes(encode(RED))
    with pytest.raises(ValueError, match="set/3") as caught:
        read({"prompt": "?", "images": value}, tmp_path)
    assert message in str(caught.value)


def test_media_path_without_root_names_the_setting() -> None:
    with pytest.raises(
        ValueError,
        match=r"sample set/3 \(set\.jsonl:4\), image\[0\],: no media folder is declared; set data\.media\.root",
    ):
        read({"prompt": "?", "image": "red.png"})


# --- columns


def test_column_overrides() -> None:
    row = {
        "q": "Which?",
        "photo": encode(RED),
        "label": "red",
        "answer": "not this",
        "prompt": "nor",
        "image": b"x",
    }
    sample = read(row, columns=Columns(prompt="q", images="photo", answer="label"))
    assert sample.messages[0]["content"] == [IMAGE, text("Which?")]
    assert (colors(sample), sample.answer) == ([RED], "red")
    assert dict(sample.meta) == {"answer": "not this", "prompt": "nor", "image": "<1 bytes>"}
    nested = read({"prompt": "?", "extra": {"a": {"b": "deep"}}}, columns=Columns(answer="extra.a.b"))
    assert nested.answer == "deep"


def test_missing_column_lists_what_is_there() -> None:
    with pytest.raises(ValueError, match=r"set/3 \(set\.jsonl:4\) has no column 'lable' \(columns\.answer\)") as e:
        read({"prompt": "?", "label": "red"}, columns=Columns(answer="lable"))
    assert "columns there: label, prompt; did you mean 'label'?" in str(e.value)
    for row in ({"text": "?", "b": 1}, {"prompt": None, "b": 1}, {"prompt": "  ", "b": 1}, {"prompt": [], "b": 1}):
        with pytest.raises(ValueError, match=r"set/3 \(set\.jsonl:4\) has no prompt \(columns there: .*b\)"):
            read(row)


def test_one_column_for_two_parts_and_two_filled_media_columns_are_refused() -> None:
    with pytest.raises(ValueError, match="'text' cannot play two parts"):
        Columns(prompt="text", answer="text")
    row = {"prompt": "?", "image": encode(RED), "images": [encode(RED)]}
    with pytest.raises(ValueError, match=r"set/3.*both images and image; say in columns\.images"):
        read(row)
    assert len(read(row, columns=Columns(images="images")).media) == 1
    assert len(read(row | {"images": []}).media) == 1


def test_answers_become_text() -> None:
    for value, expected in (
        ("7", "7"),
        (7, "7"),
        (0.5, "0.5"),
        (True, "true"),
        (["a", "é"], "a"),
        ([["a"], ["é"]], '[["a"], ["é"]]'),
        (None, None),
        (np.int64(3), "3"),
    ):
        assert read({"prompt": "?", "answer": value}).answer == expected
    assert read({"prompt": "?", "answer": None, "solution": "s"}).answer == "s"


def test_meta_can_be_held_by_json() -> None:
    row = {
        "prompt": "?",
        "when": datetime.date(2020, 1, 2),
        "price": Decimal("1.50"),
        "blob": b"abc",
        "array": np.arange(3),
        "picture": Image.new("RGB", (4, 5)),
        "nested": {"a": [np.float64(0.5), {"b": (1, None)}]},
    }
    assert json.loads(json.dumps(dict(read(row).meta))) == {
        "when": "2020-01-02",
        "price": "1.50",
        "blob": "<3 bytes>",
        "array": [0, 1, 2],
        "picture": "<image 4x5>",
        "nested": {"a": [0.5, {"b": [1, None]}]},
    }


# --- system prompt, template, malformed messages


def test_system_prompt_is_put_first_and_replaces() -> None:
    assert [m["role"] for m in read({"prompt": "?"}, system="Think.").messages] == ["system", "user"]
    own = {"prompt": [{"role": "system", "content": "Own."}, {"role": "user", "content": "?"}]}
    assert read(own, system="Think.").messages[0] == {"role": "system", "content": "Think."}
    assert read(own).messages[0]["content"] == "Own."


def test_template_reaches_the_last_user_turn_and_other_columns() -> None:
    template = compile_template("{{ content }} Options: {{ row.options | join(', ') }}")
    row = {
        "prompt": [{"role": "user", "content": "One."}, {"role": "user", "content": [IMAGE, text("Two.")]}],
        "images": [encode(RED)],
        "options": ["a", "b"],
    }
    sample = read(row, template=template)
    assert sample.messages[0]["content"] == "One."
    assert sample.messages[1]["content"] == [IMAGE, text("Two. Options: a, b")]
    del row["options"]
    with pytest.raises(ValueError, match=r"set/3.*prompt template fails.*options"):
        read(row, template=template)


def test_template_does_not_interpret_the_data_and_is_sandboxed() -> None:
    template = compile_template("{{ content }}!")
    assert read({"prompt": "{{ 7 * 7 }}"}, template=template).messages[0]["content"] == "{{ 7 * 7 }}!"
    for attack in ("{{ content.__class__.__mro__ }}", "{{ row.update({'a': 1}) }}{{ content }}"):
        with pytest.raises(ValueError, match="prompt template fails"):
            read({"prompt": "?"}, template=compile_template(attack))


def test_template_that_loses_the_question_or_does_not_parse_is_refused() -> None:
    for source, message in (("Answer!", "the question is lost"), ("{{ content", "does not parse")):
        with pytest.raises(ValueError, match=message):
            compile_template(source)
    parts = [{"role": "user", "content": [text("a"), text("b")]}]
    with pytest.raises(ValueError, match=r"set/3.*one text in the last user turn, which has 2"):
        read({"prompt": parts}, template=compile_template("{{ content }}"))
    with pytest.raises(ValueError, match=r"set/3.*needs a user turn"):
        read({"prompt": [{"role": "system", "content": "a"}]}, template=compile_template("{{ content }}"))


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (7, "text or chat messages are wanted as prompt, got int"),
        (["hello"], "message 0 is no {role, content} mapping"),
        ([{"content": "a"}], "message 0 is no {role, content} mapping"),
        ([{"role": "user", "content": None}], "message 0 has content None"),
        ([{"role": "user", "content": [{"type": "audio"}]}], "message 0, part 0 has type 'audio'"),
        ([{"role": "user", "content": [{"type": "text"}]}], "message 0, part 0 is text without a text"),
        ([{"role": "user", "content": [7]}], "message 0, part 0 is int"),
        ([{"role": "user", "content": [{"type": "image", "min_pixels": 4}]}], "has keys ['min_pixels']"),
    ],
)
def test_malformed_messages_name_the_place(prompt: Any, message: str) -> None:
    with pytest.raises(ValueError, match=r"sample set/3 \(set\.jsonl:4\)") as caught:
        read({"prompt": prompt})
    assert message in str(caught.value)
