"""Strategy spo_tree: values of the worked tree, its rows, its buffer, its budgets."""

from __future__ import annotations

import math

import pytest
import torch
from canned_stage import CannedStage, prompt, sample
from runs import parse

from mmcredit.data.sample import Media, Sample
from mmcredit.data.sample_state import pack, unpack
from mmcredit.rollout.batch import Ask
from mmcredit.rollout.strategies.spo_tree import SPOTreeSampling
from mmcredit.rollout.strategies.spo_tree.edge_buffer import EdgeBuffer
from mmcredit.rollout.strategies.spo_tree.tree import Edge, edges, grow, value
from mmcredit.state_tree import load_tree, save_tree

LEAVES = {1: (1, 0, 1), 2: (1, 1, 1), 3: (0, 0, 0)}  # by first token: a, b, c


def say(request, member):
    """Segments of two tokens that the limit stops above, one token with an end below."""
    if not request.prefix:
        return [member + 1, 9], "length"
    return [20 + member], "stop"


def worth(ids):
    return float(LEAVES[ids[0]][ids[2] - 20])


def rest(asks):
    raise AssertionError("spo_tree samples itself")


def edge(context=(), tokens=(1,), step=0, child=1.0):
    return Edge(context, tokens, (-0.25,) * len(tokens), 0.5, child, 0.5, False, {"part": child}, step)


def test_the_papers_tree():
    stage = CannedStage(worth, say)
    asks = [Ask(sample(), prompt(), (1, 2))]
    nodes, cost = grow(asks, (3, 3), 2, 100, "spo_tree", stage)
    value(nodes, asks, stage)
    assert nodes[0].value == pytest.approx(5 / 9)
    found = {e.context + e.tokens: e for e in edges(nodes, 0)[0]}
    assert (cost.segments, cost.leaves, cost.tokens, cost.truncated) == (12, 9, 15, 0)
    assert stage.calls == 2  # one per level
    change = {key: e.child_value - e.parent_value for key, e in found.items()}
    rloo = {(1, 9): 1 / 9, (2, 9): 4 / 9, (3, 9): -5 / 9, (1, 9, 20): 1 / 3, (1, 9, 21): -2 / 3, (1, 9, 22): 1 / 3}
    grpo = {(1, 9): 0.2673, (2, 9): 1.0690, (3, 9): -1.3363, (1, 9, 20): 0.7071, (1, 9, 21): -1.4142}
    for key, expected in rloo.items():
        assert change[key] == pytest.approx(expected, abs=1e-9)
    for key, expected in grpo.items():
        assert change[key] / (found[key].sibling_std + 1e-8) == pytest.approx(expected, abs=1e-4)
    assert all(change[2, 9, 20 + i] == change[3, 9, 20 + i] == 0 for i in range(3))


def test_rows_are_edges_with_their_context():
    stage = CannedStage(worth, say)
    strategy = SPOTreeSampling(branching=(3, 3), segment_tokens=2)
    batch = strategy([Ask(sample("x"), prompt("x"), (1,))], rest, stage)
    rollouts = batch.rollouts
    assert len(rollouts) == 6
    assert stage.spent["zero_edges"] == 6
    first = rollouts.tokens.tolist().index([1, 9, 21])
    assert rollouts.valid[first].tolist() == [True, True, True]
    assert rollouts.mask[first].tolist() == [False, False, True]
    assert rollouts.sampler_logprobs[first].tolist() == [0.0, 0.0, -0.5]
    assert rollouts.signal("parent_value")[first] == pytest.approx(2 / 3)
    assert rollouts.signal("child_value")[first] == rollouts.rewards[first] == rollouts.reward_parts["part"][first] == 0
    assert rollouts.signal("sibling_std")[first] == pytest.approx(math.sqrt(2) / 3)
    assert batch.texts[first] == "1 9 21"
    assert rollouts.group.tolist() == [0] * 6


