"""Several ranks: after an update the engine's log-probs are compared with the trainer's, spread weights included."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ranks import launch
from runs import metrics, settings

pytest.importorskip("deepspeed", reason="the extra deepspeed is not installed")

SERVER = {"server": {"engine": "hf", "threads": 1}}
STAGE = {"deepspeed": {"stage": 3}}
NOISE = 1e-5  # nats


def plan(tmp_path: Path, name: str, engine: Any, **changes: Any) -> dict[str, Any]:
    run = {"run__dir": str(tmp_path / name), "run__steps": 3, "train__engine": STAGE, "rollout__engine": engine}
    return settings(tmp_path, **(run | {"train__learning_rate": 1e-2} | changes))


def test_every_update_is_probed(tmp_path: Path) -> None:
    """One client of a server for all ranks, under stage 3."""
    launch(tmp_path / "ranks", [{"config": plan(tmp_path, "one", SERVER)}], 2)
    rows = metrics(tmp_path / "one")
    assert len(rows) == 3
    assert all(row["engine/probe_difference"] < NOISE for row in rows)
    assert all(row["engine/probe_moved"] > 10 * NOISE for row in rows[1:])


def test_weights_that_did_not_arrive_end_the_run_on_all_ranks(tmp_path: Path) -> None:
    config = plan(tmp_path, "stuck", SERVER)
    with pytest.raises(AssertionError, match="does not sample from the trainer's weights"):
        launch(tmp_path / "ranks", [{"config": config, "plugin": "stuck_weights"}], 2)
    assert len(metrics(tmp_path / "stuck")) == 1, "the first step was sampled from the weights that it trained"
