"""Policies of the families beside the Qwens, with prompts and rollouts, for the tests of each."""

from __future__ import annotations

from typing import Any

import torch
from families import PLACEHOLDER, tiny_family
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
    text = policy.encoder.render(prompt.sample)
    images = [policy.encoder.load_image(m) for m in prompt.sample.media]
    options: dict[str, Any] = {"images": [images]} if images else {}
    out = dict(policy.processor(text=[text], return_tensors="pt", text_kwargs={"add_special_tokens": False}, **options))
    rest = tokens[None, :-1]
    out["input_ids"] = torch.cat([out["input_ids"], rest], 1)
    for name, value in (("attention_mask", 1), ("token_type_ids", 0)):
        if name in out:
            out[name] = torch.cat([out[name], torch.full_like(rest, value)], 1)
    out.pop("num_crops", None)
    model: Any = policy.model
    with torch.no_grad():
        logits = model(**out, use_cache=False).logits[0, -len(tokens) :]
    logits[:, list(policy.suppressed_ids)] = -torch.inf
    return logits.log_softmax(-1).gather(1, tokens[:, None])[:, 0]


__all__ = ["PLACEHOLDER", "family_batch", "family_policy", "family_samples", "own_logprobs"]