def test_early_ends_limits_and_a_budget():
    # A child that ends by itself is a leaf beside its siblings' subtrees: a mean of means.
    def early(request, member):
        return ([1], "stop") if not request.prefix and member == 0 else say(request, member)

    stage = CannedStage(lambda ids: 1.0 if ids == [1] else 0.0, early)
    asks = [Ask(sample(), prompt(), (1,))]
    nodes, cost = grow(asks, (2, 3), 2, 100, "t", stage)
    value(nodes, asks, stage)
    assert cost.leaves == 4
    assert nodes[0].value == 0.5

    # The response limit ends a node above the last level, and is what the last level may still say.
    def long(request, member):
        return [5] * request.limit, "length"

    stage = CannedStage(lambda ids: float(len(ids)), long, limit=5)
    nodes, cost = grow(asks, (2, 2, 2), 4, 100, "t", stage)
    assert [len(r.prefix) for r in stage.requests] == [0, 4, 4]
    assert [r.limit for r in stage.requests] == [4, 1, 1]
    assert cost.leaves == cost.truncated == 4
    assert all(e.truncated == (len(e.context) == 4) for e in edges(nodes, 0)[0])

    # 2 trees of 6 x 6 leaves in a budget of 30: 6 children, then 2 each.
    two = [Ask(sample("a"), prompt("a"), (1,)), Ask(sample("b"), prompt("b"), (2,))]
    nodes, cost = grow(two, (6, 6), 2, 30, "t", CannedStage(lambda ids: 0.0, say, limit=9))
    assert (cost.leaves, cost.narrowed) == (24, 1)
    nodes, cost = grow(two, (6, 6), 2, 2, "t", CannedStage(lambda ids: 0.0, say, limit=9))
    assert cost.leaves == 2


def test_seeds_belong_to_the_ask_and_the_place():
    def seeds_of(asks):
        stage = CannedStage(lambda ids: 0.0, say)
        grow(asks, (2, 3), 2, 100, "t", stage)
        return {(r.prompt.sample_id, tuple(r.prefix)): r.seeds for r in stage.requests}

    a, b = Ask(sample("a"), prompt("a"), (11,)), Ask(sample("b"), prompt("b"), (12,))
    both = seeds_of([a, b])
    assert seeds_of([b, a]) == both
    assert seeds_of([b]).items() <= both.items()
    flat = [seed for seeds in both.values() for seed in seeds]
    assert len(set(flat)) == len(flat) == 2 * (2 + 2 * 3)


def test_the_buffer_is_drawn_from_and_grows_old():
    buffer = EdgeBuffer()
    buffer.add(sample("a"), [edge(tokens=(i,), step=0) for i in range(5)])
    buffer.add(sample("b"), [edge(tokens=(i,), step=1) for i in range(3)])
    drawn = buffer.draw(2, 100, seed=1)
    assert {key: len(v) for key, v in drawn.items()} == {"a": 2, "b": 2}
    assert len(buffer) == 4
    left = {key: [e.tokens for e in v] for key, v in buffer.edges.items()}
    assert not {e.tokens for e in drawn["a"]} & set(left["a"])
    assert buffer.expire(8, 8) == 3  # the step 0 edges are 8 steps old
    assert list(buffer.edges) == ["b"] == list(buffer.samples)
    buffer.add(sample("c"), [edge(step=5), edge(step=5)])
    assert buffer.shrink(2) == 1
    assert list(buffer.edges) == ["c"]
    assert sum(map(len, buffer.draw(32, 1, seed=0).values())) == 1
    assert EdgeBuffer().draw(3, 3, 0) == {}


