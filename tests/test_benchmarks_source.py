"""A benchmark as a data source, in a real training run."""

from __future__ import annotations

import json
from pathlib import Path

import benchmark_rows as rows
import pytest
from benchmark_rows import layout, parquet
from runs import metrics, parse, settings

from mmcredit.components import build
from mmcredit.data.media import MediaLimits
from mmcredit.evaluate.benchmarks.base import BOXED
from mmcredit.train.loop import Trainer

SHARD = "-00000-of-00001.parquet"


def test_a_benchmark_is_a_source(tmp_path: Path) -> None:
    parquet(tmp_path / f"MMK12/data/test{SHARD}", rows.mmk12())
    fields = {"name": "mmk12", "root": str(tmp_path), "where": {"subject": "physics"}, "system": "Think."}
    source = build("source", {"benchmark": {**fields, "template": "{{ content }} ({{ row.subject }})"}})
    samples = source.load(MediaLimits())  # type: ignore[attr-defined]
    assert len(samples) == 1
    assert samples[0].messages[0] == {"role": "system", "content": "Think."}
    assert layout(samples[0]) == f"Why? [i]\nA. 1\nB. 2 (physics)\n\n{BOXED} (physics)"
    assert samples[0].answer == "B"
    again = build("source", json.loads(json.dumps(source.spec())))
    assert again == source
    parquet(tmp_path / "MathVerse/testmini.parquet", rows.mathverse())
    chosen = {"name": "mathverse", "root": str(tmp_path), "options": {"question_types": "multi-choice"}, "shuffle": 1}
    shuffled = build("source", {"benchmark": chosen | {"limit": 3}}).load(MediaLimits())  # type: ignore[attr-defined]
    assert len(shuffled) == 3
    assert {shuffled.meta(i)["question_type"] for i in range(3)} == {"multi-choice"}
    assert [s.id for s in shuffled[1:]] == [shuffled.id(1), shuffled.id(2)]
    with pytest.raises(ValueError, match="no such benchmark; did you mean 'mathvista'"):
        build("source", {"benchmark": {"name": "mathvist", "root": "."}})
    with pytest.raises(ValueError, match="unknown key 'verions'; did you mean 'versions'"):
        build("source", {"benchmark": {"name": "mathverse", "root": ".", "options": {"verions": []}}})
    with pytest.raises(ValueError, match="none of its 2 items passes"):
        build("source", {"benchmark": {**fields, "where": {"subject": "law"}}}).load(MediaLimits())  # type: ignore[attr-defined]


def test_a_run_trains_on_a_benchmark_with_the_rule_of_its_papers(tmp_path: Path) -> None:
    data = [{**rows.geometry3k()[0], "images": [rows.struct(n, (56, 56))], "answer": str(n)} for n in range(6)]
    parquet(tmp_path / f"data/geometry3k/data/train{SHARD}", data)
    source = {"benchmark": {"name": "geometry3k", "root": str(tmp_path / "data"), "split": "train"}}
    # The share of vowels keeps advantages apart; an untrained model never boxes an answer.
    rewards = [*settings(tmp_path)["rewards"], {"mathruler": {}}]
    changes = {"data__train": source, "data__max_prompt_tokens": 1024, "rewards": rewards, "run__steps": 1}
    Trainer(parse(tmp_path, **changes)).run()
    (step,) = metrics(tmp_path / "run")
    assert step["reward/part/mathruler"] == 0.0
    assert step["data/dropped"] == 0.0
