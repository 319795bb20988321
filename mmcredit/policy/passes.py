"""What a forward pass of the policy is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class View:
    """How the model sees the prompt. Equal views are the same pass.

    `clean`: as it is. `blind`: every visual token hidden from attention, positions unchanged, no vision tower.
    Other views (masked, corrupted) name a transform of the media and its seed. `teacher`: the prompt with a hint in it.
    `anchor`: the clean prompt as a constant.
    """

    name: str = "clean"
    index: int = 0  # which of several views of this name
    weights: Literal["policy", "reference"] = "policy"

    @property
    def label(self) -> str:
        """Short name for logs and for `kl_to:<label>`: clean, blind, reference, corrupted.1, ..."""
        if self.weights == "reference":
            return "reference" if self.name == "clean" else f"reference.{self.name}"
        return f"{self.name}.{self.index}" if self.index else self.name

    @property
    def frozen(self) -> bool:
        """Whether no gradient ever flows into this view: the reference is fixed, and a teacher is not taught."""
        return self.weights == "reference" or self.name in ("teacher", "anchor")


CLEAN = View()
BLIND = View("blind")
MASKED = View("masked")
REFERENCE = View(weights="reference")


def corrupted(index: int) -> View:
    """The `index`-th corrupted view, from 0."""
    return View("corrupted", index)


@dataclass(frozen=True)
class Pass:
    """One forward over the responses: a view, and the per-token quantities wanted from it.

    Outputs, each [B,T] f32 at the position that predicts the token, at the sampling temperature unless said otherwise:
    `logprobs`, `entropy` (nats, full softmax), `logsumexp`, `sampled_logit` (temperature-free),
    `self_certainty`, `head_input` [B,T,d]; `kl_to:<view>`, the exact KL(this view || that view), and the other
    comparisons of `divergences`; `attention_entropy` of the middle layer and its variants (`attention_entropy.Ask`),
    never with a gradient. Where a view has no prompt for a response (no hint for a teacher), its outputs are NaN.
    """

    view: View
    outputs: frozenset[str]
