"""`rollout.ahead`: batches sampled beside the training, one step old at most, resumed to the same numbers."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import metrics, parse, run_python, settings
from safetensors.torch import load_file
from serving import serve
from test_rollout_hf import engine as hf_engine

from mmcredit import config
from mmcredit.rollout.engine import Request
from mmcredit.train.loop import Trainer

PROGRAM = """
import json, os, signal, sys
from pathlib import Path
from mmcredit import config
from mmcredit.train.loop import Trainer

trainer = Trainer(config.parse(json.loads(Path(sys.argv[1]).read_text())))
step = trainer.parts.trainer.step


def die():
    result = step()
    if trainer.step == 3:  # in the middle of an update, with the next batch in flight
        assert trainer.stage.ahead.flight.step == 4
        os.kill(os.getpid(), signal.SIGKILL)
    return result


trainer.parts.trainer.step = die
print("server", trainer.parts.engine.processes[0].pid, flush=True)
trainer.run()
"""
STARTED = {"server": {"engine": "hf", "threads": 1}}


def ahead(folder: Path, engine: Any, **changes: Any) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    values = {
        "rollout__engine": engine,
        "rollout__ahead": 1,
        "objective__mismatch": {"kind": "token_tis"},
        "train__learning_rate": 1e-2,
        "run__steps": 6,
    }
    return settings(folder, **values | changes)


def numbers(run_dir: Path) -> list[dict[str, Any]]:
    """Metrics without what belongs to one process's engine."""
    return [{k: v for k, v in row.items() if not k.startswith("engine/")} for row in metrics(run_dir)]


def urls(service: Any) -> dict[str, Any]:
    return {"server": {"urls": [service.url], "reconnect_timeout": 5}}


def test_a_killed_run_resumes_to_the_same_numbers(tmp_path):
    more = {"checkpoint__every": 2, "checkpoint__final": True, "train__mini_batches": 2}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    Trainer(config.parse(ahead(whole, STARTED, **more))).run()
    expected = numbers(whole / "run")
    assert [row["rollout/staleness_max"] for row in expected] == [0, 1, 1, 1, 1, 1]
    path = killed / "settings.json"
    values = ahead(killed, STARTED, **more)
    path.write_text(json.dumps(values))
    died = run_python(PROGRAM, str(path))
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert len(numbers(killed / "run")) == 3
    server = int(died.stdout.split("server ")[1].split()[0])
    for _ in range(100):  # it ends with the trainer, however that ends
        commands = Path(f"/proc/{server}/cmdline")
        if not commands.exists() or not commands.read_bytes():  # a process that nobody has collected has no words
            break
        time.sleep(0.1)
    else:
        pytest.fail("the server outlives the trainer that started it")
    Trainer(config.parse(values), resume=True).run()
    assert numbers(killed / "run") == expected
    one, other = (load_file(p / "run" / "model" / "model.safetensors") for p in (whole, killed))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_batch_is_sampled_from_the_weights_before_the_update(tmp_path):
    values = ahead(tmp_path, None, run__steps=3)
    with serve(values["model"]["path"]) as service:
        values["rollout"]["engine"] = urls(service)
        trainer = Trainer(config.parse(values))
        stage, submit = trainer.stage, trainer.parts.engine.submit
        weights: list[dict[str, torch.Tensor]] = []
        batches = []

        def note(requests, sampling):
            weights.append({k: v.clone() for k, v in trainer.parts.policy.state_dict().items()})
            return submit(requests, sampling)

        trainer.parts.engine.submit = note
        run = stage.run
        stage.run = lambda step: batches.append(run(step)) or batches[-1]
        trainer.run()
    policy = trainer.parts.policy
    for step in (1, 2):
        policy.load_state_dict(weights[step - 1])
        batch = batches[step]
        asks = [Request(p, stage_seeds(trainer, step, i), tag=i) for i, p in enumerate(batch.prompts)]
        expected = hf_engine(policy).generate(asks, stage.sampling)
        rollouts = batch.rollouts
        for row, response in enumerate(expected):
            assert rollouts.tokens[row][rollouts.mask[row]].tolist() == response.tokens
            own = rollouts.sampler_logprobs[row][rollouts.mask[row]]
            torch.testing.assert_close(own, torch.tensor(response.logprobs), atol=1e-5, rtol=0)
        assert bool((rollouts.signals["staleness"][rollouts.mask] == 1).all())


