"""Alarms: the cause that is named, and how often it is said."""

from __future__ import annotations

import pytest
import torch
from runs import metrics, parse

from mmcredit.components import build_all
from mmcredit.config import CheckBlock
from mmcredit.rewards.pool import RewardPool
from mmcredit.train.alarms import Alarms, answer_metrics
from mmcredit.train.loop import Trainer

QUIET = {
    "reward/mean": 0.5, "group/zero_signal": 0.2, "credit/nonzero_fraction": 0.9, "response/truncated": 0.0,
    "response/count": 16.0,
}  # fmt: skip


def alarms(*rewards, **check):
    pool = RewardPool(build_all("reward", rewards or ["exact_answer", "format"]))
    return Alarms(CheckBlock(**check), dict(zip(pool.names, pool.rewards, strict=True))), pool


def step(pool, responses, prompts=("Say <answer>.",), values=None, **more):
    """Metrics of a step in which no group has a signal."""
    parts = {name: torch.tensor((values or {}).get(name, [0.0] * len(responses))) for name in pool.names}
    found = QUIET | {"group/zero_signal": 1.0, "credit/nonzero_fraction": 0.0, "response/count": float(len(responses))}
    found |= {f"reward/part/{name}": float(v.mean()) for name, v in parts.items()}
    return found | answer_metrics(pool, responses, prompts, parts) | more


@pytest.mark.parametrize(
    ("responses", "prompts", "more", "values", "words"),
    [
        (["It is red."] * 16, ["What colour?"], {}, None,
         ["0 of 16 responses contain <answer>", "exact_answer", "the prompt does not ask for it"]),
        (["It is red."] * 16, ["Put it into <answer></answer>."], {}, None,
         ["0 of 16 responses contain <answer>", "but the model does not write it"]),
        (["long"] * 16, ["Put it into <answer></answer>."], {"response/truncated": 0.9}, None,
         ["0 of 16 responses contain <answer>", "90% of them were cut off by rollout.sampling.max_new_tokens"]),
        (["<answer>red</answer>"] * 16, ["x"], {}, None, ["0 of 16 responses have the format", "format"]),
        (["<answer>red</answer>"] * 16, ["x"], {}, {"format": [1.0] * 16},
         ["exact_answer is 0 for all 16 responses", "too hard"]),
        (["<answer>red</answer>"] * 16, ["x"], {}, {"format": [1.0] * 16, "exact_answer": [1.0] * 16},
         ["exact_answer is 1 for all 16 responses", "too easy"]),
        (["<answer>red</answer>"] * 16, ["x"], {}, {"format": [1.0] * 16, "exact_answer": [1.0] * 8 + [0.0] * 8},
         ["too easy or too hard"]),
        (["x"] * 16, ["x"], {"reward/exact_answer/error": 10.0, "reward/exact_answer/timeout": 6.0}, None,
         ["reward exact_answer failed on all of the 16 responses"]),
        (["x"] * 16, ["x"], {"reward/exact_answer/not_applicable": 16.0}, None,
         ["exact_answer applies to none of the 16 responses", "columns.answer"]),
    ],
    ids=["not asked", "not written", "cut off", "format", "hard", "easy", "mixed", "errors", "no reference"],
)  # fmt: skip
def test_no_signal_names_its_cause(responses, prompts, more, values, words):
    watch, pool = alarms()
    (message,) = watch.look(step(pool, responses, prompts, values, **more))[:1]
    assert message.startswith("100% of the groups have no signal: ")
    for word in words:
        assert word in message
    if "not ask" in words[-1]:
        assert "too easy" not in message
        assert "too hard" not in message


def test_a_box_that_nobody_asks_for():
    watch, pool = alarms("math", {"format": {"preset": "think_boxed"}})
    (message,) = watch.look(step(pool, ["the answer is 4"] * 8, ["2 + 2 ="]))
    assert r"0 of 8 responses contain \boxed{}" in message
    assert "does not ask" in message


def test_one_answer_in_the_tag_is_no_format_trouble():
    watch, pool = alarms("exact_answer")
    (message,) = watch.look(step(pool, ["<answer>red</answer>", "it is red"], ["x"]))
    assert "contain" not in message
    assert "too hard" in message


def test_an_alarm_that_comes_and_goes_is_said_every_n_steps_with_a_count():
    watch, _ = alarms(alarm_every=10)
    said = []
    for number in range(40):
        row = QUIET | {"reward/mean": float(number), "response/truncated": 0.9 if number % 2 else 0.1}
        said += [(number, message) for message in watch.look(row)]
    assert [number for number, _ in said] == [1, 11, 21, 31]
    assert "(as in" not in said[0][1]
    assert all("(as in 5 of the 10 steps before)" in message for _, message in said[1:])


def test_a_cause_that_stays_is_said_again_and_a_rare_one_at_once():
    watch, _ = alarms(alarm_every=10)
    bad = [0, 1, 2, 30]
    said = []
    for number in range(40):
        row = QUIET | {"reward/mean": float(number), "mismatch/kl": 9.0 if number in bad else 0.0}
        said += [number for _ in watch.look(row)]
    assert said == [0, 30]
    watch, _ = alarms(alarm_every=10)
    rows = [QUIET | {"reward/mean": float(n), "mismatch/kl": 9.0} for n in range(25)]
    assert [n for n, row in enumerate(rows) if watch.look(row)] == [0, 10, 20]


def test_another_cause_of_the_same_silence_is_said_at_once():
    watch, pool = alarms(alarm_every=10)
    assert "does not ask" in watch.look(step(pool, ["red"] * 4, ["x"]))[0]
    assert watch.look(step(pool, ["red"] * 4, ["x"])) == []
    assert "too hard" in watch.look(step(pool, ["<answer>red</answer>"] * 4, ["x"], {"format": [1.0] * 4}))[0]


def test_a_resumed_run_says_what_the_whole_one_does():
    rows = [QUIET | {"reward/mean": 0.5, "response/truncated": 0.9 if n % 3 else 0.0} for n in range(60)]
    whole, _ = alarms(alarm_every=7, stuck_reward_steps=5)
    expected = [whole.look(row) for row in rows]
    first, _ = alarms(alarm_every=7, stuck_reward_steps=5)
    got = [first.look(row) for row in rows[:23]]
    second, _ = alarms(alarm_every=7, stuck_reward_steps=5)
    second.load_state_dict(first.state_dict())
    assert got + [second.look(row) for row in rows[23:]] == expected
    assert any("the mean reward has been 0.5" in message for step in expected for message in step)


def test_a_run_names_the_format_and_logs_what_was_found(tmp_path, capsys):
    """An untrained model never writes <answer>, and easy-VQA's questions do not ask for it."""
    run = parse(tmp_path, rewards=["exact_answer", "format"], run__steps=2)
    Trainer(run).run()
    rows = metrics(tmp_path / "run")
    assert rows[0]["reward/found/exact_answer"] == 0.0 == rows[0]["reward/asked/exact_answer"]
    assert rows[0]["reward/best/exact_answer"] == 0.0 == rows[0]["reward/best/format"]
    events = (tmp_path / "run" / "events.jsonl").read_text()
    assert "0 of 16 responses contain <answer>" in events
    assert "the prompt does not ask for it" in events
    assert "too easy" not in events
