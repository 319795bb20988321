"""Supervised training of a verifier: `mmcredit.supervised` with the verifications as targets."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from mmcredit.components import build
from mmcredit.config import OptimizerBlock
from mmcredit.data.dropped import reason_of
from mmcredit.seeds import derive
from mmcredit.supervised.sft import fit_batch
from mmcredit.supervised.taught import Taught, teach
from mmcredit.world import ALONE
from prm.local import verification_sample
from prm.train.annotate import Example, target_text

if TYPE_CHECKING:
    from mmcredit.policy.policy import Policy
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


def prepare(
    examples: Sequence[Example], policy: Policy, layout: Layout, longest: int
) -> tuple[list[Taught], dict[str, int]]:
    """Encoded examples, and how many were too long or refused by the model's template."""
    dropped = {"too long": 0, "refused": 0}
    out = []
    for example in examples:
        try:
            sample = verification_sample(example.query, layout)
            out.append(teach(sample, target_text(example.said), policy, max_tokens=longest))
        except ValueError as error:
            dropped["too long" if reason_of(error) == "too long" else "refused"] += 1
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
    total = steps_of(len(taught), config)
    block = OptimizerBlock(
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        warmup_steps=max(1, round(config.warmup * total)),
        schedule="cosine",
    )
    engine = build("train_engine", "local").open(policy, block, total, ALONE)  # type: ignore[attr-defined]
    losses: list[float] = []
    for step, batch in enumerate(_batches(taught, config, seed)):
        if step == total:
            break
        loss = fit_batch(batch, policy, engine, token_budget=config.token_budget)["loss"]
        if not math.isfinite(loss):
            raise RuntimeError(f"the loss of step {step} is {loss}; lower learning_rate")
        engine.step()
        policy.weights_changed()
        losses.append(loss)
        if tell is not None:
            tell(step, loss)
    return losses


def steps_of(examples: int, config: SFTConfig) -> int:
    """Optimizer steps of a training on that many examples."""
    return min(config.epochs * math.ceil(examples / config.batch), config.steps or 10**9)


def _batches(taught: Sequence[Taught], config: SFTConfig, seed: int) -> Iterator[list[Taught]]:
    for epoch in range(config.epochs):
        order = list(range(len(taught)))
        random.Random(derive(seed, "prm epoch", epoch)).shuffle(order)
        for start in range(0, len(order), config.batch):
            yield [taught[i] for i in order[start : start + config.batch]]
