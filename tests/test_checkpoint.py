"""Checkpoints: complete or absent, bit for bit, never pickle."""

import errno
import random

import numpy as np
import pytest
import torch

from mmcredit.state_tree import load_tree, save_tree
from mmcredit.train import checkpoint
from mmcredit.train.checkpoint import CheckpointError, Checkpoints
from mmcredit.train.setup import rng_state, set_rng_state


def test_a_tree_survives_bit_for_bit(tmp_path):
    tree = {
        "a": [1, 2.5, -0.1, float("inf"), None, True, "text", {"$odd": 1}],
        "b": {0: torch.randn(3, dtype=torch.float64), 1: (torch.tensor([1, 2]), "x")},
        "c": torch.randn(2, 2).to(torch.bfloat16),
        "empty": {},
    }
    save_tree(tree, tmp_path / "state")
    back = load_tree(tmp_path / "state")
    assert back["a"] == tree["a"]
    assert torch.equal(back["b"][0], tree["b"][0])
    assert isinstance(back["b"][1], tuple)
    assert torch.equal(back["c"], tree["c"])
    assert back["empty"] == {}


def test_a_tree_refuses_objects(tmp_path):
    with pytest.raises(TypeError, match="state may hold dicts"):
        save_tree({"a": object()}, tmp_path / "state")


def test_random_generators_go_on_where_they_were(tmp_path):
    save_tree(rng_state(), tmp_path / "rng")
    first = (random.random(), np.random.rand(), torch.rand(3).tolist())
    set_rng_state(load_tree(tmp_path / "rng"))
    assert (random.random(), np.random.rand(), torch.rand(3).tolist()) == first


def test_newest_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (1, 2, 3):
        checkpoints.save(step, {"run": {"step": step}})
    assert [p.name for p in checkpoints.all()] == ["step-000002", "step-000003"]
    assert checkpoints.load(checkpoints.latest()) == (3, {"run": {"step": 3}})


def test_half_written_ones_are_passed_over(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=5)
    for step in (1, 2, 3, 4):
        checkpoints.save(step, {"run": {"x": torch.zeros(1000)}})
    (tmp_path / "step-000004" / "manifest.json").unlink()
    with (tmp_path / "step-000003" / "run.safetensors").open("r+b") as file:
        file.truncate(100)
    (tmp_path / ".writing-step-000005").mkdir()
    assert checkpoints.latest().name == "step-000002"
    why = {path.name: reason for path, reason in checkpoints.broken().items()}
    assert why["step-000004"] == "manifest.json is missing"
    assert "run.safetensors has 100 bytes" in why["step-000003"]
    assert ".writing-step-000005" in why
    with pytest.raises(CheckpointError, match="is not complete"):
        checkpoints.load(tmp_path / "step-000003")


def test_disk_full_keeps_the_last_good_one(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path, keep=2)
    checkpoints.save(1, {"run": {"step": 1}})

    def full(value, path):
        path.with_suffix(".json").write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_tree", full)
    with pytest.raises(CheckpointError, match=r"the disk is full .*the last good one is step-000001"):
        checkpoints.save(2, {"run": {"step": 2}})
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["step-000001"]
