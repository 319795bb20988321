"""The shipped text config: readable, its splits apart, its reward made for its data."""

from __future__ import annotations

from mmcredit import config
from mmcredit.answers.item import RewardItem
from mmcredit.components import build


def test_text_math_config_holds_together() -> None:
    run = config.load("text_math")
    train, held_out = (build("source", entry).load(run.data.media) for entry in (run.data.train, run.data.evaluate))  # type: ignore[attr-defined]
    assert len(train) == 4000
    assert len(held_out) == run.evaluate.limit == 1000
    assert not {str(s.messages) for s in train} & {str(s.messages) for s in held_out}
    rewards = [build("reward", entry) for entry in run.rewards]
    sample = held_out[0]
    right = RewardItem(f"<think>sum</think><answer>{sample.answer}</answer>", sample.answer, meta=dict(sample.meta))
    assert sum(r.weight * r([right])[0] for r in rewards) == 1.0  # type: ignore[attr-defined, operator]
    assert run.evaluate.reward == rewards[0].name
