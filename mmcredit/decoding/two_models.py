"""R2R's generator: a small and a large model on one response, token by token."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from mmcredit.decoding.engine import OneByOne
from mmcredit.decoding.routers import Router, Score, StepSignals, costs
from mmcredit.decoding.stream import Draws, Stream
from mmcredit.rollout.engine import Request, Response, Sampling

if TYPE_CHECKING:
    import torch

    from mmcredit.policy.policy import Policy
    from mmcredit.policy.prompt import Prompt

NEVER, ALWAYS = math.inf, -math.inf
_TAIL = 8  # tokens of a loop that is looked for


class TwoModelGenerator(OneByOne):
    """A `RolloutEngine` of two models. `threshold` inf: the small one alone; -inf: every token is the large one's."""

    def __init__(
        self, small: Policy, large: Policy, score: Score, threshold: float, repeats: int = 0, anew: bool = False
    ) -> None:
        """`anew`: the requests' prompts were made for another model, and are encoded again."""
        super().__init__(small, self._answer)
        self.anew = anew
        self.small, self.large, self.score, self.threshold, self.repeats = small, large, score, threshold, repeats
        self.routed = self.loops = self.large_tokens_read = 0

    def _answer(self, request: Request, member: int, sampling: Sampling) -> Response:
        draws = Draws(self.small, sampling, request, member)
        small = Stream(self.small, own_prompt(self.small, request) if self.anew else request.prompt)
        large: Stream | None = None
        tokens: list[int] = []
        logprobs: list[float] = []
        stopped, routed = False, 0
        for step in range(draws.limit):
            logits = small.logits()
            token, logprob = draws.draw(logits, step)
            if self._asks(logits, small, token):
                if large is None:
                    large = Stream(self.large, own_prompt(self.large, request))
                if missed := tokens[large.count :]:
                    large.read(missed)
                token, logprob = draws.draw(large.logits(), step)
                routed += 1
            tokens.append(token)
            logprobs.append(logprob)
            stopped = draws.ends(token, step)
            if stopped or self._loops(tokens):
                break
            if step + 1 < draws.limit:
                small.read([token])
        self.routed += routed
        self.large_tokens_read += 0 if large is None else large.computed
        return Response(
            request.tag, member, tokens, logprobs, "stop" if stopped else "length", {"large_tokens": float(routed)}
        )

    def _asks(self, logits: torch.Tensor, small: Stream, token: int) -> bool:
        if self.threshold in (NEVER, ALWAYS):
            return self.threshold == ALWAYS
        return bool(Router(self.score, self.threshold).route(StepSignals.of(logits, small.hidden, token))[0])

    def _loops(self, tokens: list[int]) -> bool:
        """Whether the response repeats its last tokens too often."""
        if not self.repeats or len(tokens) < _TAIL * (self.repeats + 1):
            return False
        tail = tokens[-_TAIL:]
        found = all(tokens[-_TAIL * (n + 1) : -_TAIL * n] == tail for n in range(1, self.repeats + 1))
        self.loops += found
        return found

    def report(self) -> dict[str, float]:
        """Tokens, seconds, and what the large model did."""
        small, large = (float(sum(p.numel() for p in m.model.parameters())) for m in (self.small, self.large))
        return {
            **super().report(),
            **costs(self.routed, self.tokens, small, large),
            "large_tokens_read": self.large_tokens_read,
            "loops": self.loops,
        }

    def alone(self) -> Mapping[str, TwoModelGenerator]:
        """Each model alone, through the same loop."""
        return {
            "small": TwoModelGenerator(self.small, self.large, self.score, NEVER, self.repeats),
            "large": TwoModelGenerator(self.large, self.large, self.score, NEVER, self.repeats, anew=True),
        }


def own_prompt(policy: Policy, request: Request) -> Prompt:
    """The prompt of a request as this model's template and processor make it.

    Raises ValueError for a prompt that was not made from a sample."""
    sample = request.prompt.sample
    if sample is None:
        raise ValueError(f"sample {request.prompt.sample_id}: two models each need the sample; encode it again")
    return policy.encode(sample)
