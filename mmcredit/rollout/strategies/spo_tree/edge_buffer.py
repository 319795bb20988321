"""Edges of sampled trees that wait to be trained on: bounded in number and age, drawn at random."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch

from mmcredit.data.sample_state import pack, unpack
from mmcredit.rollout.strategies.spo_tree.tree import Edge

if TYPE_CHECKING:
    from mmcredit.data.sample import Sample


class EdgeBuffer:
    """Edges by question (sample id). What is drawn leaves it."""

    def __init__(self) -> None:
        self.samples: dict[str, Sample] = {}
        self.edges: dict[str, list[Edge]] = {}

    def __len__(self) -> int:
        return sum(map(len, self.edges.values()))

    def add(self, sample: Sample, edges: Iterable[Edge]) -> None:
        """New edges of a question."""
        edges = list(edges)
        if edges:
            self.samples[sample.id] = sample
            self.edges.setdefault(sample.id, []).extend(edges)

    def expire(self, step: int, max_age: int) -> int:
        """Drop the edges that are `max_age` steps old or older, and samples without an edge; how many edges went."""
        before = len(self)
        self._keep({key: [e for e in edges if step - e.step < max_age] for key, edges in self.edges.items()})
        self.samples = {key: sample for key, sample in self.samples.items() if key in self.edges}
        return before - len(self)

    def shrink(self, most: int) -> int:
        """Drop the oldest edges beyond `most`, the first sampled first; how many went."""
        excess = len(self) - most
        if excess <= 0:
            return 0
        order = sorted((edge.step, place, key, i) for place, (key, edges) in enumerate(self.edges.items())
                       for i, edge in enumerate(edges))  # fmt: skip
        gone = {(key, i) for _, _, key, i in order[:excess]}
        self._keep({k: [e for i, e in enumerate(edges) if (k, i) not in gone] for k, edges in self.edges.items()})
        return excess

    def draw(self, per_question: int, most: int, seed: int) -> dict[str, list[Edge]]:
        """At most `per_question` edges of each question and `most` in all, at random; they leave the buffer."""
        chance = random.Random(seed)
        chosen = []
        for key, edges in self.edges.items():
            chosen += [(key, i) for i in sorted(chance.sample(range(len(edges)), min(per_question, len(edges))))]
        if len(chosen) > most:
            chosen = [chosen[i] for i in sorted(chance.sample(range(len(chosen)), most))]
        drawn: dict[str, list[Edge]] = {}
        for key, i in chosen:
            drawn.setdefault(key, []).append(self.edges[key][i])
        gone = set(chosen)
        self._keep({k: [e for i, e in enumerate(edges) if (k, i) not in gone] for k, edges in self.edges.items()})
        return drawn

    def _keep(self, edges: Mapping[str, list[Edge]]) -> None:
        self.edges = {key: kept for key, kept in edges.items() if kept}

    def state_dict(self) -> dict[str, Any]:
        """Everything, as plain values and tensors."""
        flat = [edge for edges in self.edges.values() for edge in edges]
        return {
            "samples": [pack(self.samples[key]) for key in self.edges],
            "counts": [len(edges) for edges in self.edges.values()],
            "contexts": _join([e.context for e in flat], torch.int64),
            "tokens": _join([e.tokens for e in flat], torch.int64),
            "logprobs": _join([e.logprobs for e in flat], torch.float64),
            "values": torch.tensor([[e.parent_value, e.child_value, e.sibling_std] for e in flat], dtype=torch.float64),
            "truncated": [e.truncated for e in flat],
            "parts": [dict(e.parts) for e in flat],
            "steps": [e.step for e in flat],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self.samples, self.edges = {}, {}
        columns = zip(
            _split(state["contexts"]),
            _split(state["tokens"]),
            _split(state["logprobs"]),
            state["values"].reshape(-1, 3).tolist(),
            state["truncated"],
            state["parts"],
            state["steps"],
            strict=True,
        )
        for packed, count in zip(state["samples"], state["counts"], strict=True):
            sample = unpack(packed)
            rows = [next(columns) for _ in range(count)]
            self.add(
                sample,
                [
                    Edge(context, tokens, logprobs, parent, child, spread, cut, parts, step)
                    for context, tokens, logprobs, (parent, child, spread), cut, parts, step in rows
                ],
            )


def _join(rows: list[Any], dtype: torch.dtype) -> dict[str, Any]:
    return {
        "flat": torch.tensor([x for row in rows for x in row], dtype=dtype),
        "lengths": torch.tensor([len(row) for row in rows], dtype=torch.int64),
    }


def _split(joined: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    return [tuple(part.tolist()) for part in joined["flat"].split(joined["lengths"].tolist())]
