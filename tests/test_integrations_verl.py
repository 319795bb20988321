"""Our estimators through verl's own functions. Run in an environment of its own: scripts/test_integrations.sh."""

import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import mmcredit.compat  # noqa: F401

pytest.importorskip("verl", reason="verl is tested in an environment of its own: scripts/test_integrations.sh")

from docs_pages import ROOT, blocks
from tensordict import TensorDict
from verl import DataProto
from verl.trainer.config import AlgoConfig
from verl.trainer.ppo import core_algos, ray_trainer
from verl.trainer.ppo.v1 import trainer_base
from verl.trainer.ppo.v1.utils import compute_advantage_for_multi_trajectories

import mmcredit.integrations.verl as plug
from mmcredit import Rollouts, assign_credit

LENGTHS = [5, 3, 7, 7, 1, 6, 4, 7]
UIDS = np.array(list("bbaabbaa"), dtype=object)  # groups need not stand together


def batch(tools=False, **left_out):
    """A DataProto as verl's trainer has it: responses right padded, the reward at the last token."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(5, 8, (8, 7), generator=generator)
    real = torch.arange(7) < torch.tensor(LENGTHS)[:, None]
    mask = real.clone()
    if tools:
        mask[:, 1] = False  # an inserted token
        mask[4] = real[4]
    rewards = torch.zeros(8, 7)
    rewards[torch.arange(8), torch.tensor(LENGTHS) - 1] = torch.rand(8, generator=generator)
    tensors = {
        "responses": tokens * real,
        "response_mask": mask.long(),
        "attention_mask": torch.cat([torch.ones(8, 3, dtype=torch.int64), real.long()], 1),
        "token_level_rewards": rewards,
    }
    kept = {name: value for name, value in tensors.items() if left_out.get(name, True)}
    return DataProto.from_dict(tensors=kept, non_tensors={"uid": UIDS}), tensors


def ours(tensors, credit):
    return assign_credit(
        Rollouts(
            tokens=tensors["responses"],
            mask=tensors["response_mask"].bool(),
            valid=tensors["attention_mask"][:, 3:].bool(),
            group=torch.tensor([ord(u) for u in UIDS]),
            rewards=tensors["token_level_rewards"].sum(-1),
        ),
        credit,
    ).advantages


@pytest.mark.parametrize("tools", [False, True])
@pytest.mark.parametrize("name", plug.REGISTERED)
@pytest.mark.parametrize("function", [ray_trainer.compute_advantage, None], ids=["trainer", "v1"])
def test_registered_estimators_give_our_advantages(name, function, tools):
    data, tensors = batch(tools)
    config = AlgoConfig(adv_estimator=name)
    if function is None:
        keys = [f"{u}_{i}_0" for i, u in enumerate(UIDS)]
        out = compute_advantage_for_multi_trajectories(data, keys, adv_estimator=name, config=config)
    else:
        out = function(data, adv_estimator=name, config=config)
    wanted = ours(tensors, [name.removeprefix("mmcredit_")])
    assert torch.allclose(out.batch["advantages"], wanted, atol=1e-6)
    assert torch.equal(out.batch["returns"], out.batch["advantages"])
    assert wanted.abs().max() > 0.1


def test_what_is_registered():
    assert {"mmcredit_tempo", "mmcredit_grpo", "mmcredit_rloo"} <= set(plug.REGISTERED)
    assert core_algos.get_adv_estimator_fn("mmcredit_tempo") is not None


def test_grpo_is_verls_grpo():
    data, tensors = batch()
    theirs = ray_trainer.compute_advantage(data, adv_estimator="grpo").batch["advantages"]
    assert torch.allclose(theirs, ours(tensors, ["grpo"]), atol=1e-6)


def test_list_of_ones_own():
    plug.register("flat_tempo", [{"tempo": {"norm_std": False}}])
    data, tensors = batch()
    out = ray_trainer.compute_advantage(data, adv_estimator="flat_tempo")
    assert torch.allclose(out.batch["advantages"], ours(tensors, [{"tempo": {"norm_std": False}}]), atol=1e-6)
    with pytest.raises(ValueError, match="already"):
        plug.register("flat_tempo", ["grpo"])


def test_v1_trainer_asks_its_queue_for_the_responses(monkeypatch):
    """verl's own `PPOTrainer._compute_advantage`, with a queue in memory in place of its service."""
    _, tensors = batch()
    stored = {}
    nested = {
        name: torch.nested.as_nested_tensor(
            [row[:n] for row, n in zip(values, LENGTHS, strict=True)], layout=torch.jagged
        )
        for name, values in {
            "responses": tensors["responses"],
            "response_mask": tensors["response_mask"],
            "rm_scores": tensors["token_level_rewards"],
        }.items()
    }

    def get(keys, partition_id, select_fields):
        fields = {name: nested[name] for name in select_fields if name in nested}
        found = TensorDict(fields, batch_size=8)
        if "uid" in select_fields:
            found["uid"] = list(UIDS)
        return found

    monkeypatch.setattr(trainer_base.tq, "kv_batch_get", get)
    monkeypatch.setattr(trainer_base.tq, "kv_batch_put", lambda keys, partition_id, fields: stored.update(fields))

    class Algorithm(dict):
        __getattr__ = dict.__getitem__

    class Meta(SimpleNamespace):
        def __len__(self):
            return 8

    algorithm = Algorithm(use_kl_in_reward=False, adv_estimator="mmcredit_tempo", gamma=1.0, lam=1.0)
    rollout = SimpleNamespace(rollout=SimpleNamespace(n=4))
    config = SimpleNamespace(algorithm=algorithm, actor_rollout_ref=rollout)
    meta = Meta(keys=[f"{u}_{i}_0" for i, u in enumerate(UIDS)], partition_id="train")
    trainer_base.PPOTrainer._compute_advantage(SimpleNamespace(config=config), meta, {})
    found = stored["advantages"].to_padded_tensor(0.0)
    assert torch.allclose(found, ours(tensors, ["tempo"]), atol=1e-6)


