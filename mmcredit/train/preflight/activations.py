"""What a backward pass has to keep per token, measured on the model itself.

A few tokens go through the body with a gradient, and the tensors that autograd keeps are counted. That is right for any
architecture, with adapters and with frozen parts, where a formula of widths would have to know each of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch.autograd.graph import saved_tensors_hooks

from mmcredit.policy.costs import ViewCost
from mmcredit.policy.layout import Row
from mmcredit.policy.prompt import Prompt
from mmcredit.rollouts import Rollouts

if TYPE_CHECKING:
    from torch import Tensor

    from mmcredit.policy.policy import Policy


@dataclass(frozen=True)
class Kept:
    """Bytes that the graph of one forward keeps; without gradient checkpointing, before the head."""

    prompt_token: float  # per token of a prompt that stands in the row
    response_token: float  # per response token
    repeated_token: float  # per prompt token and response: keys of the prompt that are copied for each response
    patch: float  # per patch of an image in the vision tower; 0 if that is frozen
    layers: int
    tower_layers: int
    shared: bool  # the layout that this model takes

    def body(self, prompts: int, prompt_tokens: int, rows: int, row_tokens: int) -> float:
        """Bytes for `prompts` prompts and `rows` responses of equal lengths."""
        read = prompts * prompt_tokens * self.prompt_token + rows * max(row_tokens - 1, 0) * self.response_token
        return read + rows * prompt_tokens * self.repeated_token

    def scaled(self, factor: float) -> Kept:
        """The same with values `factor` times as wide."""
        return replace(
            self,
            prompt_token=self.prompt_token * factor,
            response_token=self.response_token * factor,
            repeated_token=self.repeated_token * factor,
            patch=self.patch * factor,
        )


def measure(policy: Policy, seen: Prompt | None) -> Kept:
    """Count what is kept per token, and per patch with the media of `seen` (a prompt, or None).

    Takes forwards of about 130 text tokens and one of the tower. The layout of the policy is chosen by it, as at the
    first scores of a run.
    """
    sizes = (16, 32), (1, 2), (8, 16)
    (p, pp), (g, gg), (r, rr) = sizes
    layout = policy.layout([_prompt(policy, p)], _responses(policy, gg, r))

    def kept(prompt_tokens: int, rows: int, row_tokens: int) -> float:
        prompt = _prompt(policy, prompt_tokens)
        tokens = torch.full((row_tokens,), int(prompt.tokens[-1]))
        packed = [Row(prompt, tokens, 0) for _ in range(rows)]
        return _saved(
            policy,
            lambda: policy.body.hidden(packed, blind=False, layout=layout, weights="policy", cost=ViewCost()),
        )

    base = kept(p, g, r)
    response = (kept(p, g, rr) - base) / (rr - r)
    repeated = (kept(p, gg, r) - base - response * (r - 1)) / p
    prompt = (kept(pp, g, r) - base) / (pp - p) - repeated
    layers = int(policy.body.config.num_hidden_layers)
    patch, tower_layers = _patch(policy, seen)
    return Kept(
        max(prompt, 0.0), max(response, 0.0), max(repeated, 0.0), patch, layers, tower_layers, layout == "shared"
    )


def _patch(policy: Policy, seen: Prompt | None) -> tuple[float, int]:
    vision = policy.body.vision
    if vision is None:
        return 0.0, 1
    depth = max(1, len(getattr(vision.tower, "blocks", None) or getattr(vision.tower, "layers", None) or [0]))
    if seen is None or not seen.media_keys or vision.frozen:
        return 0.0, depth
    cost = ViewCost()
    with vision.unremembered():
        vision.clear()
        total = _saved(policy, lambda: vision.features([seen], "policy", cost))
    return total / max(1, cost.patches), depth


def _saved(policy: Policy, run: Callable[[], Any]) -> float:
    """Bytes of the distinct storages, parameters aside, that the graph of what `run` gives keeps."""
    own = {t.untyped_storage().data_ptr() for t in (*policy.model.parameters(), *policy.model.buffers())}
    sizes: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with _eager(policy), torch.enable_grad(), saved_tensors_hooks(keep, lambda tensor: tensor):
        graph = run()  # alive until counted: no storage is given to another tensor meanwhile
    del graph
    return float(sum(sizes.values()))


@contextmanager
def _eager(policy: Policy) -> Iterator[None]:
    """Evaluation mode: neither dropout nor gradient checkpointing, which hides what a layer keeps."""
    training = policy.model.training
    policy.model.eval()
    try:
        yield
    finally:
        policy.model.train(training)


def _prompt(policy: Policy, length: int) -> Prompt:
    """`length` harmless text tokens."""
    token = next(i for i in range(policy.body.vocabulary) if i not in policy.suppressed_ids)
    positions = torch.arange(length)
    if hasattr(policy.body.base, "get_rope_index"):
        positions = positions.expand(3, -1).contiguous()
    none = torch.zeros(length, dtype=torch.bool)
    return Prompt("memory probe", torch.full((length,), token), positions, length, none)


def _responses(policy: Policy, rows: int, length: int) -> Rollouts:
    token = int(_prompt(policy, 1).tokens[0])
    return Rollouts(
        tokens=torch.full((rows, length), token),
        mask=torch.ones(rows, length, dtype=torch.bool),
        group=torch.zeros(rows, dtype=torch.int64),
        rewards=torch.zeros(rows),
    )
