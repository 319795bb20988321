"""Models from disk, adapters, limits, and weights out and in."""

from __future__ import annotations

import pytest
import torch
from policy_cases import RAGGED, batch, make_policy, rollouts_for, sample, samples
from tiny import save, tiny_text, tiny_vl

from mmcredit.policy.config import LoRAConfig, ModelConfig
from mmcredit.policy.load import limit_pixels, pick_device, resolve_path
from mmcredit.policy.passes import CLEAN, Pass
from mmcredit.policy.policy import Policy

LOGPROBS = [Pass(CLEAN, frozenset({"logprobs"}))]


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3"])
def test_save_and_load_give_the_same_scores(family: str, tmp_path) -> None:
    policy, prompts, rollouts = batch(family)
    before = policy.score(prompts, rollouts, LOGPROBS, temperature=1.0)[CLEAN]["logprobs"]
    policy.save(tmp_path / "saved")
    loaded = Policy.load(ModelConfig(path=str(tmp_path / "saved"), device="cpu"))
    assert (loaded.processor is None) == (family == "qwen3")
    again = [loaded.encode(s) for s in samples(family)]
    assert all(torch.equal(a.tokens, b.tokens) for a, b in zip(prompts, again, strict=True))
    found = loaded.score(again, rollouts, LOGPROBS, temperature=1.0)[CLEAN]["logprobs"]
    torch.testing.assert_close(found, before, atol=1e-6, rtol=0)
    assert loaded.layout(again, rollouts) == "shared"
    assert loaded.eos_token_ids == (loaded.tokenizer.eos_token_id,)
    assert "mmcredit" not in (tmp_path / "saved" / "config.json").read_text()  # others must be able to load it


def test_lora_is_initialised_by_the_seed_and_saved_alone(tmp_path) -> None:
    model, tokenizer = tiny_text("qwen3")
    save(model, tokenizer, tmp_path / "base")
    config = ModelConfig(path=str(tmp_path / "base"), device="cpu", lora=LoRAConfig(rank=2))
    state = torch.random.get_rng_state()
    one, same, other = (Policy.load(config, seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), state)  # the caller's generator is left alone
    assert all(torch.equal(one[n], same[n]) for n in one)
    assert any(not torch.equal(one[n], other[n]) for n in one)
    assert all("lora_" in n for n in one)
    Policy.load(config, 1).save(tmp_path / "adapters")
    assert (tmp_path / "adapters" / "adapter_model.safetensors").stat().st_size < 200_000


def test_state_dict_round_trip_and_errors() -> None:
    policy, prompts, rollouts = batch("qwen2_5_vl", freeze_vision=True)
    state = {n: t.clone() for n, t in policy.state_dict().items()}
    assert state
    assert not any("visual" in n for n in state)
    before = policy.score(prompts, rollouts, LOGPROBS, temperature=1.0)[CLEAN]["logprobs"]
    with torch.no_grad():
        for p in policy.trainable_parameters().values():
            p.mul_(0.9)
    policy.load_state_dict(state)
    assert torch.equal(policy.score(prompts, rollouts, LOGPROBS, temperature=1.0)[CLEAN]["logprobs"], before)
    first = sorted(state)[0]
    with pytest.raises(ValueError, match="1 parameters are missing"):
        policy.load_state_dict({n: t for n, t in state.items() if n != first})
    with pytest.raises(ValueError, match="1 unknown"):
        policy.load_state_dict(state | {"other": torch.zeros(1)})
    with pytest.raises(ValueError, match="has shape"):
        policy.load_state_dict(state | {first: torch.zeros(1, 1, 1)})


@pytest.mark.parametrize(
    ("path", "pattern"),
    [
        ("builtin:nothing", "no such builtin model; known: "),
        ("./not/there", "no such folder"),
        ("/not/there", "no such folder"),
    ],
)
def test_paths_that_lead_nowhere(path: str, pattern: str) -> None:
    with pytest.raises(ValueError, match=f"model.path='{path}': {pattern}"):
        resolve_path(path)


def test_folder_without_a_model(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"holds neither config\.json nor adapter_config"):
        Policy.load(ModelConfig(path=str(tmp_path)))
    (tmp_path / "config.json").write_text('{"model_type": "unheard-of"}')
    with pytest.raises(ValueError, match="cannot be read"):
        Policy.load(ModelConfig(path=str(tmp_path)))


def test_cuda_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"model\.device=cuda, but torch sees no CUDA device"):
        pick_device("cuda")
    assert pick_device("auto").type == "cpu"


def test_pixel_limits_change_the_number_of_tokens_and_are_checked() -> None:
    _, processor = tiny_vl("qwen2_5_vl")
    with pytest.raises(ValueError, match=r"model\.min_pixels=200000 is above model.max_pixels"):
        limit_pixels(processor, min_pixels=200_000)
    limit_pixels(processor, max_pixels=84 * 84)
    model, _ = tiny_vl("qwen2_5_vl")
    policy = Policy(model, processor.tokenizer, processor)
    made = sample("a", "how many", [((196, 196), 0)])
    assert int(policy.encode(made).visual.sum()) == 9
    assert int(make_policy("qwen2_5_vl").encode(made).visual.sum()) == 49


def test_lora_targets_that_do_not_exist() -> None:
    with pytest.raises(ValueError, match=r"model\.lora\.target_modules=.*nothing_like_this"):
        make_policy("qwen3", lora=LoRAConfig(target_modules=("nothing_like_this",)))


