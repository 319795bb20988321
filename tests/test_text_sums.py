"""The source `sums`: every sum once, splits that share nothing, bounds that leave nothing."""

from __future__ import annotations

import pytest

from mmcredit.components import build
from mmcredit.data.media import MediaLimits


def load(**fields):
    return build("source", {"sums": fields}).load(MediaLimits())


def test_every_sum_is_in_one_split_and_right():
    both = [sample for split in ("train", "test") for sample in load(a_below=12, b_below=5, split=split)]
    seen = {(s.meta["a"], s.meta["b"]) for s in both}
    assert len(both) == len(seen) == 60
    assert all(int(s.answer) == s.meta["a"] + s.meta["b"] for s in both)


def test_the_split_of_a_question_does_not_depend_on_seed_or_bounds():
    small = {s.id for s in load(a_below=10, b_below=10, split="test", seed=3)}
    large = {s.id for s in load(a_below=30, b_below=10, split="test")}
    assert small <= large
    assert not large & {s.id.replace("train", "test") for s in load(a_below=30, b_below=10)}


def test_seeds_change_the_order_only():
    first, second = (list(load(seed=seed)) for seed in (0, 1))
    assert [s.id for s in first] != [s.id for s in second]
    assert {s.id for s in first} == {s.id for s in second}


def test_template_goes_around_the_question():
    sample = load(template="{{ content }} Reply with the number only.")[0]
    assert (
        sample.messages[-1]["content"]
        == f"What is {sample.meta['a']} + {sample.meta['b']}? Reply with the number only."
    )


def test_bounds_that_leave_a_split_empty_are_named():
    with pytest.raises(ValueError, match=r"sums \(test\): none of the 1 sums .*a_below 1"):
        load(a_below=1, b_below=1, split="test")
