"""What is checked at the first step, and what raises an alarm later."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

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


QUIET_STEPS = (
    20  # steps without its cause before an alarm is raised anew: a share that hovers at its limit is one alarm
)


class Alarms:
    """Signs that a run learns nothing. Each is raised once, and anew after `QUIET_STEPS` steps without its cause."""

    def __init__(self, config: CheckBlock) -> None:
        self.config = config
        self.last_reward: str | None = None
        self.same_reward = 0
        self.quiet: dict[str, int] = {}  # steps since an alarm's cause was last seen

    def look(self, metrics: Mapping[str, float]) -> list[str]:
        """Messages for this step's metrics."""
        reward = json.dumps(metrics["reward/mean"])
        self.same_reward = self.same_reward + 1 if reward == self.last_reward else 1
        self.last_reward = reward
        limit = self.config
        found = {
            "zero_signal": (
                metrics["group/zero_signal"] >= limit.zero_signal_alarm,
                f"{metrics['group/zero_signal']:.0%} of the groups have no signal (all rewards equal): questions are "
                "too easy, too hard, or the reward cannot tell answers apart",
            ),
            "no_gradient": (
                metrics["credit/nonzero_fraction"] == 0,
                "no token of this batch has any credit; nothing was learnt in this step",
            ),
            "stuck_reward": (
                self.same_reward >= limit.stuck_reward_steps,
                f"the mean reward has been {reward} for {self.same_reward} steps",
            ),
            "mismatch": (
                metrics.get("mismatch/kl", 0.0) > limit.max_mismatch_kl,
                f"sampler and trainer disagree by KL {metrics.get('mismatch/kl', 0.0):.3g} nats per token",
            ),
            "truncated": (
                metrics["response/truncated"] > 0.5,
                f"{metrics['response/truncated']:.0%} of the responses hit rollout.sampling.max_new_tokens",
            ),
            "tokenisation_drift": (
                metrics.get("tokenisation/drift", 0.0) > 0.2,
                f"{metrics.get('tokenisation/drift', 0.0):.0%} of the responses read back as other tokens than sampled",
            ),
        }
        messages = []
        for name, (active, message) in found.items():
            if active and self.quiet.get(name, QUIET_STEPS) >= QUIET_STEPS:
                messages.append(message)
            self.quiet[name] = 0 if active else self.quiet.get(name, QUIET_STEPS) + 1
        return messages

    def state_dict(self) -> dict[str, Any]:
        """What has been seen so far."""
        return {"last_reward": self.last_reward, "same_reward": self.same_reward, "quiet": dict(self.quiet)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self.last_reward, self.same_reward = state["last_reward"], state["same_reward"]
        self.quiet = dict(state["quiet"])
