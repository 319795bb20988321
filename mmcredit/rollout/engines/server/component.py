"""Sampling in servers of their own. The component; its inside is `engine`."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from mmcredit.components import register
from mmcredit.rollout.engines.server.settings import Settings

if TYPE_CHECKING:
    from mmcredit.policy.policy import Policy
    from mmcredit.rollout.engines.server.engine import ServerEngine


@register("engine", "server")
class Server(Settings):
    """Samples in rollout servers over HTTP: `mmcredit serve-rollouts MODEL`, or servers that the run starts itself.

    A server runs vLLM or `hf`; this process needs neither. Token ids go out and come back, never text; media go once
    per prompt, under their content hash; every log-prob, stop, prefix and temperature means what it means in the
    server's engine. Requests are cut into portions that free servers take; a response depends on (prompt, seed) alone,
    so that it does not matter which.

    Before the first step names, shapes and dtypes of all weights, and samples of the frozen ones, are compared with the
    server's. After each update the trained weights are sent in flat buckets (with LoRA only the adapter, a frozen tower
    never) and every element is accounted for; the engine takes them over and empties its caches. Then log-probs of a
    few tokens must agree with the trainer's as well as they did at the start.

    A server that does not answer, stands still or talks nonsense is found within the deadlines below. One that the run
    started is started again; what it had not answered is sent again, to whichever server is there. All of it is
    counted in the metrics (`engine/...`).

    With several training processes the first one talks to the servers, for all.
    """

    takes_hook: ClassVar[bool] = True  # temperatures by entropy travel as plain numbers
    once: ClassVar[bool] = True  # one client for all ranks of a run
    beside: ClassVar[bool] = True  # can sample while the policy trains (`rollout.ahead`)

    def open(self, policy: Policy) -> ServerEngine:
        """An engine whose servers have this policy's model. Raises ValueError where they do not agree with it."""
        from mmcredit.rollout.engines.server.engine import ServerEngine  # configs are checked without torch

        return ServerEngine(policy, self)