def test_batch_without_tokens_or_groups_is_refused():
    data, _ = batch(responses=False)
    with pytest.raises(ValueError, match="no `responses`"):
        ray_trainer.compute_advantage(data, adv_estimator="mmcredit_tempo")
    ray_trainer.compute_advantage(data, adv_estimator="mmcredit_rloo")
    del data.non_tensor_batch["uid"]
    with pytest.raises(ValueError, match="no `uid`"):
        ray_trainer.compute_advantage(data, adv_estimator="mmcredit_rloo")


@pytest.mark.parametrize(
    ("credit", "said"),
    [
        (["grpo", "pgpo"], "blind_logprobs"),
        (["hapo"], "every mini-batch"),
        (["nsr"], "out of the loss"),
        (["dcpo"], "uid"),
        (["spo_tree"], "out of the loss"),
        (["grpo", {"d3s": {}}], "out of the loss"),
    ],
)
def test_refused_in_one_line(credit, said):
    with pytest.raises(ValueError, match=said) as caught:
        plug.register("never", credit)
    assert "\n" not in str(caught.value)


def test_external_module_and_example_of_the_guide(tmp_path):
    named = "import mmcredit.integrations.verl"
    (program,) = [b.text for b in blocks(ROOT / "docs/integrations.md") if named in b.text]
    assert len([line for line in program.splitlines() if line.strip()]) <= 10
    run = program.replace(named, "pass")  # named by the variable alone
    assert run != program
    for text, extra in ((program, {}), (run, {"VERL_USE_EXTERNAL_MODULES": "mmcredit.integrations.verl"})):
        done = subprocess.run(
            [sys.executable, "-c", "import mmcredit\n" + text],
            cwd=tmp_path, env={**os.environ, **extra}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        assert "tensor" in done.stdout
