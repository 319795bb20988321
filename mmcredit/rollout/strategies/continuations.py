"""Points inside responses, fresh responses that go on from them, and what those earn on average."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mmcredit.rollout.engine import Request
from mmcredit.rollout.reward_item import reward_item

if TYPE_CHECKING:
    from mmcredit.answers.item import RewardItem
    from mmcredit.data.sample import Sample
    from mmcredit.policy.prompt import Prompt
    from mmcredit.rollout.engine import Response
    from mmcredit.rollout.strategies.base import Stage


@dataclass(frozen=True)
class State:
    """A point in a response. Equal states are one: they are sampled from once."""

    prompt: int  # index of the prompt
    prefix: tuple[int, ...]  # ids said so far, exactly as sampled; empty = the prompt itself
    left: int  # tokens that may follow

    @property
    def digest(self) -> str:
        """A short name of the prefix, for seeds."""
        return hashlib.sha256(repr(self.prefix).encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Estimate:
    """What continuations from a list of states gave."""

    values: list[float]  # mean reward per state
    responses: int
    tokens: int  # sampled
    unfinished: int  # continuations stopped by the length limit


def judged(sample: Sample, prefix: Sequence[int], response: Response, stage: Stage) -> RewardItem:
    """What a reward sees of prefix + response, as of one response."""
    text = stage.decode([*prefix, *response.tokens])
    return replace(reward_item(sample, text, response), num_tokens=len(prefix) + len(response.tokens))


def monte_carlo(
    states: Sequence[State],
    prompts: Sequence[Prompt],
    samples: Sequence[Sample],
    count: int,
    unfinished: float | None,
    name: str,
    stage: Stage,
) -> Estimate:
    """Mean reward of `count` fresh continuations from each state, sampled as the run samples.

    One engine call: states of a prompt share its keys and values, continuations of a state those of its prefix. The
    seeds depend on the run's seed, the step, `name`, the sample and the prefix alone, so a value does not depend on
    what else is in the batch. `unfinished`: reward of a continuation stopped by the length limit; None = as judged.
    """
    requests = [
        Request(
            prompts[state.prompt],
            stage.seeds(name, samples[state.prompt].id, state.digest, count=count),
            state.prefix,
            tag=i,
            limit=state.left,
        )
        for i, state in enumerate(states)
    ]
    responses = stage.generate(requests) if requests else []
    cut = [r.finish == "length" for r in responses]
    todo = [i for i, short in enumerate(cut) if unfinished is None or not short]
    items = []
    for i in todo:
        state = states[responses[i].tag]
        items.append(judged(samples[state.prompt], state.prefix, responses[i], stage))
    rewards = [unfinished or 0.0] * len(responses)
    for i, reward in zip(todo, stage.score(items) if items else [], strict=True):
        rewards[i] = reward
    values = [sum(rewards[i * count : (i + 1) * count]) / count for i in range(len(states))]
    return Estimate(values, len(responses), sum(len(r.tokens) for r in responses), sum(cut))
