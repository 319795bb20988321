"""What is checked at the first step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from mmcredit.config import CheckBlock
from mmcredit.rollouts import Rollouts

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Mismatch:
    """How far the sampler's log-probs are from the trainer's, over credited tokens."""

    kl: float  # k3 estimate of KL(sampler || trainer), nats per token
    largest: float  # largest |difference| of a log-prob
    not_finite: int  # tokens whose sampler log-prob is NaN or infinite; left out of the two above


def mismatch(rollouts: Rollouts, logprobs: Tensor) -> Mismatch | None:
    """Compare `rollouts.sampler_logprobs` with the trainer's `logprobs`; None without sampler log-probs."""
    if rollouts.sampler_logprobs is None:
        return None
    sampled = rollouts.sampler_logprobs
    usable = rollouts.mask & torch.isfinite(sampled)
    difference = (logprobs.detach() - sampled)[usable].double().clamp(-20, 20)
    not_finite = int((rollouts.mask & ~torch.isfinite(sampled)).sum())
    if not len(difference):
        return Mismatch(0.0, 0.0, not_finite)
    return Mismatch(float((difference.exp() - 1 - difference).mean()), float(difference.abs().max()), not_finite)


def parity_gate(found: Mismatch, config: CheckBlock) -> None:
    """Stop the run if sampler and trainer disagree at the first step. Raises RuntimeError naming what to look at."""
    if found.kl > config.max_mismatch_kl:
        raise RuntimeError(
            f"sampler and trainer disagree: KL {found.kl:.4g} nats per token (largest difference of a log-prob "
            f"{found.largest:.3g}), allowed is check.max_mismatch_kl = {config.max_mismatch_kl}. They should run the "
            "same weights on the same input: look at rollout.engine (did the weights arrive?), "
            "rollout.sampling.temperature, model.dtype, and the image size limits model.min_pixels / model.max_pixels"
        )


def image_sensitivity(clean: Tensor, blind: Tensor, rows: Tensor, mask: Tensor) -> float:
    """Mean |log-prob with the image - without| over the credited tokens of `rows` [B] bool, nats."""
    where = mask & rows[:, None]
    return float((clean - blind).abs()[where].mean()) if bool(where.any()) else 0.0


def image_gate(sensitivity: float, config: CheckBlock) -> None:
    """Stop the run if hiding the image changes nothing. Raises RuntimeError."""
    if sensitivity < config.min_image_sensitivity:
        raise RuntimeError(
            f"hiding the image moves the log-probs by {sensitivity:.3g} nats on average, less than "
            f"check.min_image_sensitivity = {config.min_image_sensitivity}: the model does not see the image. Check "
            "that the image column is read (mmcredit check) and that the chat template has an image placeholder"
        )
