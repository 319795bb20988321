"""SPO-tree: sampling as a tree of segments, every edge of which is an example."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import torch
from pydantic import Field, PrivateAttr

from mmcredit.components import register
from mmcredit.rollout.batch import Batch
from mmcredit.rollout.collate import collate
from mmcredit.rollout.engine import Request, Response
from mmcredit.rollout.strategies.base import Rest, Run, Stage, Strategy
from mmcredit.rollout.strategies.spo_tree.edge_buffer import EdgeBuffer
from mmcredit.rollout.strategies.spo_tree.tree import Edge, edges, grow, value, without_logprobs
from mmcredit.rollout.volume import Volume, tree_size

if TYPE_CHECKING:
    from mmcredit.data.sample import Sample
    from mmcredit.policy.prompt import Prompt
    from mmcredit.rollout.batch import Ask

# Values are means of rewards: a difference below this is the rounding of a mean, not a difference.
SAME_VALUE = 1e-6


@register("strategy", "spo_tree")
class SPOTreeSampling(Strategy):
    """Tree sampling for credit method `spo_tree`: one row of the batch is one edge, parent -> child.

    A node of level d has branching[d] children. Levels but the last sample segments of M tokens, the last goes on to
    the end. V(leaf) = reward (a node that the length limit stopped is judged as it is), V(node) = mean over its
    children of V(child). An edge's row holds the ids from the prompt to the parent (valid, without credit) and the
    child's segment. Edges whose values are equal at both ends teach nothing: they are left out and counted.

    Gives `parent_value`, `child_value`, `sibling_std` (population) [B]. `rewards` and `reward_parts` of a row are those
    of its child: means of leaf rewards. `rollout.group` is not read. It does the sampling itself, so it stands last.
    Source: arXiv 2505.23564, section SPO-tree; code AIFrameResearch/SPO@b9fc6a2: 6-6-6 children; M = 30 with 1,024
    tokens, 600 with 4,096 (here, left out: the response limit in equal parts); at most 32 edges of a question and 512
    in a step of 32 questions; edges wait at most 8 steps. One mean counts an early leaf as much as a subtree, as there.
    Defaults are smaller: a 4-2-2 tree has 28 segments (6-6-6: 258) and the tokens of about 9 responses (6-6-6: 86); a
    step trains on 16 edges for each of its questions, the share that 512 of 32 questions are. Edges that wait do not
    make a step longer.
    Differs: token ids throughout (the code tokenises text anew). A row that waited is scored anew before the update
    (its ratio begins at 1), as there, but keeps the log-probs it was sampled with in `sampler_logprobs`.
    Not stated there and chosen here: `max_edges` is drawn uniformly from what the questions offer; a step without any
    edge of signal keeps one edge of each of its prompts, whose credit is 0, in place of ending the run.
    `max_leaves` bounds the leaves of a step: a level that would exceed it gets fewer children (counted).
    `buffer_edges` bounds what waits (the oldest go, counted); `max_age: 1` is no replay. The checkpoint holds it.
    Composes: it filters by itself; what a filter outside throws away of the drawn edges is lost.
    Cost: the tree and nothing else; one engine call per level, which reads each node's path anew, once for all its
    children. `mmcredit check` prints what a step samples.
    """

    gives: ClassVar[tuple[str, ...]] = ("parent_value", "child_value", "sibling_std")
    replaces_sampling: ClassVar[bool] = True

    branching: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (4, 2, 2), min_length=1, description="children of a node, per level from the prompt on"
    )
    segment_tokens: int | None = Field(
        None, ge=1, description="M: tokens of a segment above the last level; none = max_new_tokens / levels"
    )
    edges_per_prompt: int = Field(16, ge=1, description="edges of one question in a step")
    max_edges: int | None = Field(
        None, ge=1, description="edges in a step; none = edges_per_prompt for every prompt that is sampled"
    )
    max_age: int = Field(8, ge=1, description="steps after which an edge that waits is dropped")
    buffer_edges: int = Field(16384, ge=1, description="edges that may wait")
    max_leaves: int = Field(8192, ge=1, description="leaves of all trees of one call")

    _buffer: EdgeBuffer = PrivateAttr(default_factory=EdgeBuffer)

    def check(self, run: Run) -> None:
        sampling, levels = run.rollout.sampling, len(self.branching)
        if sampling.min_new_tokens:
            raise ValueError(
                f"rollout.sampling.min_new_tokens is {sampling.min_new_tokens}, but strategy 'spo_tree' would count it "
                "from the start of every segment; set it to 0"
            )
        if self.max_leaves < run.rollout.prompts:
            raise ValueError(
                f"strategy 'spo_tree': max_leaves {self.max_leaves} is below rollout.prompts {run.rollout.prompts}; "
                "every tree has a leaf"
            )
        above = self.segment(sampling.max_new_tokens) * (levels - 1)
        if above >= sampling.max_new_tokens:
            raise ValueError(
                f"strategy 'spo_tree': {levels - 1} levels of segment_tokens {self.segment(sampling.max_new_tokens)} "
                f"fill max_new_tokens {sampling.max_new_tokens}; nothing is left for the last level"
            )
        if max(self.branching) == 1:
            raise ValueError("strategy 'spo_tree': branching of 1 everywhere has no edge with a signal; use more")

    def volume(self, inner: Volume, run: Run) -> Volume:
        limit, prompts = run.rollout.sampling.max_new_tokens, run.rollout.prompts
        segments, leaves, tokens = tree_size(self.branching, limit, self.segment(limit), prompts, self.max_leaves)
        shape = "-".join(map(str, self.branching))
        edges = min(self.max_edges or self.edges_per_prompt * prompts, self.max_age * segments)
        line = (
            f"{self.name}: a {shape} tree for each prompt, up to {segments} segments and {leaves} leaves; trains on up "
            f"to {edges} edges (branching, edges_per_prompt and max_edges lower it)"
        )
        least = prompts * self.branching[0]  # every first segment ends by itself
        found = Volume(prompts, prompts, least, segments, tokens, edges, min(edges, prompts * self.max_age), limit)
        return found.noting(line)

    def segment(self, limit: int) -> int:
        """Tokens of a segment above the last level, for responses of `limit` tokens."""
        return self.segment_tokens or max(1, limit // len(self.branching))

    def __call__(self, asks: Sequence[Ask], rest: Rest, stage: Stage) -> Batch:
        segment = self.segment(stage.sampling.max_new_tokens)
        nodes, cost = grow(asks, self.branching, segment, self.max_leaves, self.name, stage)
        value(nodes, asks, stage)
        expired = self._buffer.expire(stage.step, self.max_age)
        found = edges(nodes, stage.step)
        prompts: dict[str, Prompt] = {}
        zero = 0
        for number, own in found.items():
            ask = asks[number]
            own = [without_logprobs(e) for e in own] if ask.shown is not None else own
            moved = [e for e in own if abs(e.child_value - e.parent_value) > SAME_VALUE]
            zero += len(own) - len(moved)
            prompts[ask.sample.id] = ask.prompt
            self._buffer.add(ask.sample, moved)
        (seed,) = stage.seeds(self.name, "draw", *(ask.seeds[0] for ask in asks if ask.seeds), count=1)
        most = self.max_edges or self.edges_per_prompt * max(1, len(found))
        drawn = self._buffer.draw(self.edges_per_prompt, most, seed)
        dropped = self._buffer.shrink(self.buffer_edges)
        roots = [n for n in nodes if n.response is None]
        stage.spend(
            self.name,
            segments=cost.segments,
            tokens=cost.tokens,
            leaves=cost.leaves,
            truncated_leaves=cost.truncated,
            narrowed_levels=cost.narrowed,
            zero_edges=zero,
            expired_edges=expired,
            dropped_edges=dropped,
        )
        stage.note(f"{self.name}/waiting_edges", len(self._buffer))
        stage.note(f"{self.name}/root_value", sum(n.value for n in roots) / max(1, len(roots)))
        pairs = self._pairs(drawn, prompts, stage)
        if not pairs:
            stage.event(
                "spo_tree: no edge of this step has a signal; one edge of each prompt stands in, without credit"
            )
            pairs = [(asks[number].sample, asks[number].prompt, own[:1]) for number, own in found.items()]
        return self.batch(pairs, stage)

    def _pairs(
        self, drawn: Mapping[str, list[Edge]], prompts: Mapping[str, Prompt], stage: Stage
    ) -> list[tuple[Sample, Prompt, list[Edge]]]:
        """Samples and prompts of what was drawn; a question that cannot be encoded any more is dropped and counted."""
        found = []
        for key, own in drawn.items():
            sample, prompt = self._buffer.samples[key], prompts.get(key)
            if prompt is None:
                try:
                    prompt = stage.encode(sample)
                except ValueError as error:
                    stage.spend(self.name, lost_edges=len(own))
                    stage.event(f"spo_tree: {len(own)} edges of an earlier step are lost: {error}")
                    continue
            found.append((sample, prompt, own))
        return found

    def batch(self, pairs: Sequence[tuple[Sample, Prompt, list[Edge]]], stage: Stage) -> Batch:
        """Edges of each question as a batch: one row each."""
        samples, prompts = [sample for sample, _, _ in pairs], [prompt for _, prompt, _ in pairs]
        rows = [(prompt, edge) for _, prompt, own in pairs for edge in own]
        requests = [Request(prompt, (0,), edge.context, tag=i) for i, (prompt, edge) in enumerate(rows)]
        responses = [
            Response(i, 0, list(e.tokens), list(e.logprobs), "length" if e.truncated else "stop")
            for i, (_, e) in enumerate(rows)
        ]
        rollouts = collate(prompts, requests, responses, stage.policy.tokenizer.pad_token_id, samples)
        own = [edge for _, edge in rows]

        def column(values: Sequence[float]) -> torch.Tensor:
            return torch.tensor(values, dtype=torch.float32)

        rollouts = rollouts.replace(
            rewards=column([e.child_value for e in own]),
            reward_parts={name: column([e.parts[name] for e in own]) for name in (own[0].parts if own else ())},
            signals={name: column([getattr(e, name) for e in own]) for name in self.gives},
        )
        texts = [stage.decode([*e.context, *e.tokens]) for e in own]
        return Batch(samples, prompts, rollouts.to(stage.policy.device), texts)

    def state_dict(self) -> dict[str, Any]:
        return self._buffer.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._buffer.load_state_dict(state)
