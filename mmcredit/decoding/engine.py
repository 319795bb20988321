"""The loop over requests that ways of decoding share: one response at a time, as the papers measure."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from mmcredit.rollout.engine import Request, Response, Sampling

if TYPE_CHECKING:
    from mmcredit.policy.policy import Policy

Answer = Callable[[Request, int, Sampling], Response]


class OneByOne:
    """A `RolloutEngine` around `answer(request, member, sampling)`, with time and tokens counted."""

    def __init__(self, policy: Policy, answer: Answer) -> None:
        self.policy, self.answer = policy, answer
        self.seconds = 0.0
        self.tokens = self.responses = 0

    @torch.inference_mode()
    def generate(
        self, requests: Sequence[Request], sampling: Sampling, progress: Callable[[int], None] | None = None
    ) -> list[Response]:
        """Responses in request order, members in seed order; the same seeds give the same responses."""
        self.policy._mode(training=False)
        found = []
        for request in requests:
            for member in range(len(request.seeds)):
                began = time.perf_counter()
                response = self.answer(request, member, sampling)
                self.seconds += time.perf_counter() - began
                if any(math.isnan(value) for value in response.logprobs):
                    raise RuntimeError(f"sample {request.prompt.sample_id}: the model's logits are not finite")
                self.tokens += len(response.tokens)
                self.responses += 1
                found.append(response)
                if progress is not None:
                    progress(1)
        return found

    def report(self) -> dict[str, float]:
        """Tokens and seconds since opening."""
        return {"responses": self.responses, "tokens": self.tokens, "seconds": self.seconds}

    def alone(self) -> Mapping[str, OneByOne]:
        """Nothing to compare with."""
        return {}

    def sync(self) -> None:
        """The weights are read where they are."""
        self.policy.weights_changed()

    def close(self) -> None:
        """Nothing is held between calls."""
