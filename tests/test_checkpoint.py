"""Checkpoints: complete or absent, bit for bit, never pickle."""

import errno
import random
import shutil

import numpy as np
import pytest
import torch
from runs import parse
from safetensors.torch import load_file, save_file

from mmcredit.report.files import size_mb
from mmcredit.state_tree import load_tree, save_tree
from mmcredit.train import checkpoint
from mmcredit.train.checkpoint import CheckpointError, Checkpoints
from mmcredit.train.loop import Trainer
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

    def full(value, path, shared=None):
        path.with_suffix(".json").write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_tree", full)
    with pytest.raises(CheckpointError, match=r"the disk is full .*the last good one is step-000001"):
        checkpoints.save(2, {"run": {"step": 2}})
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["step-000001"]


def test_what_the_model_folder_holds_is_not_written_twice(tmp_path):
    weights = {f"layer{i}": torch.randn(64, 64) for i in range(3)}
    rounded = {"half": torch.randn(64, 64).to(torch.bfloat16)}
    model = tmp_path / "model"
    model.mkdir()
    save_file({f"model.{name}": value for name, value in weights.items()} | rounded, model / "model.safetensors")
    parts = {
        "training": {"weights": weights, "moments": {name: torch.randn(64, 64) for name in weights}},
        "run": {"master": rounded["half"].float(), "small": torch.zeros(2)},
    }
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    path = checkpoints.save(1, parts, model=model)
    size = sum(p.stat().st_size for p in path.iterdir() if p.name != "model-0.safetensors")
    assert size < 4 * 64 * 64 * 4 + 4096  # the moments and the master weights; not the weights
    for change in ("nothing", "folder replaced", "folder gone"):
        if change == "folder replaced":  # as a later save does it: another file under the old name
            (model / "model.safetensors").unlink()
            save_file({"model.layer0": torch.zeros(64, 64)}, model / "model.safetensors")
        elif change == "folder gone":
            shutil.rmtree(model)
        step, back = checkpoints.load(path)
        assert step == 1
        for name in weights:
            assert torch.equal(back["training"]["weights"][name], weights[name])
            assert torch.equal(back["training"]["moments"][name], parts["training"]["moments"][name])
        assert torch.equal(back["run"]["master"], rounded["half"].float())


def test_a_shared_file_that_was_written_over_is_noticed(tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    weight = torch.randn(64, 64)
    save_file({"w": weight}, model / "model.safetensors")
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    path = checkpoints.save(1, {"training": {"w": weight}}, model=model)
    content = bytearray((model / "model.safetensors").read_bytes())
    content[-1] ^= 1
    with (model / "model.safetensors").open("r+b") as file:  # in place: the same file
        file.write(content)
    with pytest.raises(ValueError, match=r"model-0\.safetensors: w is not what was saved"):
        checkpoints.load(path)


def test_without_hard_links_or_anything_to_share_a_checkpoint_holds_all(tmp_path, monkeypatch):
    model = tmp_path / "model"
    model.mkdir()
    weight = torch.randn(64, 64)
    save_file({"w": weight.to(torch.bfloat16)}, model / "model.safetensors")
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    path = checkpoints.save(1, {"training": {"w": weight}}, model=model)
    assert not (path / "model-0.safetensors").exists()
    assert torch.equal(checkpoints.load(path)[1]["training"]["w"], weight)

    def refused(*_):
        raise OSError(errno.EPERM, "no links here")

    save_file({"w": weight}, model / "model.safetensors")
    monkeypatch.setattr(checkpoint.os, "link", refused)
    path = checkpoints.save(2, {"training": {"w": weight}}, model=model)
    assert not (path / "model-0.safetensors").exists()
    assert torch.equal(checkpoints.load(path)[1]["training"]["w"], weight)


def test_a_run_keeps_its_last_weights_once(tmp_path):
    run = parse(tmp_path, run__steps=1, checkpoint__final=True, checkpoint__every=1)
    Trainer(run).run()
    folder = tmp_path / "run"
    (step,) = (folder / "checkpoints").iterdir()
    linked = step / "model-0.safetensors"
    assert linked.stat().st_ino == (folder / "model" / "model.safetensors").stat().st_ino
    single, twice = size_mb(folder), sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) / 2**20
    assert twice - single == pytest.approx(linked.stat().st_size / 2**20)
    more = Trainer(parse(tmp_path, run__steps=2, checkpoint__final=True), resume=True)
    assert more.step == 1
    saved = load_file(folder / "model" / "model.safetensors")
    state = more.parts.policy.state_dict()
    assert all(torch.equal(state[name], value) for name, value in saved.items() if name in state)
    more.run()
