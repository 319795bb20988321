"""The model that goes on from a prefix, and what its continuations earn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mmcredit.answers.item import RewardItem
from mmcredit.audit.reacting import Behind
from mmcredit.data.sample import last_text
from mmcredit.policy.joined import joined
from mmcredit.rollout.engine import Request
from mmcredit.seeds import derive

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mmcredit.audit.states import Place
    from mmcredit.data.sample import Sample
    from mmcredit.policy.policy import Policy
    from mmcredit.policy.prompt import Prompt
    from mmcredit.rewards.pool import RewardPool
    from mmcredit.rollout.engine import RolloutEngine, Sampling
    from mmcredit.rollout.reaction import Reaction

BATCH = 8192  # continuations of one engine call: bounds the texts held at a time


class Key(NamedTuple):
    """A whole response; equal ones are judged once."""

    prompt: int
    ids: tuple[int, ...]  # what was inserted included
    cut: bool  # stopped by the length limit
    sampled: int  # of the ids


class Bench:
    """Samples continuations as the run samples, and pays them as the run pays.

    The seed of a continuation depends on the run's seed, the sample, the prefix, the stream and its number: the same
    continuation comes back whatever is sampled beside it, and more of them extend fewer. Equal texts of a prompt are
    judged once.
    """

    def __init__(
        self,
        policy: Policy,
        engine: RolloutEngine,
        pool: RewardPool,
        sampling: Sampling,
        seed: int,
        reaction: Callable[[Sample], Reaction | None] | None = None,
    ) -> None:
        """`reaction`: what the run inserts into the responses to a sample."""
        self.policy, self.engine, self.pool, self.sampling, self.seed = policy, engine, pool, sampling, seed
        self.reaction = reaction
        self.tokens = 0  # sampled so far
        self.continuations = 0
        self.unfinished = 0  # stopped by the length limit; judged as they are
        self.judged = 0
        self._known: dict[Key, float] = {}
        self._joined: dict[tuple[int, tuple[int, ...]], Prompt] = {}

    def begin(self) -> None:
        """Another batch: prompts have new numbers, so what was judged is forgotten."""
        self._known.clear()
        self._joined.clear()
        self.engine.sync()

    def draw(
        self,
        states: Sequence[Place],
        prompts: Sequence[Prompt],
        samples: Sequence[Sample],
        stream: int,
        first: int,
        count: int,
        advance: Callable[[int], None] | None = None,
    ) -> NDArray[np.float64]:
        """Rewards [n,count] of continuations `first` .. `first + count - 1` of each state in `stream`."""
        out = np.empty((len(states), count))
        size = max(1, BATCH // count)
        for start in range(0, len(states), size):
            part = states[start : start + size]
            out[start : start + size] = self._part(part, prompts, samples, stream, first, count)
            if advance is not None:
                advance(len(part) * count)
        return out

    def _part(
        self,
        states: Sequence[Place],
        prompts: Sequence[Prompt],
        samples: Sequence[Sample],
        stream: int,
        first: int,
        count: int,
    ) -> NDArray[np.float64]:
        requests = []
        for i, state in enumerate(states):
            purpose = ("audit", samples[state.prompt].id, state.digest, stream)
            seeds = [derive(self.seed, *purpose, number) for number in range(first, first + count)]
            requests.append(self._request(state, prompts[state.prompt], samples[state.prompt], seeds, i))
        responses = self.engine.generate(requests, self.sampling)
        keys = []
        for response in responses:
            state = states[response.tag]
            cut = response.finish == "length"
            said = state.sampled + response.sampled
            keys.append(Key(state.prompt, (*state.prefix, *response.tokens), cut, said))
            self.tokens += response.sampled
            self.unfinished += cut
        self.continuations += len(responses)
        self.pay(keys, samples)
        return np.asarray([self._known[key] for key in keys]).reshape(len(states), count)

    def _request(self, state: Place, prompt: Prompt, sample: Sample, seeds: Sequence[int], tag: int) -> Request:
        """Continuations of a state. What was inserted into its prefix becomes part of the prompt."""
        prefix, end = state.prefix, state.inserted[-1].end if state.inserted else 0
        if end:
            key = (state.prompt, prefix[:end])  # one object per beginning: it is read once for all its continuations
            if key not in self._joined:
                self._joined[key] = joined(prompt, prefix[:end], state.inserted)
            prompt = self._joined[key]
        found = None if self.reaction is None else self.reaction(sample)
        reaction = None if found is None else Behind(found, prefix, state.inserted)
        return Request(prompt, seeds, prefix[end:], tag=tag, limit=state.left, reaction=reaction)

    def pay(self, keys: Sequence[Key], samples: Sequence[Sample]) -> list[float]:
        """Rewards of whole responses."""
        todo = [key for key in dict.fromkeys(keys) if key not in self._known]
        if todo:
            items = [self._item(key, samples) for key in todo]
            self._known.update(zip(todo, self.pool.score(items).total, strict=True))
            self.judged += len(todo)
        return [self._known[key] for key in keys]

    def _item(self, key: Key, samples: Sequence[Sample]) -> RewardItem:
        sample = samples[key.prompt]
        return RewardItem(
            response=self.policy.decode(key.ids),
            answer=sample.answer,
            prompt=last_text(sample),
            num_tokens=key.sampled,
            truncated=key.cut,
            sample_id=sample.id,
            meta=dict(sample.meta),
        )
