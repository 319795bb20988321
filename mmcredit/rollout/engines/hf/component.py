"""Sampling from the training model itself, through transformers. The component; its inside is `engine`."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from mmcredit.components import register
from mmcredit.rollout.engines.hf.settings import Settings

if TYPE_CHECKING:
    from mmcredit.policy.policy import Policy
    from mmcredit.rollout.engines.hf.engine import HFEngine


@register("engine", "hf")
class HF(Settings):
    """Samples from the policy's own weights with a decode loop over the model body; needs nothing but transformers.

    A prompt is read once and stored once, whatever the size of its group; its responses attend to that one copy.
    Finished responses leave the batch. The response of (prompt, seed) does not depend on what is sampled beside it, up
    to float noise of the logits. There is nothing to synchronise: the weights are the training model's.

    Every log-prob is that of the full softmax at the sampling temperature, suppressed ids masked, before top-k and
    top-p.

    Cost: one prompt forward per prompt, one forward per token over the responses that are left.
    """

    takes_reactions: ClassVar[bool] = True  # a response may be given tokens and media in its middle
    takes_hook: ClassVar[bool] = True  # the engine it opens has a `hook` that sees the logits before each draw

    def open(self, policy: Policy) -> HFEngine:
        """An engine on this policy's model."""
        from mmcredit.rollout.engines.hf.engine import HFEngine  # configs are checked without torch

        return HFEngine(policy, self)
