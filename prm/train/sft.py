"""Supervised training of a verifier on the policy's own forward: next-token loss on what it shall write."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from pydantic import BaseModel, ConfigDict, Field

from mmcredit.policy.passes import CLEAN, Pass
from mmcredit.rollouts import Rollouts
from mmcredit.seeds import derive
from prm.local import verification_sample
from prm.train.annotate import Example, target_text

if TYPE_CHECKING:
    from mmcredit.policy.policy import Policy
    from mmcredit.policy.prompt import Prompt
    from prm.prompt import Layout


class SFTConfig(BaseModel):
    """How a verifier is trained. The paper publishes none of it; the defaults are ours, for full fine-tuning."""

    model_config = ConfigDict(extra="forbid")

    learning_rate: float = Field(1e-5, gt=0, description="peak; cosine to 0")
    warmup: float = Field(0.03, ge=0, lt=1, description="share of the steps in which the rate rises")
    epochs: int = Field(2, ge=1, description="passes over the examples")
    steps: int | None = Field(None, ge=1, description="optimizer steps at most; none: all of the epochs")
    batch: int = Field(64, ge=1, description="examples per optimizer step")
    token_budget: int = Field(16384, ge=1, description="tokens per micro-batch, visual ones included")
    weight_decay: float = Field(0.0, ge=0, description="of AdamW")
    max_grad_norm: float = Field(1.0, gt=0, description="gradients are scaled down to this norm")


@dataclass(frozen=True)
class Taught:
    """An example as the model reads it: the prompt, and the ids to be written after it."""

    prompt: Prompt
    target: tuple[int, ...]


def prepare(
    examples: Sequence[Example], policy: Policy, layout: Layout, longest: int
) -> tuple[list[Taught], dict[str, int]]:
    """Encoded examples, and how many were too long or refused by the model's template."""
    dropped = {"too long": 0, "refused": 0}
    out = []
    end = policy.eos_token_ids[0]
    for example in examples:
        try:
            prompt = policy.encode(verification_sample(example.query, layout))
        except ValueError:
            dropped["refused"] += 1
            continue
        ids = policy.tokenizer(target_text(example.said), add_special_tokens=False)["input_ids"]
        if len(prompt) + len(ids) + 1 > longest:
            dropped["too long"] += 1
            continue
        out.append(Taught(prompt, (*ids, end)))
    return out, dropped


def train(
    taught: Sequence[Taught],
    policy: Policy,
    config: SFTConfig,
    seed: int,
    tell: Callable[[int, float], Any] | None = None,
) -> list[float]:
    """Train the policy's weights on the examples; the loss (nats per target token) of every step.

    Every target token of a batch weighs the same, whatever micro-batch it is in. `tell(step, loss)` is called after
    each step. Raises ValueError without examples, RuntimeError for a loss that is not finite.
    """
    if not taught:
        raise ValueError("there is no example to train on")
    per_epoch = math.ceil(len(taught) / config.batch)
    total = min(config.epochs * per_epoch, config.steps or 10**9)
    parameters = list(policy.trainable_parameters().values())
    optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, total, config.warmup))
    losses: list[float] = []
    for step, batch in enumerate(_batches(taught, config, seed)):
        if step == total:
            break
        optimizer.zero_grad(set_to_none=True)
        loss = _backward(batch, policy, config.token_budget)
        if not math.isfinite(loss):
            raise RuntimeError(f"the loss of step {step} is {loss}; lower learning_rate")
        torch.nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
        optimizer.step()
        schedule.step()
        policy.weights_changed()
        losses.append(loss)
        if tell is not None:
            tell(step, loss)
    return losses


def _rate(step: int, total: int, warmup: float) -> float:
    rising = max(1, round(warmup * total))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, total - rising)))


def _batches(taught: Sequence[Taught], config: SFTConfig, seed: int) -> Iterator[list[Taught]]:
    for epoch in range(config.epochs):
        order = list(range(len(taught)))
        random.Random(derive(seed, "prm epoch", epoch)).shuffle(order)
        for start in range(0, len(order), config.batch):
            yield [taught[i] for i in order[start : start + config.batch]]


def _backward(batch: Sequence[Taught], policy: Policy, budget: int) -> float:
    """Add the gradient of the mean loss per target token; that loss."""
    rollouts = as_rollouts(batch, policy.tokenizer.pad_token_id)
    prompts = [each.prompt for each in batch]
    count = int(rollouts.mask.sum())
    loss = 0.0
    for part in policy.micro_batches(prompts, rollouts, budget=budget):
        found = policy.forward(prompts, rollouts, part.rows, [Pass(CLEAN, frozenset({"logprobs"}))], temperature=1.0)
        mask = rollouts.mask[torch.tensor(part.rows)].to(policy.device)
        value = -(found[CLEAN]["logprobs"] * mask).sum() / count
        value.backward()
        loss += float(value.detach())
    return loss


def as_rollouts(batch: Sequence[Taught], pad: int | None) -> Rollouts:
    """The targets as responses, each to a prompt of its own."""
    width = max(len(each.target) for each in batch)
    tokens = torch.full((len(batch), width), pad or 0, dtype=torch.int64)
    mask = torch.zeros(len(batch), width, dtype=torch.bool)
    for row, each in enumerate(batch):
        tokens[row, : len(each.target)] = torch.tensor(each.target)
        mask[row, : len(each.target)] = True
    return Rollouts(tokens, mask, torch.arange(len(batch)), torch.zeros(len(batch)))
