"""The same loop with adapters, low precision, a text model, Qwen3-VL, and many credit methods."""

import json

import pytest
import torch
from runs import metrics, parse
from tiny import save, tiny_text

from mmcredit.train.loop import Trainer


def test_lora_keeps_the_base_and_is_its_own_reference(tmp_path):
    config = parse(
        tmp_path,
        model__lora={"rank": 4},
        objective__regularizers=[{"kl": {"coef": 0.1, "estimator": "exact"}}],
        checkpoint__final=True,
    )
    trainer = Trainer(config)
    names = list(trainer.parts.policy.trainable_parameters())
    assert names
    assert all("lora" in name for name in names)
    base = {n: p.clone() for n, p in trainer.parts.policy.model.named_parameters() if not p.requires_grad}
    trainer.run()
    assert all(torch.equal(p, base[n]) for n, p in trainer.parts.policy.model.named_parameters() if not p.requires_grad)
    rows = metrics(tmp_path / "run")
    assert rows[0]["policy/ref_kl"] == pytest.approx(0.0, abs=1e-7)  # the adapter starts at zero
    assert rows[-1]["policy/ref_kl"] > 0
    assert trainer.parts.policy.reference is None
    assert (tmp_path / "run" / "model" / "adapter_model.safetensors").is_file()


def test_exact_and_sampled_kl_agree_on_average(tmp_path):
    """At the first step the policy is the reference; later both estimators see the same drift within a factor."""
    values = {}
    for estimator in ("exact", "k3"):
        folder = tmp_path / estimator
        folder.mkdir()
        regularizers = [{"kl": {"coef": 0.0, "estimator": estimator}}]
        Trainer(parse(folder, run__steps=4, rollout__group=8, objective__regularizers=regularizers)).run()
        rows = metrics(folder / "run")
        assert rows[0]["policy/ref_kl"] == pytest.approx(0.0, abs=1e-6)
        values[estimator] = rows[-1]["policy/ref_kl"]
    assert values["k3"] == pytest.approx(values["exact"], rel=0.5)


def test_bfloat16_learns_through_float32_masters(tmp_path):
    trainer = Trainer(parse(tmp_path, model__dtype="bfloat16", train__learning_rate=1e-6, check__max_mismatch_kl=0.5))
    before = [m.detach().clone() for m in trainer.parts.trainer.masters]
    assert all(p.dtype == torch.bfloat16 for p in trainer.parts.trainer.parameters)
    trainer.run()
    moved = [float((a - b).detach().abs().max()) for a, b in zip(before, trainer.parts.trainer.masters, strict=True)]
    assert max(moved) > 0  # steps of 1e-6 are kept, although bfloat16 cannot hold them at weight size


def test_a_text_model(tmp_path):
    model, tokenizer = tiny_text("qwen3")
    save(model, tokenizer, tmp_path / "text")
    (tmp_path / "train.jsonl").write_text(
        "".join(json.dumps({"prompt": f"{i} + {i} =", "answer": str(2 * i)}) + "\n" for i in range(20))
    )
    source = {"jsonl": {"path": str(tmp_path / "train.jsonl")}}
    Trainer(parse(tmp_path, model__path=str(tmp_path / "text"), data__train=source)).run()
    rows = metrics(tmp_path / "run")
    assert all(row["policy/grad_norm"] > 0 for row in rows)
    events = (tmp_path / "run" / "events.jsonl").read_text()
    assert "image probe" not in events


def test_qwen3_vl_with_frozen_tower_and_checkpointed_activations(tmp_path):
    from runs import model_folder

    trainer = Trainer(
        parse(
            tmp_path,
            model__path=str(model_folder(tmp_path, "qwen3_vl")),
            model__freeze_vision=True,
            model__gradient_checkpointing=True,
        )
    )
    trainer.run()
    assert all(row["policy/grad_norm"] > 0 for row in metrics(tmp_path / "run"))
    cost = trainer.parts.policy.costs.read()
    assert cost["clean"]["tower_calls"] == 0  # every feature was made once, for the sampler


@pytest.mark.parametrize(
    "credit",
    [
        ["rloo"],
        ["reinforce_pp"],
        ["reinforce_pp_baseline"],
        ["tempo"],
        ["hapo"],
        ["dcpo"],
        ["grpo", "negative_only"],
        ["ucas"],
        ["grpo", "forking_tokens"],
        ["grpo", "delta"],
        ["grpo", "pgpo"],
        ["grpo", {"pgpo": {"tvd_estimator": "full"}}],
    ],
    ids=str,
)
def test_credit_methods_train(tmp_path, credit):
    Trainer(parse(tmp_path, run__steps=2, credit=credit, train__mini_batches=2)).run()
    rows = metrics(tmp_path / "run")
    assert len(rows) == 2
    assert rows[0]["credit/nonzero_fraction"] > 0
    assert rows[0]["policy/grad_norm"] > 0
