"""The engine `vllm` against the engine `hf`: the same responses, log-probs, stops, prefixes; weights and caches."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("vllm", reason="vLLM is tested in an environment of its own: scripts/test_vllm.sh")

from test_rollout_hf import engine as hf_engine
from test_rollout_hf import make_policy, make_prompts, reference_logprobs, requests, same, sample

from mmcredit.components import build
from mmcredit.policy.config import LoRAConfig, ModelConfig
from mmcredit.policy.load import prepare
from mmcredit.policy.policy import Policy
from mmcredit.rollout.drawing.temperature import EntropyTemperature, TemperatureHook
from mmcredit.rollout.engine import Request, Sampling
from mmcredit.rollout.engines.vllm.weights import policy_weights
from mmcredit.statistics.entropy_scale import EntropyScale

NOISE = 2e-4  # nats; vLLM's kernels in float32 against a plain forward gave 3e-6 here
FAMILIES = ["qwen2", "qwen3", "qwen2_5_vl", "qwen3_vl"]


@pytest.fixture(scope="module", params=FAMILIES)
def opened(request):
    policy = make_policy(request.param)
    engine = build("engine", {"vllm": {"max_model_len": 1024}}).open(policy)
    yield policy, engine
    engine.close()


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(max_new_tokens=24),
        Sampling(max_new_tokens=24, temperature=0),
        Sampling(max_new_tokens=24, temperature=0.7, top_p=0.9, top_k=50, min_new_tokens=8),
        Sampling(max_new_tokens=24, min_new_tokens=5, stop_token_ids=tuple(range(20, 200))),
        Sampling(max_new_tokens=40, stop=("e", "an")),
        Sampling(max_new_tokens=40, stop=("e",), min_new_tokens=6),
    ],
    ids=["plain", "greedy", "narrow", "ends", "strings", "strings-late"],
)
def test_responses_are_those_of_hf(opened, sampling):
    policy, engine = opened
    prompts = make_prompts(policy)
    told: list[int] = []
    got = engine.generate(requests(prompts), sampling, told.append)
    expected = hf_engine(policy).generate(requests(prompts), sampling)
    assert sum(told) == len(got) == len(expected) == 12
    for a, b in zip(got, expected, strict=True):
        assert (a.tag, a.member, a.tokens, a.finish) == (b.tag, b.member, b.tokens, b.finish)
        assert a.logprobs == pytest.approx(b.logprobs, abs=NOISE)
        assert not set(a.tokens) & set(policy.suppressed_ids)


def test_prefixes_limits_and_tags(opened):
    policy, engine = opened
    prompts = make_prompts(policy)
    asked = [
        Request(prompts[0], range(3), prefix=(30, 31, 32), tag=7),
        Request(prompts[1], [5, 5 + 2**64], limit=4, tag=8),
        Request(prompts[2], [], tag=9),
    ]
    got = engine.generate(asked, Sampling(max_new_tokens=12))
    expected = hf_engine(policy).generate(asked, Sampling(max_new_tokens=12))
    assert [(r.tag, r.member, r.tokens, r.finish) for r in got] == [
        (r.tag, r.member, r.tokens, r.finish) for r in expected
    ]
    assert all(
        same(a, b) or a.logprobs == pytest.approx(b.logprobs, abs=NOISE) for a, b in zip(got, expected, strict=True)
    )
    assert engine.generate([], Sampling()) == []


def test_a_response_does_not_depend_on_its_company(opened):
    policy, engine = opened
    prompts = make_prompts(policy)
    whole = engine.generate(requests(prompts), Sampling(max_new_tokens=16))
    alone = [
        engine.generate([Request(r.prompt, r.seeds, tag=r.tag)], Sampling(max_new_tokens=16)) for r in requests(prompts)
    ]
    assert [r.tokens for r in whole] == [r.tokens for part in alone for r in part]


def test_temperatures_by_entropy_are_those_of_hf(opened):
    policy, engine = opened
    prompts = make_prompts(policy)
    scale = EntropyScale.measure(torch.linspace(4.0, 5.9, 50), 0.8, 1e-8)
    hook = TemperatureHook(EntropyTemperature(scale, 0.4, 1.0, "intended", policy.suppressed_ids))
    reference = hf_engine(policy)
    reference.hook = engine.hook = hook
    try:
        got = engine.generate(requests(prompts), Sampling(max_new_tokens=16))
    finally:
        engine.hook = None
    expected = reference.generate(requests(prompts), Sampling(max_new_tokens=16))
    plain = engine.generate(requests(prompts), Sampling(max_new_tokens=16))
    assert [r.tokens for r in got] == [r.tokens for r in expected] != [r.tokens for r in plain]


def test_bad_requests_are_refused_with_the_setting(opened):
    policy, engine = opened
    prompts = make_prompts(policy)
    with pytest.raises(ValueError, match=r"sample a: .*max_new_tokens 9000 .*1024 positions"):
        engine.generate(requests(prompts), Sampling(max_new_tokens=9000))
    with pytest.raises(ValueError, match="stop string must not be empty"):
        engine.generate(requests(prompts), Sampling(stop=("",)))
    with pytest.raises(ValueError, match=r"seed must lie in .*got -1"):
        engine.generate([Request(prompts[0], [-1])], Sampling())


def worst(policy, engine, prompts) -> float:
    """Largest difference to the trainer's log-probs."""
    found = engine.generate(requests(prompts), Sampling(max_new_tokens=12))
    pairs = [(torch.tensor(r.logprobs), reference_logprobs(policy, prompts[r.tag], r.tokens)) for r in found]
    return max(float((a - b).abs().max()) for a, b in pairs)