def test_lora_dropout_only_in_updates() -> None:
    policy, prompts, rollouts = batch("qwen3", lora=LoRAConfig(rank=4, dropout=0.5))
    score = policy.score(prompts, rollouts, LOGPROBS, temperature=1.0)[CLEAN]["logprobs"]
    torch.manual_seed(0)
    update = policy.forward(prompts, rollouts, range(len(rollouts)), LOGPROBS, temperature=1.0)[CLEAN]["logprobs"]
    assert (score - update).abs().max() > 1e-3
    assert torch.equal(policy.score(prompts, rollouts, LOGPROBS, temperature=1.0)[CLEAN]["logprobs"], score)


def test_model_without_the_needed_parts() -> None:
    with pytest.raises(ValueError, match=r"Linear has no `.model` and output head"):
        Policy(torch.nn.Linear(2, 2), tiny_text()[1])


def test_costs_count_what_was_run() -> None:
    policy, prompts, rollouts = batch("qwen2")
    policy.layout(prompts, rollouts)
    policy.costs.reset()
    policy.score(prompts, rollouts, LOGPROBS, temperature=1.0)
    forward = policy.costs.read()["clean"]
    body = sum(p.numel() for p in policy.body.language_model.parameters()) - policy.body.embed.weight.numel()
    head = policy.body.head.weight.numel()
    assert forward["flops"] == 2 * (body * forward["tokens"] + head * forward["positions"])
    assert forward["forwards"] == 1
    assert forward["seconds"] > 0
    policy.forward(prompts, rollouts, range(len(rollouts)), LOGPROBS, temperature=1.0)
    assert policy.costs.read()["clean"]["flops"] == pytest.approx(4 * forward["flops"])
    assert policy.costs.total().forwards == 2
    policy.costs.reset()
    assert policy.costs.read() == {}


def test_group_must_index_the_prompts() -> None:
    policy, prompts, rollouts = batch("qwen2")
    with pytest.raises(ValueError, match=r"group must index the prompts: got numbers 0\.\.2 for 2 prompts"):
        policy.score(prompts[:2], rollouts, LOGPROBS, temperature=1.0)


def test_micro_batches_keep_the_budget_and_groups() -> None:
    policy, prompts, rollouts = batch("qwen2_5_vl")
    lengths = rollouts.valid.sum(1).tolist()
    for layout in ("shared", "padded"):
        for budget in (60, 90, 10_000):
            batches = policy.micro_batches(prompts, rollouts, budget=budget, layout=layout)
            assert sorted(r for b in batches for r in b.rows) == list(range(len(rollouts)))
            for made in batches:
                groups = rollouts.group[list(made.rows)].tolist()
                if layout == "shared":
                    tokens = sum(len(prompts[g]) for g in set(groups)) + sum(lengths[r] for r in made.rows)
                else:
                    longest = max(len(prompts[g]) + lengths[r] for g, r in zip(groups, made.rows, strict=True))
                    tokens = longest * len(made.rows)
                assert made.tokens == tokens <= budget
                assert made.responses == sum(lengths[r] for r in made.rows)
            assert batches == policy.micro_batches(prompts, rollouts, budget=budget, layout=layout)
    with pytest.raises(ValueError, match=r"train.token_budget .* must be at least 1, got 0"):
        policy.micro_batches(prompts, rollouts, budget=0, layout="shared")


def test_lone_response_over_the_budget_runs_alone_with_a_warning() -> None:
    policy, prompts, _ = batch("qwen2")
    rollouts = rollouts_for(policy, 3, RAGGED[:3])
    with pytest.warns(UserWarning, match=r"sample s1: prompt \(\d+ tokens\) and response \(9\) exceed"):
        batches = policy.micro_batches(prompts, rollouts, budget=len(prompts[1]) + 5, layout="shared")
    assert (4,) in [b.rows for b in batches]


def test_sampling_is_counted() -> None:
    """Prefill and decode: forwards, tokens, positions, FLOPs and seconds, for text and vision models alike."""
    from mmcredit.rollout.engine import Request, Sampling
    from mmcredit.rollout.engines.hf import HF

    for family in ("qwen3", "qwen2_5_vl"):
        policy = make_policy(family)
        prompts = [policy.encode(s) for s in samples(family)]
        engine = HF().open(policy)
        requests = [Request(p, (1, 2), tag=i) for i, p in enumerate(prompts)]
        count = 2 * len(prompts)
        responses = engine.generate(requests, Sampling(max_new_tokens=5, min_new_tokens=5))
        cost = policy.costs.read()["rollout"]
        assert sum(len(r.tokens) for r in responses) == 5 * count
        assert cost["positions"] == 5 * count  # a head per sampled token
        read = cost["tokens"] - 4 * count  # the last token of a response is not read
        assert sum(map(len, prompts)) <= read <= len(prompts) * max(map(len, prompts))
        assert 1 + 4 <= cost["forwards"] <= len(prompts) + 4
        body, head = policy.body.size, policy.body.head_size
        tower = 0 if policy.body.vision is None else 2 * policy.body.vision.size * cost["patches"]
        assert cost["flops"] == pytest.approx(2 * (body * cost["tokens"] + head * cost["positions"]) + tower)
        assert cost["seconds"] > 0
        with policy.costs.sampling_for("evaluate"):
            engine.generate(requests[:1], Sampling(max_new_tokens=2))
        assert policy.costs.read()["rollout"] == cost
        assert policy.costs.read()["evaluate"]["forwards"] >= 1
        longer = [Request(prompts[0], (1,), prefix=[30, 31, 32])]
        before = policy.costs.read()["rollout"]["tokens"]
        engine.generate(longer, Sampling(max_new_tokens=1))
        assert policy.costs.read()["rollout"]["tokens"] == before + len(prompts[0]) + 3
