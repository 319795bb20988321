"""What a forward pass of the policy is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class View:
    """How the model sees the prompt. Equal views are the same pass.

    `clean`: as it is. `blind`: every visual token hidden from attention, positions unchanged, no vision tower.
    Other views (masked, corrupted) name a transform of the media and its seed.
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


CLEAN = View()
BLIND = View("blind")
REFERENCE = View(weights="reference")


@dataclass(frozen=True)
class Pass:
    """One forward over the responses: a view, and the per-token quantities wanted from it.

    Outputs, each [B,T] f32 at the position that predicts the token, at the sampling temperature unless said otherwise:
    `logprobs`, `entropy` (nats, full softmax), `logsumexp`, `sampled_logit` (temperature-free),
    `self_certainty`, `head_input` [B,T,d]; and `kl_to:<label>`, the exact KL(this view || the view of that label).
    """

    view: View
    outputs: frozenset[str]
