"""A tree of segments under each prompt: grown level by level, valued from the leaves up."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from mmcredit.rollout.engine import Request
from mmcredit.rollout.strategies.continuations import judged

if TYPE_CHECKING:
    from mmcredit.rollout.batch import Ask
    from mmcredit.rollout.engine import Response
    from mmcredit.rollout.strategies.base import Stage


@dataclass
class Node:
    """A point of a tree: the prompt (root), or the end of a sampled segment."""

    ask: int  # which ask's tree
    parent: int  # number of the node it grows from; -1 = root
    path: tuple[int, ...]  # ids from the prompt's end to here, the ask's prefix included
    place: tuple[int, ...]  # child numbers from the root to here
    response: Response | None  # the segment that leads here; None for a root
    left: int  # tokens that may follow
    children: list[int] = field(default_factory=list)
    value: float = 0.0
    parts: Mapping[str, float] = field(default_factory=dict)

    @property
    def open(self) -> bool:
        """Whether it can grow."""
        return self.response is None or (self.response.finish == "length" and self.left > 0)


@dataclass(frozen=True)
class Edge:
    """Parent -> child of a valued tree: an example of its own."""

    context: tuple[int, ...]  # ids before the segment
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]  # the sampler's
    parent_value: float
    child_value: float
    sibling_std: float  # population, over the parent's children
    truncated: bool  # the child is a leaf that the length limit stopped
    parts: Mapping[str, float]  # of the child's value
    step: int  # of the run, when it was sampled


@dataclass(frozen=True)
class Growth:
    """What growing cost."""

    segments: int
    tokens: int
    leaves: int
    truncated: int  # leaves that the length limit stopped
    narrowed: int  # levels that got fewer children than asked, for the budget of leaves


def grow(
    asks: Sequence[Ask], branching: Sequence[int], segment_tokens: int, max_leaves: int, name: str, stage: Stage
) -> tuple[list[Node], Growth]:
    """A tree per ask; one engine call per level, over all trees.

    A node of level d gets branching[d] children: segments of `segment_tokens` tokens, at the last level what is left
    of the response limit. One that ends by itself is a leaf, and so is what the limit has stopped. Where the level
    could bring the leaves of all trees above `max_leaves`, every node of it gets fewer children, one at least.
    Seeds come from each ask's first seed and the node's place, so a tree does not depend on the others.
    """
    most = stage.sampling.max_new_tokens
    nodes = [Node(i, -1, tuple(ask.prefix), (), None, most) for i, ask in enumerate(asks) if ask.seeds]
    front = list(range(len(nodes)))
    tokens = leaves = narrowed = 0
    for depth, width in enumerate(branching):
        if not front:
            break
        children = max(1, min(width, (max_leaves - leaves) // len(front)))
        narrowed += children < width
        last = depth + 1 == len(branching)
        requests = []
        for number in front:
            node = nodes[number]
            ask = asks[node.ask]
            seeds = stage.seeds(name, ask.seeds[0], *node.place, count=children)
            limit = node.left if last else min(segment_tokens, node.left)
            requests.append(Request(ask.shown or ask.prompt, seeds, node.path, tag=number, limit=limit))
        following = []
        for response in stage.generate(requests):
            parent = nodes[response.tag]
            child = Node(
                parent.ask,
                response.tag,
                (*parent.path, *response.tokens),
                (*parent.place, response.member),
                response,
                parent.left - len(response.tokens),
            )
            parent.children.append(len(nodes))
            if child.open and not last:
                following.append(len(nodes))
            else:
                leaves += 1
            nodes.append(child)
            tokens += len(response.tokens)
        front = following
    grown = [n for n in nodes if n.response is not None]
    stopped = sum(1 for n in grown if not n.children and n.response is not None and n.response.finish == "length")
    return nodes, Growth(len(grown), tokens, leaves, stopped, narrowed)


def value(nodes: Sequence[Node], asks: Sequence[Ask], stage: Stage) -> None:
    """V(leaf) = its reward, as judged; V(node) = mean of its children's values; reward parts alike."""
    leaves = [n for n in nodes if n.response is not None and not n.children]
    items = []
    for leaf in leaves:
        assert leaf.response is not None
        items.append(judged(asks[leaf.ask].sample, nodes[leaf.parent].path, leaf.response, stage))
    rewards, parts = stage.judge(items) if items else ([], {})
    for i, leaf in enumerate(leaves):
        leaf.value = rewards[i]
        leaf.parts = {name: values[i] for name, values in parts.items()}
    for node in reversed(nodes):  # children come after their parents
        if node.children:
            below = [nodes[c] for c in node.children]
            node.value = _mean([c.value for c in below])
            node.parts = {name: _mean([c.parts[name] for c in below]) for name in below[0].parts}


def edges(nodes: Sequence[Node], step: int) -> dict[int, list[Edge]]:
    """The edges of every ask's tree, by the ask's number, in order of growth."""
    found: dict[int, list[Edge]] = {}
    for node in nodes:
        if node.response is None:
            continue
        parent = nodes[node.parent]
        siblings = [nodes[c].value for c in parent.children]
        mean = _mean(siblings)
        spread = math.sqrt(_mean([(v - mean) ** 2 for v in siblings]))
        found.setdefault(node.ask, []).append(
            Edge(
                parent.path,
                tuple(node.response.tokens),
                tuple(node.response.logprobs),
                parent.value,
                node.value,
                spread,
                not node.children and node.response.finish == "length",
                node.parts,
                step,
            )
        )
    return found


def without_logprobs(edge: Edge) -> Edge:
    """The same edge where the sampler saw another prompt: its log-probs are those of another input."""
    return replace(edge, logprobs=(math.nan,) * len(edge.logprobs))


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
