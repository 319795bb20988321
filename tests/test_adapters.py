"""A LoRA run's result: read wherever a model is named, trained further, merged into a plain folder."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from policy_cases import RAGGED, make_policy, rollouts_for, samples
from runs import metrics, model_folder, parse, settings
from safetensors.torch import load_file, save_file
from tiny import save, tiny_text, tiny_vl
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer

from mmcredit.cli import main
from mmcredit.diagnose.models import load_frozen, load_tokenizer
from mmcredit.evaluate.ask.settings import fingerprint
from mmcredit.policy.config import LoRAConfig, ModelConfig
from mmcredit.policy.passes import CLEAN, Pass
from mmcredit.policy.policy import Policy
from mmcredit.train.loop import Trainer

LOGPROBS = [Pass(CLEAN, frozenset({"logprobs"}))]


def base_folder(tmp_path, family="qwen3", dtype=torch.float32):
    model, processor = tiny_vl(family) if "vl" in family else tiny_text(family)
    return save(model.to(dtype), processor, tmp_path / "base")


def trained(tmp_path, family="qwen3", dtype=torch.float32, **fields):
    """A policy whose adapter says something, saved to tmp_path/adapter."""
    base = base_folder(tmp_path, family, dtype)
    policy = Policy.load(ModelConfig(path=str(base), device="cpu", lora=LoRAConfig(rank=4, **fields)), 0)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, p in policy.trainable_parameters().items():
            if "lora_B" in name:
                p.normal_(0, 0.1, generator=generator)
    policy.save(tmp_path / "adapter")
    return policy


def scores(policy, family="qwen3"):
    prompts = [policy.encode(s) for s in samples(family)]
    return policy.score(prompts, rollouts_for(policy, len(prompts), RAGGED[: len(prompts)]), LOGPROBS, temperature=1.0)[
        CLEAN
    ]["logprobs"]


@pytest.mark.parametrize("family", ["qwen3", "qwen2_5_vl", "qwen3_vl"])
def test_an_adapter_folder_is_the_model_that_was_trained(family, tmp_path):
    policy = trained(tmp_path, family)
    expected = scores(policy, family)
    with policy.model.disable_adapter():
        assert (scores(policy, family) - expected).abs().max() > 0.05
    path = str(tmp_path / "adapter")
    merged = Policy.load(ModelConfig(path=path, device="cpu"))
    assert not merged.adapters
    assert not hasattr(merged.model, "peft_config")
    torch.testing.assert_close(scores(merged, family), expected, atol=2e-4, rtol=0)
    assert len(merged.trainable_parameters()) == len(list(merged.model.parameters()))
    further = Policy.load(ModelConfig(path=path, device="cpu", lora=LoRAConfig(rank=4)))
    assert further.adapters
    assert torch.equal(scores(further, family), expected)
    assert further.trainable_parameters().keys() == policy.trainable_parameters().keys()
    assert not further.starts_at_base
    assert policy.starts_at_base
    if "vl" in family:
        assert merged.processor is not None


@pytest.mark.parametrize("family", ["qwen3", "qwen2_5_vl"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_merge_writes_what_transformers_loads(family, dtype, tmp_path, capsys):
    policy = trained(tmp_path, family, dtype)
    assert main(["merge", str(tmp_path / "adapter"), "-o", str(tmp_path / "whole")]) == 0
    assert str(dtype).removeprefix("torch.") in capsys.readouterr().out
    auto = AutoModelForImageTextToText if "vl" in family else AutoModelForCausalLM
    model, info = auto.from_pretrained(tmp_path / "whole", dtype="auto", output_loading_info=True)
    assert model.dtype == dtype
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    names = {p.name for p in (tmp_path / "whole").iterdir()}
    assert not any("adapter" in name for name in names)
    assert (
        load_file(tmp_path / "whole" / "model.safetensors").keys()
        == load_file(tmp_path / "base" / "model.safetensors").keys()
    )
    assert AutoTokenizer.from_pretrained(tmp_path / "whole").chat_template
    alone = Policy.load(ModelConfig(path=str(tmp_path / "whole"), device="cpu"))
    tolerance = 2e-4 if dtype == torch.float32 else 0.1  # weights rounded once
    torch.testing.assert_close(scores(alone, family), scores(policy, family), atol=tolerance, rtol=0)
    assert main(["merge", str(tmp_path / "adapter"), "-o", str(tmp_path / "wide"), "--dtype", "float32"]) == 0
    wide = Policy.load(ModelConfig(path=str(tmp_path / "wide"), device="cpu"))
    torch.testing.assert_close(scores(wide, family), scores(policy, family), atol=2e-4, rtol=0)
    assert {v.dtype for v in load_file(tmp_path / "wide" / "model.safetensors").values()} == {torch.float32}


def test_what_merge_refuses(tmp_path, capsys):
    trained(tmp_path)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("x")
    for arguments, message in (
        ([str(tmp_path / "base"), "-o", str(tmp_path / "out")], "holds no adapter"),
        ([str(tmp_path / "adapter"), "-o", str(tmp_path / "taken")], "exists already"),
        ([str(tmp_path / "nothing"), "-o", str(tmp_path / "out")], "no such folder"),
        ([str(tmp_path / "adapter"), "-o", str(tmp_path / "out"), "--base", str(tmp_path / "no")], "no such folder"),
    ):
        assert main(["merge", *arguments]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_base_that_moved(tmp_path):
    policy = trained(tmp_path)
    expected = scores(policy)
    shutil.move(tmp_path / "base", tmp_path / "elsewhere")
    path = str(tmp_path / "adapter")
    with pytest.raises(ValueError, match=r"is an adapter, and the base .* say where it is with model\.base=PATH"):
        Policy.load(ModelConfig(path=path, device="cpu"))
    moved = Policy.load(ModelConfig(path=path, base=str(tmp_path / "elsewhere"), device="cpu"))
    torch.testing.assert_close(scores(moved), expected, atol=2e-4, rtol=0)
    with pytest.raises(ValueError, match=r"model\.base=.* is for an adapter, but"):
        Policy.load(ModelConfig(path=str(tmp_path / "elsewhere"), base=path, device="cpu"))
    with pytest.raises(ValueError, match=r"is the adapter's own folder"):
        Policy.load(ModelConfig(path=path, base=path, device="cpu"))
    # Settings for another path drop a base that belongs to the adapter alone.
    config = ModelConfig(path=path, base=str(tmp_path / "elsewhere"))
    assert config.at(str(tmp_path / "elsewhere")).base is None
    assert config.at(path).base == config.base


def test_a_base_that_is_another_one(tmp_path):
    trained(tmp_path)
    model, tokenizer = tiny_text("qwen3", seed=5, spread=0.05)
    save(model, tokenizer, tmp_path / "other")
    with pytest.warns(UserWarning, match="are not those that the adapter in .* was trained on"):
        Policy.load(ModelConfig(path=str(tmp_path / "adapter"), base=str(tmp_path / "other"), device="cpu"))
    model, tokenizer = tiny_text("qwen3", hidden=128)
    save(model, tokenizer, tmp_path / "wider")
    with (
        pytest.warns(UserWarning, match="are not those"),
        pytest.raises(ValueError, match=r"does not fit its base .* \(model\.base\)"),
    ):
        Policy.load(ModelConfig(path=str(tmp_path / "adapter"), base=str(tmp_path / "wider"), device="cpu"))


def test_weights_that_find_no_place_are_an_error_not_a_shrug(tmp_path):
    """peft and transformers only warn, and the model answers as if it had never been trained."""
    trained(tmp_path)
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    weights = load_file(path)
    save_file({name.replace("layers.1", "layers.7"): value for name, value in weights.items()}, path)
    with pytest.raises(ValueError, match=r"does not fit its base"):
        Policy.load(ModelConfig(path=str(tmp_path / "adapter"), device="cpu"))
    base = tmp_path / "base" / "model.safetensors"
    kept = {name: value for name, value in load_file(base).items() if "layers.1.mlp.up" not in name}
    save_file(kept, base, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"1 weights of Qwen3ForCausalLM are not in the folder .*mlp\.up_proj"):
        Policy.load(ModelConfig(path=str(tmp_path / "base"), device="cpu"))


def test_an_adapter_is_trained_further_only_as_it_is(tmp_path):
    trained(tmp_path)
    path = str(tmp_path / "adapter")
    for lora, message in (
        (
            LoRAConfig(),
            r"model\.lora\.rank is 16, the adapter in .* has 4: to train it further set model\.lora\.rank=4",
        ),
        (LoRAConfig(rank=4, alpha=8), r"model\.lora\.alpha is 8, the adapter in .* has 32"),
        (LoRAConfig(rank=4, target_modules=("q_proj",)), r"target_modules leaves out .*k_proj"),
    ):
        with pytest.raises(ValueError, match=message):
            Policy.load(ModelConfig(path=path, device="cpu", lora=lora))


def test_foreign_folders(tmp_path):
    """An adapter alone, without tokenizer or anything of ours, as other trainers leave it; pickled weights."""
    policy = trained(tmp_path)
    alone = tmp_path / "alone"
    alone.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(tmp_path / "adapter" / name, alone / name)
    loaded = Policy.load(ModelConfig(path=str(alone), device="cpu"))
    torch.testing.assert_close(scores(loaded), scores(policy), atol=2e-4, rtol=0)
    assert load_tokenizer(str(alone)).get_vocab() == policy.tokenizer.get_vocab()
    (alone / "adapter_model.safetensors").rename(alone / "adapter_model.bin")
    with pytest.raises(ValueError, match=r"there is no adapter_model\.safetensors \(pickled"):
        Policy.load(ModelConfig(path=str(alone), device="cpu"))


def test_fingerprints_tell_adapters_and_bases_apart(tmp_path):
    trained(tmp_path)
    path = str(tmp_path / "adapter")
    first = fingerprint(path)
    weights = tmp_path / "base" / "model.safetensors"
    changed = {name: value * 1.01 for name, value in load_file(weights).items()}
    save_file(changed, weights, metadata={"format": "pt"})
    with pytest.warns(UserWarning, match="are not those"):
        assert fingerprint(path) != first
    assert fingerprint("someone/model") is None


def test_a_lora_run_from_end_to_end(tmp_path, capsys):
    """Train, evaluate its result by the command of the README, replay on it, train on from it both ways."""
    held_out = {"easy_vqa": {"split": "test", "limit": 4}}
    lora = {"rank": 2}
    run = parse(
        tmp_path, run__steps=1, model__lora=lora, data__evaluate=held_out, checkpoint__final=True, log__rollouts_every=1
    )
    trainer = Trainer(run)
    outcome = trainer.run()
    result = tmp_path / "run" / "model"
    assert (result / "adapter_model.safetensors").is_file()
    assert json.loads((result / "adapter_base.json").read_text())["base"] == str(model_folder(tmp_path))
    path = tmp_path / "config.json"
    path.write_text(json.dumps(settings(tmp_path, model__lora=lora, data__evaluate=held_out)))
    rows = tmp_path / "rows.jsonl"
    assert main(["evaluate", str(path), "--model", str(result), "--output", str(rows)]) == 0
    said = [json.loads(line)["response"] for line in rows.read_text().splitlines()]
    assert said == list(outcome.after.responses)
    frozen = load_frozen(run, str(result))
    assert not frozen.adapters
    assert main(["replay", str(tmp_path / "run"), "--model", str(result), "--methods", "grpo", "--no-gradient"]) == 0
    capsys.readouterr()
    for name, fields in (("on", lora), ("whole", None)):
        more = parse(
            tmp_path, run__steps=1, run__dir=str(tmp_path / name), model__path=str(result), model__lora=fields,
            checkpoint__final=True, objective__regularizers=[{"kl": {"coef": 0.1}}],
        )  # fmt: skip
        follower = Trainer(more)
        assert follower.parts.policy.reference is not None  # the weights as loaded, not the base without the adapter
        follower.run()
        # The first KL is that of the loaded weights to themselves.
        row = metrics(tmp_path / name)[0]
        assert row["policy/ref_kl"] == pytest.approx(0, abs=1e-6)
        last = tmp_path / name / "model"
        assert (last / "adapter_config.json").is_file() == (fields is not None)
        Policy.load(ModelConfig(path=str(last), device="cpu"))
    assert json.loads((tmp_path / "on" / "model" / "adapter_base.json").read_text())["base"] == str(
        model_folder(tmp_path)
    )


def test_weights_are_saved_as_their_source_has_them(tmp_path):
    base = base_folder(tmp_path, "qwen2_5_vl", torch.bfloat16)
    policy = Policy.load(ModelConfig(path=str(base), device="cpu"))
    assert policy.model.dtype == torch.float32
    policy.save(tmp_path / "same")
    same, source = (load_file(tmp_path / name / "model.safetensors") for name in ("same", "base"))
    assert same.keys() == source.keys()
    assert all(torch.equal(same[name], source[name]) and same[name].dtype == torch.bfloat16 for name in source)
    config = json.loads((tmp_path / "same" / "config.json").read_text())
    assert config["dtype"] == "bfloat16"
    assert AutoModelForImageTextToText.from_pretrained(tmp_path / "same", dtype="auto").dtype == torch.bfloat16
    Policy.load(ModelConfig(path=str(base), device="cpu", save_dtype="float32")).save(tmp_path / "wide")
    assert {v.dtype for v in load_file(tmp_path / "wide" / "model.safetensors").values()} == {torch.float32}
    policy.save(tmp_path / "same")  # over an older one
    assert not list(tmp_path.glob(".*"))


def test_tied_weights_stay_tied(tmp_path):
    model, tokenizer = tiny_text("qwen3")
    model.config.tie_word_embeddings = True
    model.tie_weights()
    save(model.to(torch.bfloat16), tokenizer, tmp_path / "base")
    Policy.load(ModelConfig(path=str(tmp_path / "base"), device="cpu")).save(tmp_path / "out")
    assert (
        load_file(tmp_path / "out" / "model.safetensors").keys()
        == load_file(tmp_path / "base" / "model.safetensors").keys()
    )


def test_bfloat16_on_a_cpu_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": False}, raising=False)
    base = base_folder(tmp_path)
    with pytest.warns(UserWarning, match=r"model\.dtype=bfloat16 on a CPU .* set model\.dtype=float32"):
        Policy.load(ModelConfig(path=str(base), device="cpu", dtype="bfloat16"))


def test_saving_into_a_folder_keeps_what_is_not_the_models(tmp_path):
    """A model takes the place of the one before; a log beside it stays."""
    policy = make_policy("qwen2")
    folder = tmp_path / "model"
    policy.save(folder)
    (folder / "notes.jsonl").write_text("mine\n")
    (folder / "model-00002-of-00002.safetensors").write_bytes(b"of another model")
    policy.save(folder)
    assert (folder / "notes.jsonl").read_text() == "mine\n"
    assert not (folder / "model-00002-of-00002.safetensors").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model"]
