"""Scoring of whole benchmarks, their metrics, and the judge against a real local server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import benchmark_rows as rows
import numpy as np
import pytest
from benchmark_rows import load, parquet, results

from mmcredit.components import build
from mmcredit.evaluate.benchmarks.base import Benchmark
from mmcredit.evaluate.benchmarks.referee import Referee
from mmcredit.evaluate.benchmarks.scoring import Score, Scored
from mmcredit.evaluate.benchmarks.sets.mmmu_pro import overall
from mmcredit.evaluate.benchmarks.steps import Compare
from mmcredit.evaluate.benchmarks.summary import Metric, Summary, interval, share


def summarise(benchmark: Benchmark, samples: Any, responses: list[str]) -> Summary:
    with Referee() as referee:
        return benchmark.summary(results(benchmark, samples, responses, referee))


def values(metrics: Any) -> dict[str, float]:
    return {name: round(found.value, 6) for name, found in metrics.items()}


# --- worked examples ---


def test_pope_worked_example(tmp_path: Path) -> None:
    benchmark, samples = load(tmp_path, "pope", rows.pope())
    # TP 8, FN 2, FP 3, TN 7
    responses = ["Yes"] * 8 + ["No", "There is not."] + ["yes"] * 2 + [""] + ["no"] * 7
    found = summarise(benchmark, samples, responses)
    wanted = {"accuracy": 0.75, "precision": 0.727273, "recall": 0.8, "f1": 0.761905, "yes_ratio": 0.55}
    assert values(found.overall) == wanted
    assert all(metric.low <= metric.value <= metric.high for metric in found.overall.values())
    assert found.flags == {"empty response counts as yes": 1}
    assert set(found.groups["category"]) == {"adversarial", "popular", "random"}
    assert (found.headline, found.value.n, found.items, found.attempts) == ("accuracy", 20, 20, 1)
    exact = build("benchmark", {"pope": {"extraction": "exact"}})
    counted = exact.summary(results(exact, samples, ["Yes."] + ["NO"] * 19))  # type: ignore[attr-defined,arg-type]
    assert counted.overall["accuracy"].value == 0.5
    assert counted.unparsed == 1
    # no yes was predicted: precision has no value and is left out
    assert "precision" not in counted.overall


def test_we_math_worked_example(tmp_path: Path) -> None:
    benchmark, samples = load(tmp_path, "wemath", rows.wemath(), "testmini")
    pattern = ["11|1", "11|0", "10|1", "00|1", "10|0", "111|1", "101|1", "000|0"]
    bits = "".join(pattern).replace("|", "")
    found = summarise(benchmark, samples, ["Answer: A" if bit == "1" else "Answer: B" for bit in bits])
    n = 8
    wanted = {
        "IK": 2 / n,
        "IG": 1 / n,
        "CM_strict": 2 / n,
        "CM_loose": 4 / n,
        "RM_strict": 3 / n,
        "RM_loose": 1 / n,
        "score_strict": 0.3125,
        "score_loose": 0.5625,
        "rm_rate_strict": 0.6,
        "rm_rate_loose": 0.2,
    }
    got = values(found.overall)
    assert {name: got[name] for name in wanted} == {name: round(value, 6) for name, value in wanted.items()}
    assert got["accuracy"] == round(sum(int(bit) for bit in bits) / len(bits), 6)
    assert (got["S2"], got["S3"]) == (0.6, round(2 / 3, 6))
    assert found.overall["score_strict"].n == 8
    assert got["S1"] == round(11 / 19, 6)


def test_hallusionbench_worked_example(tmp_path: Path) -> None:
    benchmark, samples = load(tmp_path, "hallusionbench", rows.hallusionbench(), "image")
    responses = ["Yes, it is." if row[-1] else "No." for row in rows.HALLUSION]
    found = summarise(benchmark, samples, responses)
    assert values(found.overall) == {
        "aAcc": round(4 / 6, 6),
        "qAcc": round(1 / 3, 6),
        "fAcc": round(1 / 3, 6),
        "mean": round((4 / 6 + 1 / 3 + 1 / 3) / 3, 6),
    }
    assert found.scored_by == {"rule": 6}
    assert (found.overall["qAcc"].n, found.overall["fAcc"].n) == (3, 3)
    strict = build("benchmark", {"hallusionbench": {"rule": "yes_no"}})
    assert not strict.score(samples[0], "yes and no").correct  # type: ignore[attr-defined]
    assert benchmark.score(samples[0], "<think>no</think> Yes").correct


def test_dynamath_worst_case(tmp_path: Path) -> None:
    benchmark: Benchmark = build("benchmark", {"dynamath": {"variant": "vlmeval"}})  # type: ignore[assignment]
    seeds = [{**rows.dynamath()[0], "id": str(n)} for n in range(4)]
    for variant in (1, 2, 3):
        parquet(tmp_path / f"DynaMath_Sample/data/sample_variant{variant}.parquet", seeds)
    samples = benchmark.load(tmp_path)
    table = ("111", "101", "000", "110")
    responses = []
    for i in range(len(samples)):
        meta = samples.meta(i)
        right = table[int(meta["seed"])][int(meta["variant"]) - 1] == "1"
        responses.append(json.dumps({"solution": "...", "short answer": "4.0" if right else "5"}))
    found = summarise(benchmark, samples, responses)
    assert values(found.overall) == {"average": 0.583333, "worst_case": 0.25}
    assert found.headline == "average"
    assert found.scored_by == {"official": 12}


def test_dynamath_scores(tmp_path: Path) -> None:
    _, samples = load(tmp_path, "dynamath", rows.dynamath(), "sample_variant1", split="sample_variant1")
    number, choice, text = samples

    def right(sample: Any, answer: Any, **fields: Any) -> tuple[bool, str]:
        response = answer if isinstance(answer, str) else json.dumps(answer)
        score = build("benchmark", {"dynamath": fields}).score(sample, response)  # type: ignore[attr-defined]
        return score.correct, score.scored_by

    assert right(number, {"short answer": "4.0009"}) == (True, "official")
    assert right(number, {"short answer": "4.001"}) == (False, "official")
    assert right(number, {"short answer": 4.0}) == (False, "rule")  # a JSON number is not parsed
    assert right(number, {"short answer": 4.0}, variant="authors") == (True, "official")
    assert right(number, "4.0 cm") == (True, "official")
    assert right(choice, {"short answer": "c"}) == (True, "official")
    assert right(choice, "C or D") == (True, "rule")  # unparsed, but the first three characters hold it
    assert right(text, {"short answer": ""}) == (True, "official")  # contained in the reference
    assert right(text, {"short answer": "it is even"}) == (False, "official")
    assert right(text, {"short answer": "it is even"}, variant="authors") == (True, "official")


def test_mmstar_means_and_extractions(tmp_path: Path) -> None:
    benchmark, samples = load(tmp_path, "mmstar", rows.mmstar(), "val")
    found = summarise(benchmark, samples, ["B", "**B**", "A"])
    assert values(found.overall) == {"accuracy": 0.666667, "detailed_mean": 0.5}
    assert values(found.groups["category"]["math"])["accuracy"] == 0.0
    assert found.flags == {"unwrapped": 1}
    vlm = build("benchmark", {"mmstar": {"extraction": "vlmeval"}})
    assert vlm.score(samples[0], "It is a dog").correct  # type: ignore[attr-defined]
    undecided = vlm.score(samples[0], "I would rather not say anything")  # type: ignore[attr-defined]
    assert (undecided.correct, undecided.scored_by, undecided.parse_ok) == (False, "rule", False)


def test_chartqa_human_and_augmented(tmp_path: Path) -> None:
    benchmark, samples = load(tmp_path, "chartqa", rows.chartqa())
    found = summarise(benchmark, samples, [r"So \boxed{10.5}", "The answer is: no."])
    assert values(found.overall) == {"accuracy": 0.5}
    assert {name: group["accuracy"].value for name, group in found.groups["type"].items()} == {
        "human": 1.0,
        "augmented": 0.0,
    }
    plain = build("benchmark", {"chartqa": {"unwrap": False}})
    assert plain.score(samples[0], "10.5 ").correct  # type: ignore[attr-defined]  # a number may have blanks around it
    assert not plain.score(samples[0], "1,000").correct  # type: ignore[attr-defined]
    assert not plain.score(samples[1], "Yes.").correct  # type: ignore[attr-defined]
    tidy = build("benchmark", {"chartqa": {"unwrap": False, "tidy": True}})
    assert tidy.score(samples[1], " Yes. ").correct  # type: ignore[attr-defined]


def test_mathvista_by_rule(tmp_path: Path) -> None:
    benchmark, samples = load(tmp_path, "mathvista", rows.mathvista(), "testmini")
    found = results(benchmark, samples, ["dog", "1.23 is it, so 1.23", r"The sum is \boxed{3}."])
    assert [item.score.correct for item in found] == [True, True, True]
    assert [item.score.scored_by for item in found] == ["official", "rule", "rule"]
    summary = benchmark.summary(found)
    assert set(summary.groups["skills"]) == {"a", "b"}
    assert set(summary.groups["task"]) == {"tqa"}
    # nothing extracted: the choice at the least distance, here the first of two equals ("cat"), which is wrong
    assert not benchmark.score(samples[0], "").correct
    assert benchmark.score(samples[0], "").extracted is None
    ignoring = build("benchmark", {"mathvista": {"ignore_empty": True}})
    assert not ignoring.score(samples[0], "hm").correct  # type: ignore[attr-defined]
    boxed = build("benchmark", {"mathvista": {"scoring": "rl"}})
    rl = boxed.load(tmp_path / "mathvista/testmini.parquet")  # type: ignore[attr-defined]
    assert boxed.score(rl[0], r"<think>x</think> \boxed{B}").correct  # type: ignore[attr-defined]
    assert not boxed.score(rl[0], r"\boxed{dog}").correct  # type: ignore[attr-defined]
    # a sample that was loaded for the other scoring is judged by its own reference there
    assert boxed.score(samples[0], r"\boxed{B}").correct  # type: ignore[attr-defined]
    assert benchmark.score(rl[0], "dog").correct
    with pytest.raises(ValueError, match="is not one of pope, but of mathvista"):
        build("benchmark", "pope").score(samples[0], "yes")  # type: ignore[attr-defined]


def test_mathverse_by_rule(tmp_path: Path) -> None:
    benchmark, samples = load(tmp_path, "mathverse", rows.mathverse(), "testmini")
    right = {"multi-choice": "The answer is (B).", "free-form": r"so x = \boxed{\sqrt{12}}"}
    answers = [right[samples.meta(i)["question_type"]] for i in range(len(samples))]
    answers[0], answers[-1] = "A", r"\boxed{3}"
    found = summarise(benchmark, samples, answers)
    assert found.overall["accuracy"].value == pytest.approx(0.8)
    assert {name: group["accuracy"].value for name, group in found.groups["version"].items()} == {
        "Text Dominant": 0.5,
        "Text Lite": 1.0,
        "Vision Intensive": 1.0,
        "Vision Dominant": 1.0,
        "Vision Only": 0.5,
    }
    assert found.groups["set"]["vision-heavy"]["accuracy"].n == 6
    assert found.scored_by == {"rule": 10}


def test_mathvision_official(tmp_path: Path) -> None:
    benchmark, samples = load(tmp_path, "mathvision", rows.mathvision())
    with Referee() as referee:
        found = results(benchmark, samples, [r"\boxed{2}", r"so it is \boxed{\frac{1}{2}}"], referee)
        assert [item.score.rule for item in found] == ["equal text", "equal value"]
        assert [item.score.correct for item in found] == [True, True]
        again = results(benchmark, samples, ["I choose (B).", "The answer is 0.504."], referee)
        assert [item.score.correct for item in again] == [True, True]  # 0.504 rounds to 0.5
        assert not benchmark.score(samples[1], "0.51", referee).correct
    assert benchmark.summary(found).groups["level"]["2"]["accuracy"].value == 1.0


def test_mmmu_official_and_random(tmp_path: Path) -> None:
    benchmark, samples = load(tmp_path, "mmmu", rows.mmmu(), "validation")
    found = results(benchmark, samples, ["**B**", "It is 3.14159 high"])
    assert [item.score.correct for item in found] == [True, True]
    assert benchmark.summary(found).flags == {"unwrapped": 1}
    letter = build("benchmark", {"mmmu": {"unwrap": False}})
    assert not letter.score(samples[0], "**B**").correct  # type: ignore[attr-defined]
    drawing = build("benchmark", {"mmmu": {"mmmu_random": True}})
    drawn = drawing.score(samples[0], "no idea")  # type: ignore[attr-defined]
    assert drawn == drawing.score(samples[0], "no idea")  # type: ignore[attr-defined]
    assert drawn.flags == ("random option",)
    assert not drawn.parse_ok


def test_mmmu_pro_headline(tmp_path: Path) -> None:
    vision, screens = load(tmp_path, "mmmu_pro", rows.mmmu_pro(True), split="vision")
    standard, texts = load(tmp_path / "s", "mmmu_pro", rows.mmmu_pro(False), split="standard10")
    right = vision.summary(results(vision, screens, ["Answer: J"]))
    wrong = standard.summary(results(standard, texts, [r"I say \boxed{A}"]))
    assert overall(wrong, right) == 0.5
    with pytest.raises(ValueError, match="standard10 and vision"):
        overall(right, wrong)


def test_logicvista_official(tmp_path: Path) -> None:
    benchmark, samples = load(tmp_path, "logicvista", rows.logicvista())
    found = summarise(benchmark, samples, ["C", r"\boxed{C, A}", "", "3", "F"])
    assert found.overall["accuracy"].value == pytest.approx(0.6)
    assert found.flags == {"damaged reference": 2}
    assert found.groups["skill"]["spatial"]["accuracy"].value == 1.0


# --- adding up ---


def test_attempts_and_intervals(tmp_path: Path) -> None:
    benchmark, samples = load(tmp_path, "chartqa", rows.chartqa())
    right, wrong = Score(True, "a", "r"), Score(False, None, "r", "rule", ("late",))
    items = [
        Scored("a", right, samples.meta(0), 0),
        Scored("a", wrong, samples.meta(0), 1),
        Scored("b", right, samples.meta(1), 0),
        Scored("b", right, samples.meta(1), 1),
    ]
    found = benchmark.summary(items)
    assert (found.items, found.attempts, found.overall["accuracy"].value) == (2, 2, 0.75)
    assert (found.scored_by, found.flags, found.unparsed) == ({"official": 3, "rule": 1}, {"late": 1}, 1)
    assert [row["axis"] for row in found.rows()] == ["overall", "type", "type"]
    with pytest.raises(ValueError, match=r"item b has attempts \[0\]; others have \[0, 1\]"):
        benchmark.summary(items[:3])
    with pytest.raises(ValueError, match="attempt 0 twice"):
        benchmark.summary([items[0], items[0]])
    with pytest.raises(ValueError, match="no items"):
        benchmark.summary([])
    assert Score.from_dict(json.loads(json.dumps(wrong.as_dict()))) == wrong


def test_bootstrap_of_a_ratio_is_reproducible_and_covers_it() -> None:
    random = np.random.RandomState(0)
    hits = random.rand(1, 400, 1) < 0.3
    vectors = np.concatenate([hits, np.full_like(hits, 2.0, dtype=float)], axis=-1)
    first, again = interval(vectors), interval(vectors)
    assert first == again
    assert first is not None
    assert first.value == pytest.approx(hits.mean() / 2)
    spread = np.sqrt(0.3 * 0.7 / 400) / 2
    assert first.high - first.low == pytest.approx(2 * 1.96 * spread, rel=0.15)
    assert interval(np.zeros((1, 3, 2))) is None
    assert interval(np.array([[[1.0, 1.0]] * 4])).low == pytest.approx(0.5101, abs=1e-3)  # type: ignore[union-attr]
    assert Metric("m", lambda items: (1.0, 1.0)).formula is share


def test_a_hanging_comparison_is_wrong_and_counted() -> None:
    # Three nested ninth powers of a trinomial: expanding them takes sympy longer than any test may last.
    questions = [Compare("(((x+y+1)^9)^9)^9", "x+y", "mathruler"), Compare("x+1", "1+x", "mathruler")]
    with Referee(math_timeout=1.0) as referee:
        assert referee.answer(questions) == [False, True]
        assert referee.counts == {"compare": 2, "compare/error": 0, "compare/timeout": 1}
