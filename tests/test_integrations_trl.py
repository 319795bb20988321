"""Our credit in TRL's trainer, on real steps of it. Run in an environment of its own: scripts/test_integrations.sh."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("trl", reason="TRL is tested in an environment of its own: scripts/test_integrations.sh")

import trl_cases as cases
from docs_pages import ROOT, blocks
from peft import LoraConfig

from mmcredit.objective import Objective
from mmcredit.policy.config import ModelConfig
from mmcredit.policy.passes import CLEAN, Pass
from mmcredit.policy.policy import Policy
from mmcredit.rollouts import Credit, Rollouts

PGPO = ["grpo", {"pgpo": {"tau": 0.3}}]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    home = tmp_path_factory.mktemp("models")
    return {f: cases.save_model(home / f, f) for f in ("qwen2_5_vl", "qwen3_vl", "text")}


@pytest.mark.parametrize(
    ("family", "credit", "layout"),
    [
        ("qwen2_5_vl", PGPO, "shared"),
        ("qwen2_5_vl", PGPO, "padded"),
        ("qwen3_vl", [{"grpo": {"eps": 1e-4}}, {"pgpo": {"tvd_estimator": "full"}}], "shared"),
        ("qwen2_5_vl", ["grpo", "vppo"], "shared"),
        ("qwen2_5_vl", ["ucas"], "shared"),
        ("text", ["tempo", "attention_entropy"], "shared"),
        ("text", ["reinforce_pp"], "shared"),
    ],
)
def test_advantages_are_those_of_our_own_pipeline(models, tmp_path, family, credit, layout):
    images = family != "text"
    each = cases.trainer(models[family], tmp_path, credit, images=images, extra={"layout": layout})
    each.train()
    batch = each.kept[0]
    own = cases.own_pipeline(models[family], credit, batch, each.all_rewards[:, 0], 4, images, layout)
    assert torch.allclose(batch["advantages"], own.advantages, atol=1e-6)
    assert (own.advantages.std(1) > 1e-3).any() or credit == ["reinforce_pp"], "all tokens of a response are alike"
    loss = batch["completion_mask"] * batch.get("tool_mask", 1)
    assert torch.equal(loss.bool(), own.loss_mask)
    assert batch["num_items_in_batch"] == own.loss_mask.sum()
    metrics = each.state.log_history[0]
    assert metrics["grad_norm"] > 0
    assert any(name.startswith("credit/") for name in metrics)
    assert [round(x, 6) for x in each._logs["advantages"]] == [
        round(x, 6) for x in (own.advantages.sum(1) / own.loss_mask.sum(1).clamp(min=1)).tolist()
    ]


def test_plain_grpo_is_trl_in_its_weights(models, tmp_path):
    """The list [grpo] with TRL's eps trains what TRL's trainer trains."""
    from trl import GRPOTrainer

    found = []
    for cls, credit in ((GRPOTrainer, None), (cases.CreditGRPOTrainer, [{"grpo": {"eps": 1e-4}}])):
        made = cases.trainer(
            models["text"],
            tmp_path,
            credit,
            images=False,
            cls=_without_credit(cls, credit),
            max_steps=3,
            optim="sgd",
            learning_rate=0.1,
        )
        made.train()
        found.append(torch.cat([p.detach().flatten() for p in made.model.parameters()]))
    assert torch.allclose(found[0], found[1], atol=1e-7)
    start = torch.cat([p.flatten() for p in Policy.load(ModelConfig(path=str(models["text"]))).model.parameters()])
    assert (found[0] - start).abs().max() > 1e-4


def _without_credit(cls, credit):
    def make(*args, **kwargs):
        given = kwargs.pop("credit")
        return cls(*args, **kwargs) if credit is None else cls(*args, credit=given, **kwargs)

    return make


def test_gradient_is_that_of_our_objective(models, tmp_path):
    """TRL's loss takes the [B,T] advantages and our mask of tokens as our own loss does. A text model: in a vision one
    TRL's softmax has placeholders in it, ours not."""
    credit = ["tempo", {"forking_tokens": {"rho": 0.5, "normalizer": "kept"}}]
    settings = {"loss_type": "dapo", "max_grad_norm": 0.0, "learning_rate": 0.0}
    each = cases.trainer(models["text"], tmp_path, credit, images=False, **settings)
    wanted = {}
    step = each.training_step

    def keep(model, inputs, number):
        loss = step(model, inputs, number)
        wanted.update({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
        return loss

    each.training_step = keep
    each.train()
    batch = each.kept[0]
    policy = Policy.load(ModelConfig(path=str(models["text"])))
    valid = batch["completion_mask"].bool()
    rollouts = Rollouts(tokens=batch["completion_ids"], mask=valid, group=torch.arange(8) // 4, rewards=torch.zeros(8))
    mask = valid & batch["tool_mask"].bool()
    assert mask.sum() < valid.sum()
    prompts = [cases.encoded(policy, n, images=False)[1] for n in batch["number"][::4]]
    passes = [Pass(CLEAN, frozenset({"logprobs"}))]
    now = policy.forward(prompts, rollouts, range(8), passes, temperature=1.0)[CLEAN]["logprobs"]
    ours = Credit(advantages=batch["advantages"], loss_mask=mask)
    Objective(aggregate="token_mean")(now, rollouts, ours).loss.backward()
    assert len(wanted) > 10
    for name, parameter in policy.model.named_parameters():
        if name in wanted:
            assert torch.allclose(parameter.grad, wanted[name], atol=1e-5, rtol=1e-4), name


def test_model_is_given_back_as_it_was(models, tmp_path):
    each = cases.trainer(models["qwen2_5_vl"], tmp_path, PGPO, max_steps=2)
    before = {m: c._attn_implementation for m, c in _configs(each.model)}
    each.train()
    assert {m: c._attn_implementation for m, c in _configs(each.model)} == before
    assert all(module.training for module in each.model.modules())
    assert len(each.kept) == 2


def _configs(model):
    return [(name, m.config) for name, m in model.named_modules() if hasattr(m, "config")]


def test_two_processes_share_one_group(models, tmp_path):
    """A group spread over two processes has the statistics of the whole, quantiles of tokens too."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*command, str(Path(cases.__file__)), str(models["qwen2_5_vl"]), str(tmp_path)],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "agreed").exists()


def test_rewards_that_are_none_bear_no_credit(models, tmp_path):
    each = cases.trainer(models["text"], tmp_path, ["grpo"], images=False, funcs=cases.half)
    each.train()
    batch, rewards = each.kept[0], each.all_rewards[:, 0]
    lost = torch.isnan(rewards)
    assert lost.any()
    assert not lost.all()
    assert not batch["advantages"][lost].any()
    assert not batch["tool_mask"][lost].any()
    assert each.state.log_history[0]["credit/unscored_responses"] == int(lost.sum())


def test_several_updates_a_batch_and_lora_reference(models, tmp_path):
    """Old log-probs of TRL's own when it updates more than once; the reference is the model without its adapter."""
    credit = ["grpo", {"divergence_weight": {"against": "base"}}]
    each = cases.trainer(
        models["text"], tmp_path, credit, images=False, max_steps=4, num_iterations=2, steps_per_generation=1,
        extra={"peft_config": LoraConfig(r=4, target_modules=["q_proj", "v_proj"])},
    )  # fmt: skip
    each.train()
    assert len(each.kept) == 2
    assert "old_per_token_logps" in each.kept[0]
    flat = [row[row != 0].unique() for row in each.kept[1]["advantages"]]
    assert any(len(row) > 1 for row in flat), "the adapter has moved the model: weights differ between tokens"


def test_memory_of_methods_goes_with_the_checkpoint(models, tmp_path):
    first = cases.trainer(models["text"], tmp_path, ["dcpo"], images=False, save_strategy="steps", save_steps=1)
    first.train()
    kept = first.credit_pipeline.state_dict()
    assert kept
    second = cases.trainer(models["text"], tmp_path, ["dcpo"], images=False, max_steps=2)
    second.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    ((_, before),), ((_, after),) = kept.items(), second.credit_pipeline.state_dict().items()
    assert set(before) <= set(after)
    assert sum(visits for *_, visits in after.values()) == sum(visits for *_, visits in before.values()) + 2


@pytest.mark.parametrize(
    ("credit", "settings", "said"),
    [
        (["hapo"], {}, "every mini-batch"),
        (["grpo", "perceval"], {}, "verifier"),
        (["spo_tree"], {}, "strategy 'spo_tree'"),
        (["grpo", "opd"], {}, "hint"),
        (["grpo", {"pgpo": {"beta": -1}}], {}, "beta"),
        (["grpo", "erpo"], {}, "starts from rewards"),
        (["erpo"], {}, "beta > 0 or a peft_config"),
        (["grpo"], {"scale_rewards": "batch"}, "scale_rewards"),
        (["grpo"], {"loss_type": "vespo"}, "vespo"),
        (["grpo"], {"importance_sampling_level": "sequence"}, "one ratio per response"),
        (["grpo"], {"off_policy_mask_threshold": 0.1}, "off_policy_mask_threshold"),
        (["grpo"], {"multi_objective_aggregation": "normalize_then_sum"}, "weighted sum"),
    ],
)
def test_refused_in_one_line(models, tmp_path, credit, settings, said):
    with pytest.raises(ValueError, match=said) as caught:
        cases.trainer(models["text"], tmp_path, credit, images=False, **settings)
    assert "\n" not in str(caught.value)


def test_example_of_the_guide(tmp_path, monkeypatch):
    (program,) = [b.text for b in blocks(ROOT / "docs/integrations.md") if "integrations.trl" in b.text]
    assert len([line for line in program.splitlines() if line.strip()]) <= 10
    monkeypatch.chdir(tmp_path)
    names: dict = {"__name__": "__main__"}
    exec(compile(program, "docs/integrations.md", "exec"), names)
    assert names["trainer"].state.global_step == 2
    assert any(name.startswith("credit/pgpo") for name in names["trainer"].state.log_history[0])
