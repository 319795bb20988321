"""Rows of every benchmark in its public format, with real PNG bytes, and the folders in which they are published."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from mmcredit.components import build
from mmcredit.data.sample import Sample
from mmcredit.evaluate.benchmarks.base import Benchmark
from mmcredit.evaluate.benchmarks.referee import Referee
from mmcredit.evaluate.benchmarks.scoring import Scored


def png(value: int = 0, size: tuple[int, int] = (8, 8)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (value, 0, 0)).save(buffer, format="PNG")
    return buffer.getvalue()


def struct(value: int = 0, size: tuple[int, int] = (8, 8)) -> dict[str, Any]:
    """A picture as Hugging Face `datasets` stores it."""
    return {"bytes": png(value, size), "path": f"{value}.png"}


def parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def load(
    tmp_path: Path, name: str, data: list[dict[str, Any]], stem: str = "test", **fields: Any
) -> tuple[Benchmark, Any]:
    benchmark: Benchmark = build("benchmark", {name: fields})  # type: ignore[assignment]
    return benchmark, benchmark.load(parquet(tmp_path / f"{name}/{stem}.parquet", data))


def results(benchmark: Benchmark, samples: Any, responses: list[str], referee: Referee | None = None) -> list[Scored]:
    scores = benchmark.scores(list(zip(samples, responses, strict=True)), referee)
    return [Scored.of(sample, score) for sample, score in zip(samples, scores, strict=True)]


def layout(sample: Sample) -> str:
    """The user's turn with [i] where a picture stands."""
    content = sample.messages[-1]["content"]
    if isinstance(content, str):
        return content
    return "".join("[i]" if part["type"] == "image" else part["text"] for part in content)


def mathvista() -> list[dict[str, Any]]:
    rest: dict[str, Any] = {"unit": None, "precision": None}
    meta = {"task": "tqa", "skills": ["a", "b"], "source": "s", "category": "c", "grade": "g", "context": "x"}
    rows = [
        {"pid": "1", "question": "Which?", "choices": ["cat", "dog"], "answer": "dog", "question_type": "multi_choice"},
        {"pid": "2", "question": "How long?", "choices": None, "answer": "1.2", "question_type": "free_form"},
        {"pid": "3", "question": "How many?", "choices": None, "answer": "3", "question_type": "free_form"},
    ]
    kinds = ["text", "float", "integer"]
    for i, (row, kind) in enumerate(zip(rows, kinds, strict=True)):
        row |= {**rest, "answer_type": kind, "metadata": meta, "image": f"images/{i}.jpg", "decoded_image": struct(i)}
        row["query"] = f"Hint: ...\nQuestion: {row['question']}"
    rows[1] |= {"precision": 1.0, "unit": "cm"}
    return rows


def mathverse() -> list[dict[str, Any]]:
    rows = []
    versions = ("Text Dominant", "Text Lite", "Vision Intensive", "Vision Dominant", "Vision Only")
    for n, version in enumerate(versions):
        for kind, answer in (("multi-choice", "B"), ("free-form", "2\\sqrt{3}")):
            question = "" if version == "Vision Only" else f"Find x. {version}"
            rows.append(
                {
                    "sample_index": str(len(rows)),
                    "problem_index": "1" if kind == "multi-choice" else "2",
                    "problem_version": version,
                    "question": question,
                    "image": struct(n),
                    "answer": answer,
                    "question_type": kind,
                    "metadata": {"split": "testmini", "source": "s", "subject": "Plane", "subfield": "Length"},
                    "query_wo": f"directly: {question}",
                    "query_cot": f"reason: {question}",
                    "question_for_eval": "Find x.",
                }
            )
    return rows


def mathvision() -> list[dict[str, Any]]:
    return [
        {
            "id": "4",
            "question": "How many? <image1> and <image2>",
            "options": ["1", "2", "3"],
            "image": "images/4.jpg",
            "decoded_image": struct(4),
            "answer": "B",
            "solution": None,
            "level": 2,
            "subject": "counting",
        },
        {
            "id": "5",
            "question": "What is the length?\n<image1>",
            "options": [],
            "image": "images/5.jpg",
            "decoded_image": struct(5),
            "answer": "0.5",
            "solution": None,
            "level": 5,
            "subject": "algebra",
        },
    ]


def wemath() -> list[dict[str, Any]]:
    """Eight problems in the order of the worked example: steps right | composite right, the answers being A."""
    rows = []
    for number, steps in enumerate((2, 2, 2, 2, 2, 3, 3, 3)):
        for key in [f"{steps}steps_{part}" for part in (*range(1, steps + 1), "multi")]:
            rows.append(
                {
                    "ID": str(number),
                    "split": "testmini",
                    "knowledge concept": "area",
                    "question": f"Question {key}?",
                    "option": "A. 1; B. 2; C. 3; D. 4; E. No correct answer",
                    "answer": "A",
                    "image_path": struct(number),
                    "key": key,
                    "question number": "1",
                    "knowledge concept description": "...",
                }
            )
    return rows


def logicvista() -> list[dict[str, Any]]:
    rows = []
    for n, (answer, skill) in enumerate(
        (("C", "inductive"), ("A, C", "spatial"), ("", "numerical"), ("3", "deductive"), ("F", "mechanical"))
    ):
        rows.append(
            {"id": f"v1_{n}", "question": "Which? A, B, C?", "answer": answer, "reasoning": "", "skill": f"['{skill}']"}
        )
        rows[-1] |= {"image": struct(n), "broad_capability": "b", "specific_capability": "s"}
    return rows


