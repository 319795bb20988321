"""Mathematics data sets: reference answers out of rows in the public formats, splits, repetitions, wrong files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmcredit.answers.item import RewardItem
from mmcredit.components import build, lookup, page
from mmcredit.data.dropped import UnusableSample
from mmcredit.data.media import MediaLimits
from mmcredit.data.sources.math_formats import FORMATS, after_hashes, as_is, joined, last_box
from mmcredit.data.sources.math_sets import MathSamples

GSM8K = [
    {
        "question": "Natalia sold clips to 48 friends in April, and half as many in May. How many altogether?",
        "answer": "She sold 48/2 = <<48/2=24>>24 clips in May.\nShe sold 48+24 = <<48+24=72>>72 clips.\n#### 72",
    },
    {"question": "A house costs 1,500 times 1,000 dollars. What does it cost?", "answer": "Multiply.\n#### 1,500,000"},
    {"question": "It was 3 degrees and fell by 5. What is it now?", "answer": "3-5=<<3-5=-2>>-2\n#### -2"},
]
MATH = [
    {
        "problem": "Compute $\\frac{1}{2}+\\frac{1}{3}$.",
        "level": "Level 2",
        "type": "Prealgebra",
        "solution": "First, $\\boxed{\\text{no}}$. The sum is $\\boxed{\\frac{5}{6}}$.",
    },
    {"problem": "Find the set.", "level": "Level ?", "type": "Algebra", "solution": "It is \\fbox{$\\{1,2\\}$}."},
    {"problem": "What is 1+1?", "level": "Level 1", "type": "Algebra", "solution": "Clearly $1+1 = \\boxed 2$."},
]
MATH_500 = [
    {
        "problem": "Convert the point $(0,3)$ to polar coordinates.",
        "solution": "We get $\\boxed{\\left( 3, \\frac{\\pi}{2} \\right)}.$",
        "answer": "\\left( 3, \\frac{\\pi}{2} \\right)",
        "subject": "Precalculus",
        "level": 2,
        "unique_id": "test/precalculus/807.json",
    }
]
HEAD = (
    "Solve the following math problem step by step. The last line of your response should be of the form Answer: "
    "$Answer (without quotes) where $Answer is the answer to the problem.\n\n"
)
TAIL = '\n\nRemember to put your answer on its own line after "Answer:".'


def dapo(problem: str, truth: str, index: str) -> dict[str, Any]:
    return {
        "data_source": "math_dapo",
        "prompt": [{"content": HEAD + problem + TAIL, "role": "user"}],
        "ability": "MATH",
        "reward_model": {"ground_truth": truth, "style": "rule-lighteval/MATH_v2"},
        "extra_info": {"index": index},
    }


OLYMPIAD = {
    "id": 1606,
    "question": "Find all $x$.",
    "solution": ["So $x=2$ or $x=-3$."],
    "final_answer": ["$2$", "$-3$"],
    "context": "Let $x$ be real.",
    "image_1": None,
    "modality": "Text-only",
    "difficulty": "Competition",
    "is_multiple_answer": True,
    "unit": None,
    "answer_type": "Numerical",
    "error": None,
    "question_type": "Open-ended",
    "subfield": "Algebra",
    "subject": "Math",
    "language": "English",
}


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def load(name: str, path: Path, **fields: Any) -> MathSamples:
    source = build("source", {"math_set": {"name": name, "path": str(path), **fields}})
    found = source.load(MediaLimits())  # type: ignore[attr-defined]
    assert isinstance(found, MathSamples)
    return found


def asked(samples: MathSamples) -> list[tuple[str, str | None]]:
    return [(str(s.messages[0]["content"]), s.answer) for s in samples]


# --- extraction


def test_reference_answers_by_hand() -> None:
    assert [after_hashes(row["answer"]) for row in GSM8K] == ["72", "1500000", "-2"]
    assert after_hashes("no marker: 72") is None
    assert after_hashes("#### ") is None
    assert [last_box(row["solution"]) for row in MATH] == ["\\frac{5}{6}", "$\\{1,2\\}$", "2"]
    assert last_box("no box") is None
    assert [as_is(v) for v in (204, 142.0, 0.5, " $x^2$ ", "$1$ or $2$", "", True, None)] == [
        *("204", "142", "0.5", "x^2", "$1$ or $2$"),
        *(None, None, None),
    ]
    assert joined(["$2$", "$-3$"]) == "2, -3"
    assert joined(["$2,-3$"]) == "2,-3"
    assert joined([]) is None


# --- every format


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_gsm8k(tmp_path: Path, suffix: str) -> None:
    samples = load("gsm8k", write(tmp_path / f"train.{suffix}", GSM8K))
    assert [s.answer for s in samples] == ["72", "1500000", "-2"]
    assert samples[0].messages[0]["content"] == GSM8K[0]["question"]
    assert samples[0].meta["solution"].endswith("72 clips.")
    assert "####" not in samples[0].meta["solution"]
    assert samples[0].meta["data_set"] == "gsm8k"
    places = [f"train.jsonl:{i + 1}" if suffix == "jsonl" else f"train.parquet[{i}]" for i in range(3)]
    assert [s.id for s in samples] == places


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_math_and_math_500(tmp_path: Path, suffix: str) -> None:
    samples = load("math", write(tmp_path / f"train.{suffix}", MATH))
    assert [s.answer for s in samples] == ["\\frac{5}{6}", "$\\{1,2\\}$", "2"]
    assert [(s.meta["level"], s.meta["subject"]) for s in samples] == [
        *((2, "Prealgebra"), ("Level ?", "Algebra"), (1, "Algebra")),
    ]
    assert len(load("math", tmp_path, where={"level": [1, 2], "subject": "Algebra"})) == 1
    (sample,) = load("math500", write(tmp_path / f"test.{suffix}", MATH_500))
    assert sample.answer == MATH_500[0]["answer"]
    assert sample.meta["subject"] == "Precalculus"
    assert sample.meta["unique_id"] == "test/precalculus/807.json"


def test_math_as_one_file_per_problem(tmp_path: Path) -> None:
    for split, subject, number, row in (
        ("train", "algebra", 1, 2),
        ("train", "prealgebra", 7, 0),
        ("test", "algebra", 1, 1),
    ):
        path = tmp_path / "MATH" / split / subject / f"{number}.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(MATH[row], indent=1))
    samples = load("math", tmp_path / "MATH", split="train")
    assert {s.id: s.answer for s in samples} == {"train/algebra/1.json": "2", "train/prealgebra/7.json": "\\frac{5}{6}"}
    broken = tmp_path / "MATH" / "train" / "algebra" / "2.json"
    broken.write_text("[1]")
    with pytest.raises(ValueError, match=r"2\.json is a JSON list; an object is wanted"):
        load("math", tmp_path / "MATH", split="train")


def test_dapo_math_with_its_repetitions(tmp_path: Path) -> None:
    rows = [dapo("Find $a$.", "34", "u1"), dapo("Find $b$.\n\nNote $b>0$.", "113", "u2")]
    rows += [dapo("Find $a$.", "34", "u3"), dapo("Find  $a$.", "34", "u4"), dapo("Find $a$.", "35", "u5")]
    path = write(tmp_path / "dapo-math-17k.parquet", rows)
    samples = load("dapo_math_17k", path)
    assert asked(samples) == [("Find $a$.", "34"), ("Find $b$.\n\nNote $b>0$.", "113")]
    assert samples.dropped.counts == {"repeated question": 2, "repeated question, other answer": 1}
    assert samples.dropped.examples["repeated question, other answer"] == ["dapo-math-17k.parquet[4]"]
    assert samples[0].meta["extra_info"] == {"index": "u1"}
    kept = load("dapo_math_17k", path, instruction=True)
    assert asked(kept)[0] == (HEAD + "Find $a$." + TAIL, "34")
    two = dapo("Find $c$.", "1", "u6")
    two["prompt"].append({"content": "And then?", "role": "user"})
    with pytest.raises(UnusableSample, match="one user message") as caught:
        load("dapo_math_17k", write(tmp_path / "two.parquet", [two]))[0]
    assert caught.value.reason == "row malformed"


@pytest.mark.parametrize(
    ("name", "row", "question", "answer"),
    [
        (
            "aime24",
            {"id": 60, "problem": "P", "solution": "S", "answer": "204", "year": "2024"},
            "P",
            "204",
        ),
        ("aime24", {"ID": "2024-II-4", "Problem": "P", "Solution": "S", "Answer": 33}, "P", "33"),
        ("aime24", {"id": 0, "problem": "P", "solution": "\\boxed{204}", "url": "u"}, "P", "204"),
        ("aime24", dapo("P", "204", "0"), "P", "204"),
        ("aime25", {"question": "Q", "answer": "70"}, "Q", "70"),
        ("aime25", {"problem": "P", "answer": "588", "id": "1"}, "P", "588"),
        ("amc", {"id": 0, "problem": "P", "answer": 142.0, "url": "u"}, "P", "142"),
        ("amc", {"id": 0, "question": "Q", "answer": "27.0", "url": "u"}, "Q", "27.0"),
        ("minerva", {"question": "Q", "answer": "1.7e9"}, "Q", "1.7e9"),
        ("minerva", {"problem": "P", "solution": "so \\boxed{4.5e33} erg", "type": "Astronomy"}, "P", "4.5e33"),
        ("olympiadbench", OLYMPIAD, "Let $x$ be real.\n\nFind all $x$.", "2, -3"),
    ],
)
@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_contest_sets(tmp_path: Path, suffix: str, name: str, row: dict[str, Any], question: str, answer: str) -> None:
    (sample,) = load(name, write(tmp_path / f"test-00000-of-00001.{suffix}", [row]), split="test")
    assert (sample.messages[0]["content"], sample.answer) == (question, answer)
    assert sample.messages[0]["role"] == "user"


def test_olympiadbench_rows_that_text_cannot_answer(tmp_path: Path) -> None:
    proof = OLYMPIAD | {"question": "Prove it.", "final_answer": None, "question_type": "Theorem proof"}
    picture = OLYMPIAD | {"question": "See the figure.", "image_1": "iVBOR", "modality": "Multimodal"}
    samples = load("olympiadbench", write(tmp_path / "a.jsonl", [OLYMPIAD, proof, picture]))
    assert samples[0].meta["is_multiple_answer"] is True
    reasons = []
    for index in (1, 2):
        with pytest.raises(UnusableSample) as caught:
            samples[index]
        reasons.append(caught.value.reason)
    assert reasons == ["reference missing", "needs a picture"]
    assert len(load("olympiadbench", tmp_path, where={"answer": "2, -3"})) == 1


def test_the_answers_are_what_the_rewards_read(tmp_path: Path) -> None:
    write(tmp_path / "g" / "train.jsonl", GSM8K)
    write(tmp_path / "m" / "train.jsonl", MATH)
    items = [
        RewardItem(f"so \\boxed{{{text}}}", s.answer)
        for samples, texts in (
            (load("gsm8k", tmp_path / "g"), ("72", "1,500,000", "-2.0")),
            (load("math", tmp_path / "m"), ("5/6", "\\{2, 1\\}", "2")),
        )
        for s, text in zip(samples, texts, strict=True)
    ]
    reward = build("reward", {"math": {"extract": "boxed"}})
    assert reward(items) == [1.0] * 6  # type: ignore[operator]
    number = build("reward", {"number": {"extract": "boxed"}})
    assert number(items[:3]) == [1.0] * 3  # type: ignore[operator]
    assert reward([RewardItem("\\boxed{71}", "72")]) == [0.0]  # type: ignore[operator]


# --- splits


def test_split_of_a_folder(tmp_path: Path) -> None:
    write(tmp_path / "main" / "train-00000-of-00001.parquet", GSM8K[:2])
    write(tmp_path / "main" / "test-00000-of-00001.parquet", GSM8K[2:])
    assert [s.answer for s in load("gsm8k", tmp_path / "main", split="test")] == ["-2"]
    with pytest.raises(ValueError, match="several splits; set split to one of test, train"):
        load("gsm8k", tmp_path / "main")
    with pytest.raises(ValueError, match="no file of split 'validation'; files there: test-00000"):
        load("gsm8k", tmp_path / "main", split="validation")
    write(tmp_path / "socratic" / "test-00000-of-00001.parquet", GSM8K)
    with pytest.raises(ValueError, match="split 'test' lies in several folders"):
        load("gsm8k", tmp_path, split="test")
    with pytest.raises(ValueError, match="no file of split 'train'"):
        load("gsm8k", tmp_path / "main" / "test-00000-of-00001.parquet", split="train")
    assert len(load("gsm8k", write(tmp_path / "gsm8k.jsonl", GSM8K), split="train")) == 3


# --- wrong files


def test_wrong_columns_name_file_row_and_columns(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", [{"prompt": "1+1?", "answer": "2"}])
    with pytest.raises(ValueError, match=r"x\.jsonl:1: gsm8k has its question in column question, .*: prompt, answer"):
        load("gsm8k", path)
    with pytest.raises(
        ValueError, match=r"y\.jsonl:1: math has its answer in column answer or solution.*there: problem"
    ):
        load("math", write(tmp_path / "y.jsonl", [{"problem": "1+1?"}]))
    rows = [
        GSM8K[0],
        {"question": "A?"},
        {"answer": "#### 3"},
        {"question": "B?", "answer": "3"},
        {"question": 7, "answer": "#### 1"},
    ]
    samples = load("gsm8k", write(tmp_path / "z.jsonl", rows))
    assert samples[0].answer == "72"
    expected = [
        (1, "reference missing", r"z\.jsonl:2: no reference answer in answer; columns there: question"),
        (2, "column missing", r"z\.jsonl:3: no 'question'; columns there: answer"),
        (3, "reference missing", r"z\.jsonl:4: no reference answer"),
        (4, "row malformed", r"z\.jsonl:5, column 'question': the question must be text, got 7"),
    ]
    for index, reason, message in expected:
        with pytest.raises(UnusableSample, match=message) as caught:
            samples[index]
        assert caught.value.reason == reason


def test_wrong_settings(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", GSM8K)
    with pytest.raises(ValueError, match="no such data set; did you mean 'gsm8k'"):
        load("gms8k", path)
    with pytest.raises(ValueError, match="math_set knows the columns"):
        load("gsm8k", path, columns={"prompt": "question"})
    with pytest.raises(ValueError, match="no such file"):
        load("gsm8k", tmp_path / "none.jsonl")
    write(tmp_path / "b.parquet", GSM8K)
    with pytest.raises(ValueError, match=r"mixes \.jsonl, \.parquet files"):
        load("gsm8k", tmp_path)
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(ValueError, match="holds no rows"):
        load("gsm8k", tmp_path / "empty.jsonl")
    with pytest.raises(ValueError, match="name is missing"):
        build("source", {"math_set": {"path": str(path)}})


def test_spec_builds_the_source_again_and_the_page_names_the_formats(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", GSM8K)
    source = build("source", {"math_set": {"name": "gsm8k", "path": str(path), "limit": 2}})
    again = build("source", json.loads(json.dumps(source.spec())))
    assert again == source
    text = page(lookup("source", "math_set"))
    assert all(name in text for name in FORMATS)
