"""Several ranks: after an update the engine's log-probs are compared with the trainer's, spread weights included."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from ranks import launch
from runs import metrics, settings

pytest.importorskip("deepspeed", reason="the extra deepspeed is not installed")

SERVER = {"server": {"engine": "hf", "threads": 1}}
STAGE = {"deepspeed": {"stage": 3}}
AHEAD = {"rollout__ahead": 1, "objective__mismatch": {"kind": "token_tis"}}


def plan(tmp_path: Path, name: str, engine: Any, **changes: Any) -> dict[str, Any]:
    run = {"run__dir": str(tmp_path / name), "run__steps": 3, "train__engine": STAGE, "rollout__engine": engine}
    return settings(tmp_path, **(run | {"train__learning_rate": 1e-2} | changes))


def test_every_update_is_probed(tmp_path: Path) -> None:
    """One client of a server for all ranks, with and without a batch in flight; an engine of each rank's own."""
    plans = {"one": plan(tmp_path, "one", SERVER), "ahead": plan(tmp_path, "ahead", SERVER, **AHEAD)}
    noise = dict.fromkeys(plans, 1e-5)
    if importlib.util.find_spec("vllm"):
        plans["own"], noise["own"] = plan(tmp_path, "own", {"vllm": {"max_model_len": 1024}}), 2e-4
    launch(tmp_path / "ranks", [{"config": config} for config in plans.values()], 2)
    for name in plans:
        rows = metrics(tmp_path / name)
        assert len(rows) == 3
        assert all(row["engine/probe_difference"] < noise[name] for row in rows), name
        assert all(row["engine/probe_moved"] > 10 * noise[name] for row in rows[1:]), name


def test_weights_that_did_not_arrive_end_the_run_on_all_ranks(tmp_path: Path) -> None:
    config = plan(tmp_path, "stuck", SERVER)
    with pytest.raises(AssertionError, match="does not sample from the trainer's weights"):
        launch(tmp_path / "ranks", [{"config": config, "plugin": "stuck_weights"}], 2)
    assert len(metrics(tmp_path / "stuck")) == 1, "the first step was sampled from the weights that it trained"
