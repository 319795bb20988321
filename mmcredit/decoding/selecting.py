"""The engine of `tokenselect`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from mmcredit.decoding.engine import OneByOne
from mmcredit.decoding.kv_select import Selector, selecting
from mmcredit.decoding.stream import Draws, Stream
from mmcredit.rollout.engine import Request, Response, Sampling

if TYPE_CHECKING:
    from mmcredit.policy.policy import Policy
    from mmcredit.policy.prompt import Prompt


class SelectingEngine(OneByOne):
    """A `RolloutEngine` that attends to a selected part of its cache; `make(prompt)` gives the `Selector`."""

    def __init__(self, policy: Policy, make: Callable[[Prompt], Selector], full: Callable[[Prompt], Selector]) -> None:
        super().__init__(policy, self._answer)
        self.make, self.full = make, full
        self.counts: dict[str, int] = {}

    def _answer(self, request: Request, member: int, sampling: Sampling) -> Response:
        draws = Draws(self.policy, sampling, request, member)
        selector = self.make(request.prompt)
        tokens: list[int] = []
        logprobs: list[float] = []
        stopped = False
        with selecting(self.policy.body.language_model):
            stream = Stream(self.policy, request.prompt, kv_select=selector)
            for step in range(draws.limit):
                token, logprob = draws.draw(stream.logits(), step)
                tokens.append(token)
                logprobs.append(logprob)
                stopped = draws.ends(token, step)
                if stopped or step + 1 == draws.limit:
                    break
                stream.read([token])
        for name, count in selector.counts.items():
            self.counts[name] = self.counts.get(name, 0) + count
        return Response(request.tag, member, tokens, logprobs, "stop" if stopped else "length")

    def report(self) -> dict[str, float]:
        """Tokens, seconds, the share of keys that was attended to, and how often a selection was used again."""
        asked = self.counts.get("selected", 0) + self.counts.get("reused", 0)
        return {
            **super().report(),
            "attended_share": self.counts.get("attended", 0) / max(1, self.counts.get("keys", 0)),
            "reused_share": self.counts.get("reused", 0) / max(1, asked),
        }

    def alone(self) -> Mapping[str, SelectingEngine]:
        """The model with all of its cache, through the same loop."""
        return {"full": SelectingEngine(self.policy, self.full, self.full)}
