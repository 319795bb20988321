"""Tiny policies, prompts and rollouts that the tests of the policy share."""

from __future__ import annotations

import torch
from tiny import tiny_png, tiny_text, tiny_vl

from mmcredit.data.sample import Media, Sample
from mmcredit.policy.config import ModelConfig
from mmcredit.policy.load import prepare
from mmcredit.policy.policy import Policy
from mmcredit.rollouts import Rollouts

ALL = frozenset({"logprobs", "entropy", "logsumexp", "sampled_logit", "self_certainty"})
FAMILIES = ["qwen2_5_vl", "qwen3_vl", "qwen2", "qwen3"]


def make_policy(family: str, **options) -> Policy:
    """A tiny policy; options are fields of the model config."""
    lora = options.get("lora")
    config = ModelConfig(path="in memory", **options)
    if family.endswith("_vl"):
        model, processor = tiny_vl(family)
        model = prepare(model, config)
        policy = Policy(model, processor.tokenizer, processor, config)
    else:
        model, tokenizer = tiny_text(family)
        policy = Policy(prepare(model, config), tokenizer, None, config)
    if lora is not None:  # B starts at zero: give the adapters something to say
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for p in policy.trainable_parameters().values():
                p.add_(torch.randn(p.shape, generator=generator) * 0.05)
    return policy


def sample(name: str, text: str, images: list) -> Sample:
    """A sample with images given as (side, seed)."""
    parts = [{"type": "image"} for _ in images] + [{"type": "text", "text": text}]
    media = tuple(Media("image", data=tiny_png(side, seed)) for side, seed in images)
    return Sample(name, ({"role": "user", "content": parts},), media)


def samples(family: str) -> list[Sample]:
    """Images of different sizes, several in one prompt, text only; short and long."""
    if not family.endswith("_vl"):
        texts = ["how many", "what is left of the red square in the image " * 3, "the answer"]
        return [sample(f"s{i}", t, []) for i, t in enumerate(texts)]
    return [
        sample("one", "how many red squares are there?", [(64, 0)]),
        sample("text", "what is 3 + 4", []),
        sample("wide", "what is left", [((160, 64), 1)]),
        sample("two", "which image is blue", [(64, 0), ((96, 128), 2)]),
    ]


def rollouts_for(policy: Policy, prompts: int, lengths: list[list[int]], seed: int = 0) -> Rollouts:
    """Random responses; lengths[p] lists those of prompt p."""
    assert len(lengths) == prompts
    flat = [n for group in lengths for n in group]
    generator = torch.Generator().manual_seed(seed)
    t = max(flat)
    tokens = torch.randint(20, 380, (len(flat), t), generator=generator)
    valid = torch.arange(t) < torch.tensor(flat)[:, None]
    group = torch.tensor([p for p, g in enumerate(lengths) for _ in g])
    return Rollouts(tokens=tokens, mask=valid, group=group, rewards=torch.zeros(len(flat)))


RAGGED = [[7, 1, 4], [3, 9], [12, 12, 1], [5, 2]]


def batch(family: str, **options):
    """Policy, prompts, rollouts."""
    policy = make_policy(family, **options)
    prompts = [policy.encode(s) for s in samples(family)]
    return policy, prompts, rollouts_for(policy, len(prompts), RAGGED[: len(prompts)])


def both(policy: Policy, run):
    """The result of `run` in the shared and in the padded layout."""
    results = []
    for layout in ("shared", "padded"):
        policy._layout = layout
        results.append(run())
    return results


def gradients(policy: Policy, prompts, rollouts, passes, outputs=("logprobs",), rows=None) -> dict[str, torch.Tensor]:
    """Gradient of a fixed weighted sum of outputs."""
    policy.model.zero_grad()
    rows = range(len(rollouts)) if rows is None else rows
    out = policy.forward(prompts, rollouts, list(rows), passes, temperature=0.8)
    weights = torch.randn(rollouts.tokens.shape, generator=torch.Generator().manual_seed(5))[list(rows)]
    total = sum((out[p.view][name] * weights).sum() for p in passes for name in outputs)
    total.backward()
    return {n: p.grad.clone() for n, p in policy.trainable_parameters().items() if p.grad is not None}


def assert_close(a: dict, b: dict, limit: float) -> None:
    assert a.keys() == b.keys()
    assert a
    for name in a:
        scale = max(float(b[name].abs().max()), 1e-6)
        assert float((a[name] - b[name]).abs().max()) <= limit * max(scale, 1e-2), name


def tower_calls(policy: Policy):
    """A list that grows by the patches of each tower call."""
    calls: list[int] = []
    assert policy.tower is not None

    def note(module, args, kwargs):
        calls.append(len(args[0] if args else kwargs["pixel_values"]))

    policy.tower.register_forward_pre_hook(note, with_kwargs=True)
    return calls
