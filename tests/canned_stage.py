"""A rollout stage for tests of strategies: what is sampled and what it earns is given, and all requests are kept."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from mmcredit.data.sample import Sample
from mmcredit.policy.prompt import Prompt
from mmcredit.rollout.engine import Response, Sampling
from mmcredit.seeds import derive


class CannedStage:
    """`say(request, member)` gives (tokens, finish) of a response, `worth(ids)` the reward of ids written as text."""

    seed, step, group, total_steps, progress = 0, 0, 2, 10, 0.0

    def __init__(self, worth, say=lambda request, member: ([100 + member], "stop"), limit=10):
        self.worth, self.say = worth, say
        self.sampling = Sampling(max_new_tokens=limit)
        self.policy = SimpleNamespace(device=torch.device("cpu"), tokenizer=SimpleNamespace(pad_token_id=0))
        self.requests, self.calls, self.spent, self.notes, self.events = [], 0, {}, {}, []

    def seeds(self, *purpose, count):
        return tuple(derive(self.seed, self.step, *purpose, member) for member in range(count))

    def generate(self, requests, sampling=None):
        self.calls += 1
        self.requests += requests
        found = []
        for request in requests:
            for member in range(len(request.seeds)):
                tokens, finish = self.say(request, member)
                found.append(Response(request.tag, member, list(tokens), [-0.5] * len(tokens), finish))
        return found

    def decode(self, tokens):
        return " ".join(map(str, tokens))

    def encode(self, sample):
        return prompt(sample.id)

    def judge(self, items):
        values = [self.worth([int(word) for word in item.response.split()]) for item in items]
        return values, {"part": values}

    def score(self, items):
        return self.judge(items)[0]

    def note(self, name, value):
        self.notes[name] = self.notes.get(name, 0) + value

    def spend(self, name, **amounts):
        for key, value in amounts.items():
            self.spent[key] = self.spent.get(key, 0) + value

    def event(self, message):
        self.events.append(message)


def sample(name="s", answer="a"):
    return Sample(name, ({"role": "user", "content": "q"},), answer=answer, meta={"kind": "x"})


def prompt(name="s"):
    ids = torch.arange(3)
    return Prompt(name, ids, ids, 3, torch.zeros(3, dtype=torch.bool))
