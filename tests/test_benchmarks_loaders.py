"""Every loader on rows in the public format, and what it says about rows that are not."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import benchmark_rows as rows
import pytest
from benchmark_rows import jsonl, layout, parquet, png

from mmcredit.components import build, lookup, names
from mmcredit.data.benchmarks.samples import BenchmarkSamples
from mmcredit.data.media import MediaLimits, load_image
from mmcredit.data.sample import Sample
from mmcredit.evaluate.benchmarks.base import BOXED, Benchmark
from mmcredit.evaluate.benchmarks.limited import limited

SHARD = "-00000-of-00001.parquet"


def make(name: str, **fields: Any) -> Benchmark:
    return build("benchmark", {name: fields})  # type: ignore[return-value]


def red(sample: Sample) -> list[int]:
    return [load_image(media, MediaLimits()).getpixel((0, 0))[0] for media in sample.media]  # type: ignore[index]


# Where the files of each benchmark lie in its repository, and the split they hold.
PUBLISHED: dict[str, tuple[str, str, Callable[[], list[dict[str, Any]]]]] = {
    "mathvista": (f"AI4Math--MathVista/data/testmini{SHARD}", "testmini", rows.mathvista),
    "mathverse": ("MathVerse/testmini.parquet", "testmini", rows.mathverse),
    "mathvision": (f"MathLLMs/MathVision/data/test{SHARD}", "test", rows.mathvision),
    "wemath": (f"We-Math/data/testmini{SHARD}", "testmini", rows.wemath),
    "logicvista": (f"LogicVista/data/test{SHARD}", "test", rows.logicvista),
    "mmmu": (f"MMMU/Art/validation{SHARD}", "validation", rows.mmmu),
    "mmmu_pro": (f"MMMU_Pro/vision/test{SHARD}", "vision", lambda: rows.mmmu_pro(True)),
    "dynamath": (
        "DynaMath_Sample/data/sample_variant3-00000-of-00001-0123abcd.parquet",
        "sample_variant3",
        rows.dynamath,
    ),
    "geometry3k": (f"geometry3k/data/test{SHARD}", "test", rows.geometry3k),
    "mmk12": (f"MMK12/data/test{SHARD}", "test", rows.mmk12),
    "virl39k": ("ViRL39K/39Krelease.parquet", "train", rows.virl39k),
    "hallusionbench": (f"HallusionBench/data/image{SHARD}", "image", rows.hallusionbench),
    "mmstar": ("MMStar/mmstar.parquet", "val", rows.mmstar),
    "pope": (f"POPE/data/test{SHARD}", "test", rows.pope),
    "chartqa": (f"ChartQA/data/test{SHARD}", "test", rows.chartqa),
}


def published(root: Path, name: str, data: list[dict[str, Any]] | None = None) -> BenchmarkSamples:
    place, split, made = PUBLISHED[name]
    parquet(root / place, made() if data is None else data)
    if name == "virl39k":
        for n, letter in enumerate("ab"):
            (root / "ViRL39K/images").mkdir(exist_ok=True)
            (root / f"ViRL39K/images/{letter}.png").write_bytes(png(n + 1))
    return make(name, split=split).load(root)


def test_every_benchmark_is_covered_here() -> None:
    own = [name for name in names("benchmark") if lookup("benchmark", name).__module__.startswith("mmcredit.")]
    assert sorted(PUBLISHED) == own


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_public_files_load(tmp_path: Path, name: str) -> None:
    samples = published(tmp_path, name)
    made = PUBLISHED[name][2]()
    assert len(samples) == len(made)
    ids = [samples.id(i) for i in range(len(samples))]
    assert len(set(ids)) == len(ids)
    assert all(id.startswith(f"{name}/{PUBLISHED[name][1]}/") for id in ids)
    for i, sample in enumerate(samples):
        assert sample.id == ids[i]
        assert sample.meta == samples.meta(i)
        assert json.loads(json.dumps(dict(sample.meta))) == sample.meta
        assert len(red(sample)) == layout(sample).count("[i]")
        assert "<image" not in layout(sample)
        assert sample.answer is not None
    # the `rl` prompt of the same rows
    boxed = make(name, split=PUBLISHED[name][1], scoring="rl").load(tmp_path)
    assert layout(boxed[0]).endswith(BOXED)


def test_pictures_and_prompts(tmp_path: Path) -> None:
    vista = published(tmp_path, "mathvista")
    assert layout(vista[0]) == "[i]Hint: ...\nQuestion: Which?"
    assert (vista[0].answer, vista.meta(0)["letter"], red(vista[1])) == ("dog", "B", [1])
    boxed = make("mathvista", scoring="rl").load(tmp_path)
    assert (boxed[0].answer, boxed[1].answer) == ("B", "1.2")
    assert layout(boxed[0]).startswith("[i]Which?\nChoices:\n(A) cat\n(B) dog\n\n")
    assert "(Unit: cm)" in layout(boxed[1])

    vision = published(tmp_path, "mathvision")
    assert "How many? [i] and \n(A) 1\n(B) 2\n(C) 3\n" in layout(vision[0])

    geometry = published(tmp_path, "geometry3k")
    assert layout(geometry[0]) == f"[i]Find y.\n\n{BOXED}"

    virl = published(tmp_path, "virl39k")
    assert (virl[0].answer, red(virl[0])) == ("\\frac{1}{2}", [1, 2])
    assert layout(virl[0]).startswith("[i]\nCompare with [i].")
    assert virl.meta(0)["PassRate_7BTrained"] == 0.5

    star = published(tmp_path, "mmstar")
    assert layout(star[0]).endswith("D: tree\nAnswer with the option's letter from the given choices directly.")
    assert layout(published(tmp_path, "pope")[0]).endswith("Answer the question using a single word or phrase.")
    assert layout(published(tmp_path, "chartqa")[0]).endswith("Answer the question with a single word.")


def test_mmmu_interleaves_its_pictures(tmp_path: Path) -> None:
    samples = published(tmp_path, "mmmu")
    # <image 2>, <image 1> in the question, <image 3> in an option; media follow the placeholders
    assert red(samples[0]) == [2, 1, 3]
    assert layout(samples[0]).startswith(
        "Compare [i] with [i].\nA. the same\nB. [i]\nC. it's different\n\nAnswer with the option's letter"
    )
    assert samples[0].answer == "B"
    assert (samples.meta(0)["subject"], samples.meta(0)["domain"]) == ("Art", "Art and Design")
    assert red(samples[1]) == [1]
    assert samples.meta(1)["answers"] == ["3.14", "pi"]
    assert layout(samples[1]).endswith("Answer the question using a single word or phrase.")
    # a picture that no placeholder mentions goes in front, one that is mentioned twice is shown twice
    data = rows.mmmu()
    data[0] |= {"question": "Look at <image 1>, then at <image 1>.", "options": "['a', 'b']"}
    again = published(tmp_path / "again", "mmmu", data)
    assert red(again[0]) == [2, 3, 1, 1]
    assert layout(again[0]).startswith("[i][i]Look at [i], then at [i].")


def test_mmmu_merges_its_subjects_and_hides_test_answers(tmp_path: Path) -> None:
    for subject in ("Art", "Music"):
        parquet(tmp_path / f"MMMU/{subject}/validation{SHARD}", rows.mmmu(f"validation_{subject}_1"))
        hidden = [{**row, "answer": "?"} for row in rows.mmmu(f"test_{subject}_1")]
        parquet(tmp_path / f"MMMU/{subject}/test{SHARD}", hidden)
    samples = make("mmmu").load(tmp_path)
    assert [samples.meta(i)["subject"] for i in range(4)] == ["Art", "Art", "Music", "Music"]
    hidden_split = make("mmmu", split="test")
    assert hidden_split.load(tmp_path)[0].answer is None
    thousand = rows.mmmu()
    thousand[1]["answer"] = "1,000"
    assert published(tmp_path / "thousand", "mmmu", thousand).meta(1)["answers"] == ["1,000"]
    with pytest.raises(ValueError, match="mmmu hides the answers of split 'test'"):
        hidden_split.score(hidden_split.load(tmp_path)[0], "A")


def test_configurations_do_not_mix(tmp_path: Path) -> None:
    parquet(tmp_path / f"MMMU_Pro/vision/test{SHARD}", rows.mmmu_pro(True))
    parquet(tmp_path / f"MMMU_Pro/standard (10 options)/test{SHARD}", rows.mmmu_pro(False))
    standard = make("mmmu_pro", split="standard10").load(tmp_path)
    assert layout(standard[0]).startswith("See [i].\nA. option 0\nB. option 1")
    vision = make("mmmu_pro", split="vision").load(tmp_path)
    assert layout(vision[0]).startswith("[i]Write out the multiple-choice question in the image")
    assert "option 0" not in layout(make("mmmu_pro", scoring="rl").load(tmp_path)[0])
    with pytest.raises(ValueError, match=r"mmmu_pro: no file of split 'standard4'.*standard \(4 options\)"):
        make("mmmu_pro", split="standard4").load(tmp_path)
    parquet(tmp_path / f"POPE/data/test{SHARD}", rows.pope())
    parquet(tmp_path / f"POPE/Full/random{SHARD}", [{**row, "category": None} for row in rows.pope()][:2])
    assert len(make("pope").load(tmp_path)) == 20
    random = make("pope", split="random").load(tmp_path)
    assert (len(random), random.meta(0)["category"]) == (2, "random")


def test_parts_of_a_split(tmp_path: Path) -> None:
    published(tmp_path, "mathverse")
    choice = make("mathverse", question_types="multi-choice", versions=["Vision Only", "Text Lite"]).load(tmp_path)
    assert [choice.meta(i)["problem_version"] for i in range(len(choice))] == ["Text Lite", "Vision Only"]
    assert layout(make("mathverse", query="cot").load(tmp_path)[0]) == "[i]reason: Find x. Text Dominant"
    with pytest.raises(ValueError, match="no version 'Vision only'; did you mean 'Vision Only'"):
        make("mathverse", versions=["Vision only"])
    for n in (1, 2, 10):
        parquet(tmp_path / f"DynaMath_Sample/data/sample_variant{n}{SHARD}", rows.dynamath())
    every = make("dynamath").load(tmp_path)
    assert sorted({every.meta(i)["variant"] for i in range(len(every))}) == ["1", "10", "2"]
    assert len(every) == 9


def test_official_json_files(tmp_path: Path) -> None:
    # MathVista: an object of objects, pictures as paths below the repository
    keyed = {}
    for n, row in enumerate(rows.mathvista()):
        del row["decoded_image"], row["query"]
        keyed[row["pid"]] = row
        (tmp_path / "MathVista/images").mkdir(parents=True, exist_ok=True)
        (tmp_path / f"MathVista/images/{n}.jpg").write_bytes(png(10 + n))
    (tmp_path / "MathVista/data").mkdir()
    (tmp_path / "MathVista/data/testmini.json").write_text(json.dumps(keyed))
    vista = make("mathvista").load(tmp_path)
    assert [red(sample) for sample in vista] == [[10], [11], [12]]
    assert layout(vista[1]) == (
        "[i]Hint: Please answer the question requiring a floating-point number with one decimal place and provide the "
        "final value, e.g., 1.2, 1.3, 1.4, at the end.\nQuestion: How long? (Unit: cm)"
    )
    # HallusionBench: one list of both parts; rows without a figure have no file name
    data = rows.hallusionbench()
    for row in data:
        del row["image"]
        if row["filename"]:
            file = tmp_path / "hallusion" / row["filename"]
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(png(7))
    (tmp_path / "hallusion/HallusionBench.json").write_text(json.dumps(data))
    all_rows = make("hallusionbench", split="all").load(tmp_path / "hallusion")
    assert [len(sample.media) for sample in all_rows] == [1, 1, 1, 1, 0, 1]
    # JSON lines with base64 pictures, bare and as data URI; the root is the file itself
    text = base64.b64encode(png(42)).decode()
    lines = [{**rows.chartqa()[0], "image": text}, {**rows.chartqa()[1], "image": f"data:image/png;base64,{text}"}]
    file = jsonl(tmp_path / "charts.jsonl", lines)
    charts = make("chartqa").load(file)
    assert [red(sample) for sample in charts] == [[42], [42]]
    assert charts.id(0) == "chartqa/test/charts.jsonl:1"


def test_the_hugging_face_cache_layout(tmp_path: Path) -> None:
    snapshot = tmp_path / "datasets--lmms-lab--ChartQA/snapshots/0123/data"
    blob = parquet(tmp_path / "datasets--lmms-lab--ChartQA/blobs/abc", rows.chartqa())
    snapshot.mkdir(parents=True)
    (snapshot / f"test{SHARD}").symlink_to(blob)
    assert len(make("chartqa").load(tmp_path)) == 2


def test_repeated_ids_are_told_apart(tmp_path: Path) -> None:
    data = [*rows.pope()[:1], *rows.pope()[:1]]
    samples = published(tmp_path, "pope", data)
    assert [samples.id(0), samples.id(1)] == ["pope/test/0", "pope/test/0~2"]


# --- what is wrong with files and rows --------------------


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_a_missing_column_names_file_row_and_column(tmp_path: Path, name: str) -> None:
    form = make(name, split=PUBLISHED[name][1]).format
    data = PUBLISHED[name][2]()
    column = next(c for c in form.columns if c.required)
    lacking = [{k: v for k, v in row.items() if k not in (column.name, *column.aliases)} for row in data]
    with pytest.raises(ValueError, match=rf"{Path(PUBLISHED[name][0]).name}\[0\]: {name} needs column '{column.name}'"):
        published(tmp_path, name, lacking)


@pytest.mark.parametrize(
    ("name", "row", "change", "message"),
    [
        ("mathvista", 1, {"answer": None}, r"\[1\], column 'answer': a value is wanted, this one is None"),
        (
            "mathvista",
            0,
            {"question_type": "multichoice"},
            r"\[0\], column 'question_type'.*did you mean 'multi_choice'",
        ),
        ("mathvista", 2, {"answer_type": "int"}, r"\[2\], column 'answer_type'"),
        ("mathverse", 0, {"answer": "12"}, r"\[0\], column 'answer': a letter is wanted"),
        ("mathverse", 2, {"question": ""}, r"\[2\], column 'question': empty"),
        ("mathverse", 1, {"problem_version": "Text"}, r"\[1\], column 'problem_version'"),
        ("wemath", 3, {"key": "4steps_1"}, r"\[3\], column 'key'"),
        ("wemath", 3, {"answer": "(A)"}, r"\[3\], column 'answer'"),
        ("mmmu", 1, {"question_type": "closed"}, r"\[1\], column 'question_type'"),
        ("mmmu", 0, {"question": "See <image 9>."}, r"\[0\], column 'question': mentions image_9"),
        ("mmmu", 0, {"options": "[]"}, r"\[0\], column 'options'"),
        ("mmmu_pro", 0, {"options": ""}, r"\[0\], column 'options'"),
        ("dynamath", 0, {"ground_truth": "four"}, r"\[0\], column 'ground_truth': a number is wanted"),
        ("virl39k", 0, {"answer": "\\boxed{}"}, r"\[0\], column 'answer': an empty box"),
        ("hallusionbench", 2, {"gt_answer": "2"}, r"\[2\], column 'gt_answer'"),
        ("hallusionbench", 2, {"visual_input": "3"}, r"\[2\], column 'visual_input'"),
        ("mmstar", 1, {"answer": "E"}, r"\[1\], column 'answer'"),
        ("pope", 5, {"answer": "maybe"}, r"\[5\], column 'answer': yes or no is wanted"),
        ("chartqa", 1, {"answer": "  "}, r"\[1\], column 'answer': a value is wanted"),
        ("geometry3k", 0, {"problem": None}, r"\[0\], column 'problem'"),
    ],
)
def test_wrong_values_name_file_row_and_column(
    tmp_path: Path, name: str, row: int, change: dict[str, Any], message: str
) -> None:
    data = PUBLISHED[name][2]()
    data[row] |= change
    with pytest.raises(ValueError, match=rf"{Path(PUBLISHED[name][0]).name}{message}"):
        published(tmp_path, name, data)


def test_nan_and_wrong_kinds_of_answers(tmp_path: Path) -> None:
    data = rows.chartqa()
    file = parquet(
        tmp_path / "a/test.parquet",
        [{**row, "answer": value} for row, value in zip(data, (1.5, float("nan")), strict=True)],
    )
    with pytest.raises(ValueError, match=r"test.parquet\[1\], column 'answer': a value is wanted, this one is nan"):
        make("chartqa").load(file)
    numbers = parquet(tmp_path / "b/test.parquet", [{**row, "answer": 3} for row in data])
    assert make("chartqa").load(numbers)[0].answer == "3"
    lists = jsonl(tmp_path / "c/test.jsonl", [{**data[0], "image": "x.png", "answer": ["3"]}])
    with pytest.raises(ValueError, match=r"test.jsonl:1, column 'answer': text or a number is wanted, got list"):
        make("chartqa").load(lists)
    gone = jsonl(
        tmp_path / "d/test.jsonl",
        [{**data[0], "image": "x.png"}, {"type": "human_test", "question": "?", "image": "x"}],
    )
    with pytest.raises(ValueError, match=r"test.jsonl:2, column 'answer': a value is wanted, this one is missing"):
        make("chartqa").load(gone)


def test_missing_and_broken_pictures(tmp_path: Path) -> None:
    data = rows.chartqa()
    data[1]["image"] = None
    samples = published(tmp_path / "null", "chartqa", data)
    assert red(samples[0]) == [1]
    with pytest.raises(
        ValueError, match=r"\[1\], column 'image': a picture is wanted, this one is None \(sample chartqa/"
    ):
        samples[1]
    (tmp_path / "paths").mkdir()
    lines = [{**data[0], "image": name} for name in ("gone.png", "../secret.png", "https://example.org/a.png")]
    paths = make("chartqa").load(jsonl(tmp_path / "paths/test.jsonl", lines))
    for number, reason in enumerate(("does not exist", r"contains '\.\.'", "remote address")):
        with pytest.raises(ValueError, match=rf"test.jsonl:{number + 1}, column 'image': .*{reason}"):
            paths[number]
    broken = published(
        tmp_path / "broken", "chartqa", [{**data[0], "image": {"bytes": b"no picture", "path": "a.png"}}]
    )
    with pytest.raises(ValueError, match=r"'a.png' of sample chartqa/test/.* is damaged"):
        red(broken[0])
    more = published(tmp_path / "more", "geometry3k", [{**rows.geometry3k()[0], "problem": "<image> and <image>"}])
    with pytest.raises(ValueError, match=r"parquet\[0\]: the prompt has 2 <image> placeholders, the row gives 1 pic"):
        more[0]
    fewer = published(
        tmp_path / "fewer", "geometry3k", [{**rows.geometry3k()[0], "images": [rows.struct(1), rows.struct(2)]}]
    )
    assert layout(fewer[0]).startswith("[i][i]Find y.")


def test_missing_files_and_splits(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="mathvista has no split 'tset'; did you mean 'test'"):
        make("mathvista", split="tset")
    with pytest.raises(ValueError, match=r"data root '.*nowhere' of pope: no such file or folder"):
        make("pope").load(tmp_path / "nowhere")
    parquet(tmp_path / "pope/data/train.parquet", rows.pope())
    with pytest.raises(ValueError, match=r"pope: no file of split 'test' .*pope/data/train.parquet"):
        make("pope").load(tmp_path)
    # another benchmark's file of the same split is not taken
    parquet(tmp_path / f"geometry3k/data/test{SHARD}", rows.geometry3k())
    with pytest.raises(ValueError, match="no file of split 'test'"):
        make("chartqa").load(tmp_path)
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(ValueError, match=r"pope: .*empty.jsonl holds no rows"):
        make("pope").load(tmp_path / "empty.jsonl")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(ValueError, match="bad.parquet cannot be read as Parquet"):
        make("pope").load(tmp_path / "bad.parquet")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(ValueError, match="bad.json is not valid JSON"):
        make("pope").load(tmp_path / "bad.json")


def test_damaged_references_are_flagged_not_dropped(tmp_path: Path) -> None:
    samples = published(tmp_path, "logicvista")
    flags = [samples.meta(i).get("flags") for i in range(5)]
    assert flags == [None, None, ["damaged reference"], ["damaged reference"], None]
    data = rows.mathvista()
    data[0]["answer"] = "bird"
    other = published(tmp_path / "vista", "mathvista", data)
    assert other.meta(0)["flags"] == ["reference is not among the choices"]


def test_a_limit_takes_whole_groups(tmp_path: Path) -> None:
    samples = published(tmp_path, "wemath")  # five problems of 3 questions, three of 4
    benchmark, order = make("wemath"), list(range(len(samples)))[::-1]
    chosen = limited(benchmark, samples, order, 10)
    problems = [samples.meta(place)["ID"] for place in chosen]
    assert problems == ["6"] * 4 + ["7"] * 4  # a third one of 4 or 3 does not fit
    assert chosen == sorted(chosen)
    assert [samples.meta(p)["ID"] for p in limited(benchmark, samples, order, 11)] == ["4"] * 3 + problems
    with pytest.raises(ValueError, match="--limit 2: wemath asks its questions in groups, the smallest of 3"):
        limited(benchmark, samples, order, 2)
    alone = published(tmp_path, "mmk12")
    assert limited(make("mmk12"), alone, [1, 0], 1) == [1]


def test_a_figure_joins_its_questions(tmp_path: Path) -> None:
    samples = published(tmp_path, "hallusionbench")
    chosen = limited(make("hallusionbench"), samples, list(range(len(samples))), len(samples) - 1)
    sets = [(m["category"], m["subcategory"], m["set_id"]) for m in map(samples.meta, range(len(samples)))]
    left_out = {sets[p] for p in range(len(samples)) if p not in chosen}
    assert len(chosen) < len(samples)
    assert not left_out & {sets[p] for p in chosen}
