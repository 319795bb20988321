"""Sampling from the training model itself, through transformers. The config; `mmcredit.rollout.hf_engine` does it."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from mmcredit.components import Component, register

if TYPE_CHECKING:
    from mmcredit.policy.policy import Policy
    from mmcredit.rollout.hf_engine import HFEngine


@register("engine", "hf")
class HF(Component):
    """Samples from the policy's own weights with a decode loop over the model body; needs nothing but transformers.

    A prompt is read once and stored once, whatever the size of its group; its responses attend to that one copy.
    Finished responses leave the batch. The response of (prompt, seed) does not depend on what is sampled beside it, up
    to float noise of the logits. There is nothing to synchronise: the weights are the training model's.

    Every log-prob is that of the full softmax at the sampling temperature, suppressed ids masked, before top-k and
    top-p. Attention with sliding windows is taken as long as a sequence fits in the window.

    Cost: one prompt forward per prompt, one forward per token over the responses that are left.
    """

    takes_hook: ClassVar[bool] = True  # the engine it opens has a `hook` that sees the logits before each draw

    max_concurrent: int = Field(256, ge=1, description="responses sampled at a time")
    max_cache_tokens: int = Field(262_144, ge=1, description="tokens whose keys and values are held at a time")
    prefill_tokens: int = Field(8192, ge=1, description="prompt tokens read in one forward, padding included")

    def open(self, policy: Policy) -> HFEngine:
        """An engine on this policy's model."""
        from mmcredit.rollout.hf_engine import HFEngine  # configs are checked without torch

        return HFEngine(policy, self)
