"""Policies of the families beside the Qwens, with prompts and rollouts, for the tests of each."""

from __future__ import annotations

from typing import Any

import torch
from families import tiny_family
from policy_cases import rollouts_for, sample

from mmcredit.data.sample import Sample
from mmcredit.policy.config import ModelConfig
from mmcredit.policy.load import prepare
from mmcredit.policy.policy import Policy
from mmcredit.policy.prompt import Prompt
from mmcredit.rollouts import Rollouts

LENGTHS = [[7, 1, 4], [3, 9], [12, 2], [5, 2]]


def family_policy(family: str, **options: Any) -> Policy:
    """A tiny policy; options are fields of the model config."""
    config = ModelConfig(path="in memory", **options)
    model, processor = tiny_family(family)
    return Policy(prepare(model, config), processor.tokenizer, processor, config)


def family_samples() -> list[Sample]:
    """One image of several tiles, none, one of one tile, and two images in one prompt."""
    return [
        sample("tiles", "how many red squares are there?", [((120, 60), 0)]),
        sample("text", "what is 3 + 4", []),
        sample("small", "what is left", [(32, 1)]),
        sample("two", "which image is blue", [((60, 120), 0), (32, 2)]),
    ]


def family_batch(family: str, **options: Any) -> tuple[Policy, list[Prompt], Rollouts]:
    """Policy, prompts, rollouts."""
    policy = family_policy(family, **options)
    prompts = [policy.encode(s) for s in family_samples()]
    return policy, prompts, rollouts_for(policy, len(prompts), LENGTHS)


def own_logprobs(policy: Policy, prompt: Prompt, tokens: torch.Tensor) -> torch.Tensor:
    """Log-probs of response tokens [R] by the model's own forward on its processor's own output, one row, no cache."""
    assert prompt.sample is not None
    out = policy.encoder.whole(prompt.sample)
    assert out is not None
    rest, shape = tokens[None, :-1], out["input_ids"].shape
    for name, value in list(out.items()):
        if value.shape == shape:
            more = rest if name == "input_ids" else torch.full_like(rest, int(name == "attention_mask"))
            out[name] = torch.cat([value, more], 1)
    model: Any = policy.model
    with torch.no_grad():
        logits = model(**out, use_cache=False).logits[0, -len(tokens) :]
    logits[:, list(policy.suppressed_ids)] = -torch.inf
    return logits.log_softmax(-1).gather(1, tokens[:, None])[:, 0]