def test_edges_that_wait_come_back_in_a_later_step(tmp_path):
    stage = CannedStage(worth, say)
    strategy = SPOTreeSampling(branching=(3, 3), segment_tokens=2, edges_per_prompt=4, max_edges=9, max_age=2)
    first = strategy([Ask(sample("x"), prompt("x"), (1,))], rest, stage)
    assert len(first) == 4
    assert stage.notes["spo_tree/waiting_edges"] == 2

    # A checkpoint holds what waits, through JSON and safetensors.
    save_tree(strategy.state_dict(), tmp_path / "state")
    restored = SPOTreeSampling(branching=(3, 3), segment_tokens=2, edges_per_prompt=4, max_edges=9, max_age=2)
    restored.load_state_dict(load_tree(tmp_path / "state"))
    batches = []
    for one in (strategy, restored):
        later = CannedStage(worth, say)
        later.step = 1
        batches.append(one([Ask(sample("y"), prompt("y"), (7,))], rest, later))
    assert torch.equal(batches[0].rollouts.tokens, batches[1].rollouts.tokens)
    assert torch.equal(batches[0].rollouts.sampler_logprobs, batches[1].rollouts.sampler_logprobs)
    assert [s.id for s in batches[1].samples] == ["x", "y"]
    assert batches[1].rollouts.group.tolist() == [0, 0, 1, 1, 1, 1]
    seen = {tuple(row) for row in first.rollouts.tokens.tolist()}
    assert not seen & {tuple(row) for row in batches[1].rollouts.tokens[:2].tolist()}
    third = CannedStage(worth, say)
    third.step = 3
    restored([Ask(sample("z"), prompt("z"), (8,))], rest, third)
    assert third.spent["expired_edges"] == 2  # of step 1; those of step 0 were used up in step 1

    # A question that cannot be encoded any more is lost, counted and said.
    lost = SPOTreeSampling(branching=(3, 3), segment_tokens=2)
    lost.load_state_dict(load_tree(tmp_path / "state"))
    stage = CannedStage(worth, say)

    def gone(sample):
        raise ValueError("sample x: the file is gone")

    stage.encode = gone
    batch = lost([Ask(sample("y"), prompt("y"), (7,))], rest, stage)
    assert stage.spent["lost_edges"] == 2
    assert "the file is gone" in stage.events[0]
    assert [s.id for s in batch.samples] == ["y"]


def test_a_step_without_signal_keeps_a_row_without_credit():
    stage = CannedStage(lambda ids: 1.0, say)
    batch = SPOTreeSampling(branching=(3, 3), segment_tokens=2)([Ask(sample(), prompt(), (1,))], rest, stage)
    assert len(batch) == 1
    assert batch.rollouts.signal("parent_value").tolist() == batch.rollouts.signal("child_value").tolist() == [1.0]
    assert "no edge of this step has a signal" in stage.events[0]
    assert len(SPOTreeSampling()([], rest, CannedStage(worth, say))) == 0


def test_another_image_for_the_sampler_hides_its_logprobs():
    shown = prompt("noised")
    stage = CannedStage(worth, say)
    batch = SPOTreeSampling(branching=(3, 3), segment_tokens=2)([Ask(sample(), prompt(), (1,), shown)], rest, stage)
    assert all(r.prompt is shown for r in stage.requests)
    assert bool(batch.rollouts.sampler_logprobs[batch.rollouts.mask].isnan().all())


def test_samples_survive_being_packed(tmp_path):
    content = [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "q"}]
    media = (Media("image", data=b"\x00\xff\x10", name="a.png"), Media("image", path=tmp_path / "b.png"))
    whole = Sample("s", ({"role": "user", "content": content},), media, None, {"box": [1, 2.5], "k": None})
    save_tree(pack(whole), tmp_path / "sample")
    assert unpack(load_tree(tmp_path / "sample")) == whole


@pytest.mark.parametrize(
    ("fields", "sampling", "message"),
    [
        ({"max_leaves": 3}, {}, "max_leaves 3 is below rollout.prompts 4"),
        ({"segment_tokens": 4}, {}, "2 levels of segment_tokens 4 fill max_new_tokens 8; nothing is left"),
        ({}, {"min_new_tokens": 2}, "min_new_tokens is 2.*set it to 0"),
        ({"branching": [1, 1]}, {}, "branching of 1 everywhere"),
        ({"branching": [2, 0]}, {}, "branching"),
        ({"branching": []}, {}, "branching"),
        ({"edge_per_prompt": 3}, {}, "did you mean 'edges_per_prompt'"),
    ],
)
def test_bad_configs(tmp_path, fields, sampling, message):
    with pytest.raises(ValueError, match=message):
        parse(
            tmp_path,
            credit=["spo_tree"],
            rollout__strategies=[{"spo_tree": fields}],
            rollout__sampling={"max_new_tokens": 8} | sampling,
        )


def test_it_must_stand_last_and_its_signals_are_asked_for_by_name(tmp_path):
    with pytest.raises(ValueError, match="'spo_tree' does the sampling itself and must stand last"):
        parse(tmp_path, credit=["spo_tree"], rollout__strategies=["spo_tree", "spo_chain"])
    with pytest.raises(ValueError, match="add 'spo_tree' to rollout.strategies"):
        parse(tmp_path, credit=["spo_tree"])
