"""Frames inside responses on two processes: the numbers of one, with weights that are spread over the ranks, too."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from ranks import launch
from runs import metrics

pytest.importorskip("deepspeed", reason="the extra deepspeed is not installed")

from test_video_runs import write


def test_two_ranks_insert_what_one_inserts(tmp_path: Path) -> None:
    scenarios = []
    for name, engine in (("one", "local"), ("two", "deepspeed"), ("spread", {"deepspeed": {"stage": 3}})):
        found = yaml.safe_load(write(tmp_path / name).read_text())
        found["run"]["steps"] = 2
        found["train"] |= {"learning_rate": 1e-5, "engine": engine}
        found["log"]["rollouts_every"] = 0
        scenarios.append({"config": found, "plugin": "video_plugin"})
    launch(tmp_path / "alone", scenarios[:1], 1)
    launch(tmp_path / "ranks", scenarios[1:], 2)
    expected = metrics(tmp_path / "one" / "run")
    assert all(row["rollout/any_token/insertions"] > 2 for row in expected)
    for name in ("two", "spread"):
        for mine, theirs in zip(expected, metrics(tmp_path / name / "run"), strict=True):
            for key, value in mine.items():
                if isinstance(value, float):
                    assert theirs[key] == pytest.approx(value, rel=2e-5, abs=1e-6), (name, key)
