"""Values by enumeration, for tasks whose responses can be listed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from mmcredit.audit.bench import Key
from mmcredit.audit.estimate import Values
from mmcredit.rollout.drawing.stop import StopStrings
from mmcredit.rollout.engine import Request, with_stops

if TYPE_CHECKING:
    from torch import Tensor

    from mmcredit.audit.bench import Bench
    from mmcredit.audit.states import Place
    from mmcredit.data.sample import Sample
    from mmcredit.policy.prompt import Prompt
    from mmcredit.rollout.engine import Sampling

BATCH = 512


def check(sampling: Sampling) -> None:
    """Raises ValueError if the policy's distribution is narrowed, so that probabilities are not its own."""
    if sampling.top_k or sampling.top_p < 1 or sampling.min_new_tokens or not sampling.temperature:
        raise ValueError(
            "an exact audit lists responses by their probability under the full softmax; set "
            "rollout.sampling.top_k=0, top_p=1, min_new_tokens=0 and a temperature above 0"
        )


class Enumeration:
    """V(s) = sum over next tokens of p V(s'), down to every end; what is less likely than `floor`, seen from the
    audited state above it, is left out.

    How much that is, is known: `missing` [S] is the probability of the responses that were not listed; a value is the
    mean reward of the others. Raises ValueError if the policy narrows its distribution (top_k, top_p), if the engine
    shows no logits, or if more than `most` prefixes would have to be looked at.
    """

    def __init__(self, bench: Bench, floor: float = 2e-4, most: int = 200_000) -> None:
        sampling = bench.sampling
        check(sampling)
        if not hasattr(bench.engine, "hook"):
            raise ValueError("an exact audit reads logits, which only the engine 'hf' shows; set rollout.engine=hf")
        self.bench, self.floor, self.most = bench, floor, most
        self.missing = np.zeros(0)
        policy = bench.policy
        full = with_stops(sampling, policy.stop_strings)
        self._ends = {*policy.eos_token_ids, *sampling.stop_token_ids}
        vocabulary, device = policy.body.vocabulary, policy.device
        self._strings = StopStrings(full.stop, policy.tokenizer, vocabulary, device) if full.stop else None
        self._suppressed = sorted(set(policy.suppressed_ids))

    def __call__(self, states: Sequence[Place], prompts: Sequence[Prompt], samples: Sequence[Sample]) -> Values:
        """Exact values of `states`."""
        if self.bench.reaction is not None:
            raise ValueError(
                "an exact audit lists what the policy says, not what a strategy inserts into it; leave out --exact"
            )
        children = self._expand(list(states), prompts)
        endings = [c for branches in children.values() for _, c in branches if c not in children]
        keys = [Key(c.prompt, c.prefix, not self._stops(c), c.sampled) for c in endings]
        worth = dict(zip(endings, self.bench.pay(keys, samples), strict=True))
        found: dict[Place, tuple[float, float]] = {c: (reward, 1.0) for c, reward in worth.items()}
        for state in sorted(children, key=lambda s: -len(s.prefix)):
            pairs = [(p, *found[c]) for p, c in children[state]]
            found[state] = (sum(p * v for p, v, _ in pairs), sum(p * m for p, _, m in pairs))
        listed = np.asarray([found[s][1] for s in states])
        self.missing = 1 - listed
        values = np.asarray([found[s][0] for s in states]) / listed
        rewards = list(worth.values()) or [0.0]
        empty = np.zeros((len(states), 2))
        return Values(
            np.ones((len(states), 2), np.int64), empty, empty, min(rewards), max(rewards), values, self.missing
        )

    def _expand(self, states: list[Place], prompts: Sequence[Prompt]) -> dict[Place, list[tuple[float, Place]]]:
        children: dict[Place, list[tuple[float, Place]]] = {}
        reach = dict.fromkeys(states, 1.0)  # probability from the nearest audited state above
        frontier = list(reach)
        while frontier:
            if len(children) + len(frontier) > self.most:
                raise ValueError(
                    f"an exact audit would look at more than {self.most} prefixes of {len(prompts)} prompts; take "
                    "fewer prompts per batch, shorter responses, or leave out --exact"
                )
            following: list[Place] = []
            for start in range(0, len(frontier), BATCH):
                part = frontier[start : start + BATCH]
                for state, branches in zip(part, self._branches(part, prompts, reach), strict=True):
                    children[state] = branches
                    for p, child in branches:
                        if child.left and not self._stops(child):
                            reach.setdefault(child, reach[state] * p)
                            following.append(child)
            frontier = [s for s in dict.fromkeys(following) if s not in children]
        return children

    def _branches(
        self, states: Sequence[Place], prompts: Sequence[Prompt], reach: dict[Place, float]
    ) -> list[list[tuple[float, Place]]]:
        """Next tokens of each state with their probability, those whose reach falls below `floor` left out."""
        order: list[int] = []
        seen: list[Tensor] = []

        def look(step: int, logits: Tensor, rows: object) -> Tensor:
            logits = logits.float()
            if self._suppressed:
                index = torch.tensor(self._suppressed, device=logits.device)
                logits = logits.index_fill(1, index, -torch.inf)
            seen.append(torch.log_softmax(logits / self.bench.sampling.temperature, -1).double().exp().cpu())
            order.extend(rows.responses.tolist())  # type: ignore[attr-defined]
            return logits

        requests = [Request(prompts[s.prompt], (0,), s.prefix, tag=i, limit=1) for i, s in enumerate(states)]
        engine = self.bench.engine
        engine.hook = look  # type: ignore[attr-defined]
        try:
            engine.generate(requests, self.bench.sampling)
        finally:
            engine.hook = None  # type: ignore[attr-defined]
        table = torch.empty_like(torch.cat(seen))
        table[torch.tensor(order)] = torch.cat(seen)
        result = []
        for state, row in zip(states, table, strict=True):
            tokens = (row * reach[state] >= self.floor).nonzero()[:, 0].tolist()
            result.append(
                [(float(row[t]), replace(state, prefix=(*state.prefix, t), left=state.left - 1)) for t in tokens]
            )
        return result

    def _stops(self, state: Place) -> bool:
        """Whether the last token of the prefix ends the response."""
        last = state.prefix[-1]
        if last in self._ends:
            return True
        strings = self._strings
        if strings is None or not bool(strings.may_complete[last]):
            return False
        return strings.ends(state.prefix[-strings.window :])
