"""The prompt order and the count of what was dropped."""

from __future__ import annotations

import json

import pytest

from mmcredit.data.dropped import Dropped
from mmcredit.data.order import PromptOrder, permutation


@pytest.mark.parametrize(("size", "batch"), [(7, 3), (6, 3), (5, 5), (3, 7), (1, 4), (4, 1)])
def test_every_epoch_holds_every_prompt_once(size: int, batch: int) -> None:
    order = PromptOrder(size, batch, seed=3)
    flat = [index for _ in range(size * 4) for index in order.next_batch()]
    assert len(flat) == size * 4 * batch
    for epoch in range(4 * batch):
        part = flat[epoch * size : (epoch + 1) * size]
        assert part == permutation(size, 3, epoch).tolist()
        assert sorted(part) == list(range(size))


@pytest.mark.parametrize(("size", "batch"), [(7, 3), (5, 5), (3, 7)])
def test_resume_at_every_position(size: int, batch: int) -> None:
    straight = PromptOrder(size, batch, seed=11)
    batches = []
    states = []
    for _ in range(3 * size):
        states.append(json.dumps(straight.state_dict()))
        batches.append(straight.next_batch())
    for step, state in enumerate(states):
        resumed = PromptOrder(size, batch, seed=11)
        resumed.load_state_dict(json.loads(state))
        assert [resumed.next_batch() for _ in range(len(batches) - step)] == batches[step:]


def test_resume_with_another_batch_size_goes_on_where_it_was() -> None:
    order = PromptOrder(10, 4, seed=1)
    head = order.next_batch()
    resumed = PromptOrder(10, 6, seed=1)
    resumed.load_state_dict(order.state_dict())
    assert head + resumed.next_batch() == permutation(10, 1, 0).tolist()


def test_order_depends_on_seed_and_epoch_alone_and_is_frozen() -> None:
    # Frozen values: a change here breaks the resume of every older run.
    assert permutation(8, 0, 0).tolist() == [7, 2, 4, 0, 5, 3, 1, 6]
    assert permutation(8, 2**40 + 7, 3).tolist() == [6, 7, 1, 4, 3, 2, 5, 0]
    seen = {tuple(permutation(50, seed, epoch)) for seed in (0, 1, 2**32, 2**40 + 1) for epoch in (0, 1)}
    assert len(seen) == 8
    assert permutation(50, 5, 2).tolist() == permutation(50, 5, 2).tolist()


def test_without_shuffle_the_order_is_that_of_the_data() -> None:
    order = PromptOrder(3, 2, shuffle=False)
    assert [order.next_batch() for _ in range(3)] == [[0, 1], [2, 0], [1, 2]]
    assert order.epochs == 2.0


@pytest.mark.parametrize("arguments", [{"num_samples": 0, "batch": 1}, {"num_samples": 1, "batch": 0}])
def test_nothing_to_order_is_an_error(arguments: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="=0"):
        PromptOrder(**arguments)


@pytest.mark.parametrize("seed", [-1, 2**96])
def test_seed_out_of_range(seed: int) -> None:
    with pytest.raises(ValueError, match="seed"):
        PromptOrder(3, 1, seed=seed)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_samples": 9}, "num_samples=9, this run has 8"),
        ({"seed": 4}, "seed=4, this run has 3"),
        ({"shuffle": False}, "shuffle=False, this run has True"),
        ({"position": 9}, "damaged"),
        ({"epoch": -1}, "damaged"),
    ],
)
def test_state_of_another_run_is_refused(change: dict[str, int], message: str) -> None:
    order = PromptOrder(8, 2, seed=3)
    order.next_batch()
    before = order.state_dict()
    with pytest.raises(ValueError, match=message):
        order.load_state_dict(before | change)
    assert order.state_dict() == before


def test_dropped_counts_by_reason_with_first_examples() -> None:
    dropped = Dropped(examples=2)
    assert not dropped
    assert str(dropped) == "0 dropped"
    for number in range(4):
        dropped.add("prompt over the limit", f"train/{number}")
    dropped.add("image cannot be decoded", "train/9")
    assert (dropped.total, dropped.counts["prompt over the limit"]) == (5, 4)
    assert str(dropped) == (
        "5 dropped: prompt over the limit: 4 (train/0, train/1, ...); image cannot be decoded: 1 (train/9)"
    )


def test_dropped_adds_up_and_is_restored() -> None:
    left, right = Dropped(examples=2), Dropped(examples=2)
    left.add("a", "x/1")
    right.add("a", "x/2")
    right.add("a", "x/3")
    right.add("b", "x/4")
    left.update(right)
    assert list(left) == [("a", 3, ["x/1", "x/2"]), ("b", 1, ["x/4"])]
    restored = Dropped()
    restored.load_state_dict(json.loads(json.dumps(left.state_dict())))
    assert list(restored) == list(left)
