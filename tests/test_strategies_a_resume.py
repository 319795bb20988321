"""Memory of strategies and credit methods: a run killed and resumed is the run that was not, bit for bit."""

from __future__ import annotations

import os
import signal

import pytest
import torch
from runs import metrics
from safetensors.torch import load_file
from strategy_runs import run_config
from test_strategies_a_replay import run_settings

from mmcredit.train.loop import Trainer

CASES = {
    "adaptive_temperature": {"rollout__strategies": [{"adaptive_temperature": {"tau": 0.5}}], "credit": ["hapo"]},
    "replay": {"rollout__strategies": [{"replay": {"tau": 0.6}}], "credit": ["r3"], "train__mini_batches": 2},
    "dcpo": {"credit": ["dcpo"]},
    "dynamic_sampling": {"rollout__strategies": ["dynamic_sampling", "noisy_rollout"]},
}


def killed(config):
    """Run in a process of its own that is killed in the middle of sampling step 5."""
    child = os.fork()  # a fresh interpreter would take longer than the run
    if child == 0:
        try:
            trainer = Trainer(config)
            generate = trainer.parts.engine.generate

            def dying(requests, sampling, progress=None):
                def die(count):
                    if trainer.step == 5:
                        os.kill(os.getpid(), signal.SIGKILL)

                return generate(requests, sampling, die)

            trainer.parts.engine.generate = dying
            trainer.run()
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGKILL


@pytest.mark.parametrize("case", CASES)
def test_kill_and_resume_is_bit_identical(tmp_path, case):
    configs = {}
    for name in ("whole", "cut"):
        folder = tmp_path / name
        folder.mkdir()
        changes = {"checkpoint__every": 3, "checkpoint__final": True, **CASES[case]}
        configs[name] = run_config(folder, "vlm", **run_settings(folder, "vlm", **changes))
    killed(configs["cut"])
    assert len(metrics(tmp_path / "cut" / "run")) == 5
    Trainer(configs["cut"], resume=True).run()
    Trainer(configs["whole"]).run()
    expected = metrics(tmp_path / "whole" / "run")
    assert len(expected) == 8
    assert metrics(tmp_path / "cut" / "run") == expected
    assert "resumed from step-000003" in (tmp_path / "cut" / "run" / "events.jsonl").read_text()
    weights, again = (load_file(tmp_path / n / "run" / "model" / "model.safetensors") for n in ("whole", "cut"))
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    # The memory was in use after the checkpoint: without it the numbers would be others.
    late = expected[3:]
    if case == "replay":
        assert sum(row["rollout/replay/replayed"] for row in late) > 0
        assert sum(row["rollout/replay/reflections"] for row in late) > 0
    if case == "dcpo":
        assert all(row["credit/dcpo/prompts_with_history"] > 0 for row in late)
    if case == "adaptive_temperature":
        assert len({row["rollout/adaptive_temperature/q"] for row in expected}) == 8
    if case == "dynamic_sampling":
        assert max(row["rollout/dynamic_sampling/rounds"] for row in expected[:3]) > 1