def mmmu(first: str = "validation_Art_1") -> list[dict[str, Any]]:
    images = {f"image_{n}": struct(n) if n < 4 else None for n in range(1, 8)}
    common = {"explanation": "", "img_type": "['Painting']", "topic_difficulty": "Easy", "subfield": "Drawing"}
    return [
        {
            "id": first,
            "question": "Compare <image 2> with <image 1>.",
            "options": "['the same', \"<image 3>\", 'it\\'s different']",
            "answer": "B",
            "question_type": "multiple-choice",
            **images,
            **common,
        },
        {
            "id": first[:-1] + "2",
            "question": "How tall is <image 1>?",
            "options": "[]",
            "answer": "['3.14', 'pi']",
            "question_type": "open",
            **{**images, "image_2": None, "image_3": None},
            **common,
        },
    ]


def mmmu_pro(vision: bool) -> list[dict[str, Any]]:
    row: dict[str, Any] = {"id": "test_History_1", "answer": "J", "subject": "History"}
    row["options"] = str([f"option {n}" for n in range(10)])
    if vision:
        return [{**row, "image": struct(9)}]
    images = {f"image_{n}": struct(n) if n == 1 else None for n in range(1, 8)}
    return [
        {**row, "question": "See <image 1>.", "explanation": "", "img_type": "", "topic_difficulty": "Hard", **images}
    ]


def dynamath() -> list[dict[str, Any]]:
    kinds = (("float", "4.0"), ("multiple choice", "C"), ("text", "even"))
    return [
        {
            "id": str(n),
            "question": "What is it?",
            "image": f"images/{n}.png",
            "decoded_image": struct(n),
            "ground_truth": answer,
            "answer_type": kind,
            "subject": "algebra",
            "knowledge_level": "high school",
        }
        for n, (kind, answer) in enumerate(kinds)
    ]


def geometry3k() -> list[dict[str, Any]]:
    return [{"images": [struct(1)], "problem": "<image>Find y.", "answer": "2 \\sqrt { 221 }"}]


def mmk12() -> list[dict[str, Any]]:
    return [
        {
            "id": f"k{n}",
            "question": f"Why? <image>\nA. 1\nB. 2 ({subject})",
            "answer": "B",
            "subject": subject,
            "image": struct(n),
        }
        for n, subject in enumerate(("math", "physics"))
    ]


def virl39k() -> list[dict[str, Any]]:
    return [
        {
            "question": "<image>\nCompare with <image>.",
            "answer": "\\boxed{\\frac{1}{2}}",
            "PassRate_7BTrained": 0.5,
            "image": ["images/a.png", "images/b.png"],
            "category": "(GradeSchool) Geometric",
            "source": "s",
            "qid": "q1",
        }
    ]


HALLUSION = (
    ("VD", "chart", 0, 0, 0, 1),
    ("VD", "chart", 0, 0, 1, 1),
    ("VD", "chart", 0, 1, 0, 1),
    ("VD", "chart", 0, 1, 1, 0),
    ("VS", "map", 0, 0, 0, 1),
    ("VS", "map", 0, 1, 0, 0),
)


def hallusionbench() -> list[dict[str, Any]]:
    """The worked example: category, subcategory, set, figure, question, and whether it shall be answered right."""
    return [
        {
            "category": category,
            "subcategory": sub,
            "visual_input": "0" if category == "VS" and figure == 0 else "1",
            "set_id": str(group),
            "figure_id": str(figure),
            "sample_note": "",
            "question_id": str(question),
            "question": "Is it so?",
            "gt_answer_details": "It is so.",
            "gt_answer": "1",
            "filename": None if category == "VS" and figure == 0 else f"./hallusion_bench/{category}/{figure}.png",
            "image": None if category == "VS" and figure == 0 else struct(figure),
        }
        for category, sub, group, figure, question, _ in HALLUSION
    ]


def mmstar() -> list[dict[str, Any]]:
    details = (("coarse perception", "image emotion"), ("coarse perception", "image emotion"), ("math", "geometry"))
    return [
        {
            "index": n,
            "question": "Which one?\nOptions: A: cat, B: dog, C: a red car, D: tree",
            "image": struct(n),
            "answer": "B",
            "category": category,
            "l2_category": detail,
            "meta_info": {"source": "s", "split": "val", "image_path": "x.jpg"},
        }
        for n, (category, detail) in enumerate(details)
    ]


def pope() -> list[dict[str, Any]]:
    """Twenty questions, ten of each answer."""
    return [
        {
            "id": str(n),
            "question_id": str(n),
            "question": "Is there a dog?",
            "answer": "yes" if n < 10 else "no",
            "image_source": "COCO",
            "image": struct(n),
            "category": ("adversarial", "popular", "random")[n % 3],
        }
        for n in range(20)
    ]


def chartqa() -> list[dict[str, Any]]:
    return [
        {"type": "human_test", "question": "How many?", "answer": "10", "image": struct(1)},
        {"type": "augmented_test", "question": "Which?", "answer": "Yes", "image": struct(2)},
    ]
