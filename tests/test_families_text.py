"""Text families: passes against the model's own forward, the layouts, the sampler; a base model without a template."""

from __future__ import annotations

import pytest
import torch
from families import DECODERS, tiny_decoder
from family_cases import own_logprobs
from policy_cases import ALL, assert_close, both, gradients, rollouts_for, sample
from runs import metrics, parse
from tiny import save

from mmcredit.policy.config import ModelConfig
from mmcredit.policy.passes import CLEAN, Pass
from mmcredit.policy.policy import Policy
from mmcredit.policy.vision import UnsupportedModel
from mmcredit.rollout.engine import Request, Sampling
from mmcredit.rollout.engines.hf.component import HF
from mmcredit.train.loop import train

TEXTS = ["how many", "what is left of the red square in the image " * 3, "the answer"]


def policy_of(family: str) -> Policy:
    model, tokenizer = tiny_decoder(family)
    return Policy(model, tokenizer, None, ModelConfig(path="in memory"))


@pytest.mark.parametrize("family", DECODERS)
def test_passes_layouts_and_sampler_are_the_models_own_forward(family: str) -> None:
    policy = policy_of(family)
    prompts = [policy.encode(sample(f"s{i}", t, [])) for i, t in enumerate(TEXTS)]
    rollouts = rollouts_for(policy, 3, [[7, 1, 24], [3, 9], [12, 2]])
    assert policy.layout(prompts, rollouts) == "shared"
    policy.check_family(prompts)
    shared, padded = both(policy, lambda: policy.score(prompts, rollouts, [Pass(CLEAN, ALL)], temperature=1.0)[CLEAN])
    for name, value in shared.items():
        torch.testing.assert_close(value, padded[name], atol=2e-5, rtol=1e-5)
    for row, group in enumerate(rollouts.group.tolist()):
        tokens = rollouts.tokens[row][rollouts.valid[row]]
        expected = own_logprobs(policy, prompts[group], tokens)
        torch.testing.assert_close(shared["logprobs"][row, : len(tokens)], expected, atol=2e-5, rtol=0)
    a, b = both(policy, lambda: gradients(policy, prompts, rollouts, [Pass(CLEAN, frozenset({"logprobs"}))]))
    assert_close(a, b, 2e-5)
    # Continuations of different lengths: prefixes are left padded, windows count past the padding.
    requests = [Request(p, (1, 2), prefix=tuple(range(30, 30 + 3 * i)), tag=i) for i, p in enumerate(prompts)]
    for response in HF().open(policy).generate(requests, Sampling(max_new_tokens=24)):
        tokens = torch.tensor([*requests[response.tag].prefix, *response.tokens])
        expected = own_logprobs(policy, prompts[response.tag], tokens)[-len(response.tokens) :]
        torch.testing.assert_close(torch.tensor(response.logprobs), expected, atol=2e-5, rtol=0)


def test_a_soft_cap_behind_the_head_is_refused() -> None:
    policy = policy_of("gemma2")
    prompt = policy.encode(sample("s", TEXTS[0], []))
    with pytest.raises(UnsupportedModel, match="Gemma2ForCausalLM cannot be trained: on sample s log-probs of a pass"):
        policy.check_family([prompt])


def test_a_base_model_without_a_template_trains(tmp_path) -> None:
    model, tokenizer = tiny_decoder("gemma3_text")
    tokenizer.chat_template = None
    folder = save(model, tokenizer, tmp_path / "base")
    rows = "".join(f'{{"prompt": "what is {i} + 1", "answer": "{i + 1}"}}\n' for i in range(4))
    (tmp_path / "rows.jsonl").write_text(rows)
    small = {"rollout__prompts": 2, "rollout__group": 3, "rollout__sampling": {"max_new_tokens": 12}}
    data = {"data": {"train": {"jsonl": {"path": str(tmp_path / "rows.jsonl")}}}}
    config = parse(tmp_path, model={"path": str(folder), "chat_template": "none"}, run__steps=2, **small, **data)
    train(config)
    found = metrics(tmp_path / "run")
    assert len(found) == 2
    assert all(row["policy/grad_norm"] > 0 for row in found)
