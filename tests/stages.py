"""A rollout stage without a model: responses of two tokens with the rewards a test says."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import torch

from mmcredit.data.sample import Sample
from mmcredit.rollout.batch import Ask, Batch
from mmcredit.rollout.engine import Sampling
from mmcredit.rollouts import Rollouts
from mmcredit.seeds import derive


@dataclass(frozen=True)
class ScriptedPrompt:
    """What strategies look at of a prompt."""

    sample_id: str
    media_keys: tuple[str, ...] = ()

    def __len__(self):
        return 2


class ScriptedStage:
    """`Stage` of step `step`; the n-th prompt of the order is named p<n>, `rewards[name]` are those of its responses.

    A prompt that stands in the order again earns the next entry of its list, if its rewards are a list of lists.
    """

    def __init__(self, rewards, group, names=("accuracy",), step=0, total_steps=10):
        self.script, self.group, self.reward_names = rewards, group, tuple(names)
        self.step, self.total_steps, self.seed, self.epochs = step, total_steps, 0, 0.0
        self.sampling = Sampling(max_new_tokens=8)
        self.max_prompt_tokens = None
        self.policy = SimpleNamespace(tokenizer=SimpleNamespace(pad_token_id=0), suppressed_ids=())
        self.notes: dict[str, float] = {}
        self.events: list[str] = []
        self.taken = 0
        self.rounds: list[int] = []  # prompts of each call of `rest`

    @property
    def progress(self):
        return self.step / self.total_steps

    def take(self, count):
        found = [self.pair(f"p{self.taken + i}") for i in range(count)]
        self.taken += count
        return found

    def pair(self, name):
        return Sample(name, ({"role": "user", "content": name},), answer=""), ScriptedPrompt(name)

    def asks(self, pairs, group=None):
        return [Ask(s, p, tuple(derive(0, s.id, i) for i in range(group or self.group))) for s, p in pairs]

    def seeds(self, *purpose, count):
        return tuple(derive(0, self.step, *purpose, i) for i in range(count))

    def decode(self, tokens):
        return " ".join(str(t) for t in tokens)

    def note(self, name, value):
        self.notes[name] = self.notes.get(name, 0.0) + float(value)

    def event(self, message):
        self.events.append(message)

    def sample(self, asks, sampling=None):
        """Plain sampling: response i of a prompt is [10 + i, 20 + i], log-probs -0.1 and -0.2."""
        self.rounds.append(len(asks))
        rewards: list[float] = []
        group, tokens = [], []
        for number, ask in enumerate(asks):
            said = self.script[ask.sample.id]
            if said and isinstance(said[0], list):
                said = said.pop(0)
            assert len(said) == len(ask.seeds), (ask.sample.id, said)
            rewards.extend(float(r) for r in said)
            group.extend([number] * len(said))
            tokens.extend([10 + i, 20 + i] for i in range(len(said)))
        total = torch.tensor(rewards)
        rollouts = Rollouts(
            tokens=torch.tensor(tokens),
            mask=torch.ones(len(tokens), 2, dtype=torch.bool),
            group=torch.tensor(group),
            rewards=total,
            reward_parts={self.reward_names[0]: total.round()},
            sampler_logprobs=torch.tensor([[-0.1, -0.2]] * len(tokens)),
            samples=tuple(ask.sample for ask in asks),
        )
        texts = [self.decode(t) for t in tokens]
        return Batch([a.sample for a in asks], [a.prompt for a in asks], rollouts, texts)

    def run(self, strategy, prompts):
        """The batch of `strategy` over plain sampling of `prompts` prompts."""
        return strategy(self.asks(self.take(prompts)), self.sample, self)