def stage_seeds(trainer, step, place):
    from mmcredit.seeds import derive

    return [derive(trainer.config.run.seed, "sample", step, place, member) for member in range(4)]


def test_more_rounds_are_sampled_from_present_weights(tmp_path):
    rounds = {"dynamic_sampling": {"max_rounds": 2, "batch": 6}}
    values = ahead(tmp_path, None, run__steps=3, rollout__strategies=[rounds, "overlong_filter"])
    with serve(values["model"]["path"]) as service:
        values["rollout"]["engine"] = urls(service)
        trainer = Trainer(config.parse(values))
        ages, responses = [], trainer.stage._responses

        def note(requests, sampling):
            found = responses(requests, sampling)
            ages.append((trainer.step, found[1]))
            return found

        trainer.stage._responses = note
        trainer.run()
    first = {}
    for step, age in ages:
        first.setdefault(step, age)
    assert first == {0: [0] * 24, 1: [1] * 16 + [0] * 8, 2: [1] * 16 + [0] * 8}  # two prompts more than were in flight
    rows = metrics(tmp_path / "run")
    assert all("engine/synced_mb" in row and "engine/probe_difference" in row for row in rows)


def test_an_evaluation_and_a_checkpoint_wait_for_what_is_in_flight(tmp_path):
    more = {"evaluate__every": 1, "evaluate__limit": 3, "checkpoint__every": 1, "run__steps": 3}
    values = ahead(tmp_path, None, **more)
    values["data"]["evaluate"] = {"easy_vqa": {"split": "test", "limit": 3}}
    with serve(values["model"]["path"]) as service:
        values["rollout"]["engine"] = urls(service)
        Trainer(config.parse(values)).run()
    without = ahead(tmp_path / "again", None, run__steps=3)
    with serve(without["model"]["path"]) as service:
        without["rollout"]["engine"] = urls(service)
        Trainer(config.parse(without)).run()
    # Up to the last bits: features of images that the evaluation has encoded are not encoded again.
    for one, other in zip(metrics(tmp_path / "run"), metrics(tmp_path / "again" / "run"), strict=True):
        for name in ("reward/mean", "policy/grad_norm", "mismatch/kl", "response/tokens"):
            assert one[name] == pytest.approx(other[name], rel=1e-3, abs=1e-9)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"rollout__engine": "hf"}, "engine 'hf' cannot sample while the policy trains"),
        ({"objective__mismatch": None}, "correct for it with objective.mismatch"),
        ({"rollout__strategies": ["adaptive_temperature"]}, "'adaptive_temperature' samples first depends"),
        ({"rollout__strategies": ["noisy_rollout"]}, "'noisy_rollout' samples first depends"),
        ({"rollout__ahead": 2}, "less than or equal to 1"),
    ],
)
def test_what_cannot_run_ahead_is_a_config_error(tmp_path, changes, why):
    with pytest.raises(ValueError, match=why):
        config.parse(ahead(tmp_path, {"server": {"engine": "hf"}}, **changes))


def test_without_ahead_nothing_is_added(tmp_path):
    trainer = Trainer(parse(tmp_path, run__steps=1, checkpoint__final=True))
    trainer.run()
    (folder,) = (tmp_path / "run" / "checkpoints").iterdir()
    assert not (folder / "ahead.json").exists()
    assert not any("staleness" in key or key.startswith("engine/") for key in metrics(tmp_path / "run")[0])
