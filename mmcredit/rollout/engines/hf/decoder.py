"""The parts of a policy that decoding needs: embeddings, text body, head, and whole prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import pad

from mmcredit.policy.forward import EmbeddedPrompt
from mmcredit.policy.policy import Policy
from mmcredit.policy.prompt import Prompt
from mmcredit.policy.seeing import windows

if TYPE_CHECKING:
    from torch import Tensor


class Decoder:
    """A policy seen as a text decoder."""

    def __init__(self, policy: Policy) -> None:
        body = policy.body
        self.policy = policy
        self.cost = policy.costs.sampling()
        self.body: Any = body.language_model
        self.head: Any = body.head
        self.embed_tokens: Any = body.embed
        self.device: torch.device = body.device
        self.vocabulary: int = body.vocabulary
        config: Any = self.body.config
        self.max_positions: int | None = getattr(config, "max_position_embeddings", None)
        self.windows: bool = any(window is not None for window in windows(config).values())
        self.both_ways: bool = body.both_ways
        self.hybrid: bool = body.hybrid
        self.takes_insertions: bool = not (self.windows or self.both_ways or body.hybrid)

    def read(self, prompts: Sequence[Prompt], **options: Any) -> Tensor:
        """Hidden states [p,L,d] of these prompts, right padded, images included; `options` go to the body."""
        inputs = pad_embedded(self.policy.embed(prompts), self.device)
        self.count(inputs["inputs_embeds"].shape[0] * inputs["inputs_embeds"].shape[1])
        return self.body(**inputs, **options).last_hidden_state

    def count(self, tokens: int) -> None:
        """Note one forward of the body over `tokens` (padding included)."""
        self.cost.forwards += 1
        self.cost.tokens += tokens
        self.cost.flops += 2.0 * self.policy.body.size * tokens

    def count_head(self, positions: int) -> None:
        """Note what the head reads."""
        self.cost.positions += positions
        self.cost.flops += 2.0 * self.policy.body.head_size * positions


def pad_embedded(embedded: Sequence[EmbeddedPrompt], device: torch.device) -> dict[str, Any]:
    """Arguments of a text body for prompts right padded with zeros to one length.

    `inputs_embeds` [p,L,d], `position_ids` [p,L] or [3,p,L], and for deep-stack models `visual_pos_masks` [p,L] and
    `deepstack_visual_embeds`, [visual tokens of all prompts, d] per layer.
    """
    width = max(e.embeds.shape[0] for e in embedded)
    after = [width - e.embeds.shape[0] for e in embedded]
    inputs: dict[str, Any] = {
        "inputs_embeds": torch.stack([pad(e.embeds, (0, 0, 0, n)) for e, n in zip(embedded, after, strict=True)]),
        "position_ids": torch.stack([pad(e.positions, (0, n)) for e, n in zip(embedded, after, strict=True)], -2).to(
            device
        ),
    }
    layers = [e.deepstack for e in embedded if e.deepstack]
    if layers:
        visual = torch.stack([pad(e.visual, (0, n)) for e, n in zip(embedded, after, strict=True)])
        inputs["visual_pos_masks"] = visual.to(device)
        inputs["deepstack_visual_embeds"] = [torch.cat(list(layer)) for layer in zip(*layers, strict=True)]
    return inputs