@pytest.mark.parametrize("family", ["qwen3", "qwen2_5_vl", "qwen3_vl"])
def test_an_update_reaches_the_engine_the_tower_included(family):
    policy = make_policy(family)
    engine = build("engine", {"vllm": {"max_model_len": 1024}}).open(policy)
    try:
        prompts = make_prompts(policy)
        assert worst(policy, engine, prompts) < NOISE
        with torch.no_grad():
            for name, parameter in policy.model.named_parameters():
                if policy.tower is None or "visual" in name:
                    parameter.mul_(1.3)
        policy.weights_changed()
        assert worst(policy, engine, prompts) > 100 * NOISE  # the old weights
        engine.sync()
        assert worst(policy, engine, prompts) < NOISE
    finally:
        engine.close()


@pytest.mark.parametrize("left_out", ["encoder", "prefix"])  # in one process, reloading empties the third
def test_each_cache_reset_is_needed(left_out, monkeypatch):
    policy = make_policy("qwen2_5_vl")
    engine = build("engine", {"vllm": {"max_model_len": 1024}}).open(policy)
    try:
        # Longer than a block of the prefix cache, which holds whole blocks.
        prompts = [policy.encode(sample("d", "how many squares are there in the image " * 40, [(112, 0)]))]
        assert worst(policy, engine, prompts) < NOISE
        with torch.no_grad():
            for parameter in policy.model.parameters():
                parameter.mul_(1.3)
        llm = engine._llm
        if left_out == "encoder":
            monkeypatch.setattr(llm.llm_engine, "reset_encoder_cache", lambda: None)
        else:
            monkeypatch.setattr(llm, "reset_prefix_cache", lambda: True)
        engine.sync()
        try:
            wrong = worst(policy, engine, prompts) > NOISE
        except Exception:  # a cache miss in the scheduler ends the engine
            wrong = True
        assert wrong
    finally:
        engine.close()


def test_lora_is_merged_on_the_way():
    base = make_policy("qwen3")
    config = ModelConfig(path="in memory", lora=LoRAConfig(rank=4))
    policy = Policy(prepare(base.model, config, 0), base.tokenizer, None, config)
    engine = build("engine", {"vllm": {"max_model_len": 1024}}).open(policy)
    try:
        prompts = make_prompts(policy)
        before = [v.clone() for v in policy.state_dict().values()]
        with torch.no_grad():
            for parameter in policy.trainable_parameters().values():
                parameter.normal_(0.0, 0.2)
        engine.sync()
        assert worst(policy, engine, prompts) < NOISE
        with torch.no_grad():
            for parameter, old in zip(policy.trainable_parameters().values(), before, strict=True):
                parameter.copy_(old)
        assert worst(policy, engine, prompts) > 100 * NOISE
    finally:
        engine.close()


def test_weights_have_the_names_of_the_checkpoint():
    policy = make_policy("qwen2_5_vl")
    assert {name for name, _ in policy_weights(policy)} == set(policy.model.state_dict())
