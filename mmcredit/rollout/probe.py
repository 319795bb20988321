"""Whether an engine with weights of its own has taken over an update: a few of its log-probs against the trainer's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from mmcredit.policy.passes import Pass, View
from mmcredit.rollout.collate import collate
from mmcredit.rollout.engine import Request, Response, Sampling
from mmcredit.world import ALONE

if TYPE_CHECKING:
    from torch import Tensor

    from mmcredit.policy.policy import Policy
    from mmcredit.policy.prompt import Prompt
    from mmcredit.rollouts import Rollouts

_RESPONSES, _TOKENS = 4, 8
_FLOOR = 1e-4  # nats; below it nothing is called a difference
_FACTOR = 5.0  # of the difference at the start


class Probe:
    """Samples a few tokens after each update and compares their log-probs with the trainer's (mean |difference|, nats).

    The first comparison, of weights that both have from the start, is the engine's noise; a later one that is over five
    times as large stops the run. The prompt stays the same (the longest of the first call, with media if any has), so
    that what a cache remembers of it from before an update is found. `moved` says how far the trainer's own log-probs
    of the last probe's tokens have gone: an update that moves them less than the noise cannot be told from none.

    In a run of several processes it belongs to one of them: its engine against the weights that it holds. Whoever calls
    it has them in one piece (`TrainingEngine.whole`).
    """

    def __init__(self, policy: Policy, generate: Callable[[Sequence[Request], Sampling], list[Response]]) -> None:
        self.policy, self.generate = policy, generate
        self.due = True
        self.prompt: Prompt | None = None
        self.noise: float | None = None
        self._last: tuple[list[Response], Tensor] | None = None

    def __call__(self, requests: Sequence[Request]) -> dict[str, float]:
        """Compare, if an update has come since the last time. Raises RuntimeError if the engine has other weights."""
        if not self.due:
            return {}
        self.due = False
        if self.prompt is None:
            self.prompt = max((r.prompt for r in requests), key=lambda p: (bool(p.media_keys), len(p)))
        request = Request(self.prompt, range(_RESPONSES))
        sampling = Sampling(max_new_tokens=_TOKENS)
        responses = self.generate([request], sampling)
        before = self._last[0] if self._last else []
        rollouts, scored = self._scored([*responses, *before])
        own = rollouts.mask[: len(responses)]
        assert rollouts.sampler_logprobs is not None
        gap = (rollouts.sampler_logprobs - scored)[: len(responses)][own].abs()
        found = {"probe_difference": float(gap.mean())}
        if self._last is not None:
            earlier = rollouts.mask[len(responses) :]
            found["probe_moved"] = float((scored[len(responses) :][earlier] - self._last[1]).abs().mean())
        self._last = (responses, scored[: len(responses)][own])
        self._judge(found)
        return found

    def _judge(self, found: dict[str, float]) -> None:
        difference = found["probe_difference"]
        if self.noise is None:
            self.noise = difference
            return
        if not difference <= max(_FACTOR * self.noise, _FLOOR):
            raise RuntimeError(
                f"the rollout engine does not sample from the trainer's weights: after an update its log-probs of the "
                f"same tokens differ by {difference:.3g} nats on average, at the start it was {self.noise:.3g} (the "
                f"update moved them by {found.get('probe_moved', 0.0):.3g})"
            )

    def _scored(self, responses: Sequence[Response]) -> tuple[Rollouts, Tensor]:
        """The responses as rollouts [B,T], and the trainer's log-probs of them."""
        policy = self.policy
        assert self.prompt is not None
        rows = [Response(i, 0, r.tokens, r.logprobs, r.finish) for i, r in enumerate(responses)]
        requests = [Request(self.prompt, (0,), tag=i) for i in range(len(rows))]
        prompts = [self.prompt]
        rollouts: Any = collate(prompts, requests, rows, policy.tokenizer.pad_token_id).to(policy.device)
        view = View("probe")  # so that its cost is told apart
        policy.view_prompts.setdefault("probe", lambda view, prompt: prompt)
        layout, policy._layout = policy._layout, "padded"  # the run chooses its layout on rollouts of its own
        world, policy.world = policy.world, ALONE  # other ranks have other responses, or none
        try:
            found = policy.score(prompts, rollouts, [Pass(view, frozenset({"logprobs"}))], temperature=1.0)
        finally:
            policy._layout, policy.world = layout, world
        return rollouts, found[view]["logprobs"]
