"""Reward functions with the signatures of TRL, verl and EasyR1 work as they are; what cannot work says why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mmcredit.answers.item import RewardItem
from mmcredit.components import build
from mmcredit.rewards.pool import RewardPool
from mmcredit.rewards.signatures import recognised, written_parameters

SOURCE = """
import asyncio
import functools

def trl_text(completions, **kwargs):
    return [float(c == a) for c, a in zip(completions, kwargs["solution"])]

def trl_chat(prompts, completions, answer, level, **kwargs):
    return [
        None if l == 0 else float(c[0]["content"] == a) + 10 * float(p[-1]["content"] == "q1")
        for p, c, a, l in zip(prompts, completions, answer, level)
    ]

def trl_group(completions, **kwargs):
    longest = max(len(c) for c in completions)
    return [float(len(c) == longest) for c in completions]

def trl_needs(completions, difficulty):
    return [0.0] * len(completions)

def trl_scalar(completions, **kwargs):
    return 1.0

def trl_short(completions, **kwargs):
    return [1.0]

async def trl_async(completions, **kwargs):
    return [1.0] * len(completions)

def gives_coroutine(completions, **kwargs):
    async def later():
        return [1.0]
    return later()

def verl(data_source, solution_str, ground_truth, extra_info=None, scale=1.0):
    return {"score": scale * float(solution_str == ground_truth) + float(data_source == "geo") + extra_info["index"]}

def verl_number(data_source, solution_str, ground_truth, extra_info=None):
    return float(solution_str == ground_truth)

def verl_batch(data_sources, solution_strs, ground_truths, extra_infos, **kwargs):
    return [{"score": float(s == g)} for s, g in zip(solution_strs, ground_truths)]

def easyr1(reward_input):
    return {"overall": float(reward_input["response"] == reward_input["ground_truth"]), "format": 1.0}

def easyr1_batch(reward_inputs, weight=1.0):
    return [{"overall": weight * r["response_length"]} for r in reward_inputs]

def odd_mapping(reward_input):
    return {"accuracy": 1.0}

def ours(item):
    return float(item.response == item.answer)

def wrapped(function):
    @functools.wraps(function)
    def inner(*a, **k):
        return function(*a, **k)
    return inner

@wrapped
def decorated(completions, **kwargs):
    return [2.0] * len(completions)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "theirs.py"
    file.write_text(SOURCE)
    return file


def items() -> list[RewardItem]:
    meta = [{"level": i, "data_source": "geo", "extra_info": {"index": 100 * i}} for i in range(3)]
    return [
        RewardItem(r, "5", f"q{i}", 3 + i, meta=m) for i, (r, m) in enumerate(zip(("5", "6", "5"), meta, strict=True))
    ]


def values(path: Path, name: str, **fields: Any) -> list[float | None]:
    reward = build("reward", {"function": {"path": f"{path}:{name}", **fields}})
    return list(reward(items()))  # type: ignore[operator]


def test_functions_are_called_as_their_trainers_call_them(path: Path) -> None:
    assert values(path, "trl_text") == [1, 0, 1]
    assert values(path, "trl_chat", chat=True) == [None, 10, 1]
    assert values(path, "verl", kwargs={"scale": 2}) == [3, 101, 203]
    assert values(path, "verl_number") == [1, 0, 1]
    assert values(path, "verl_batch") == [1, 0, 1]
    assert values(path, "easyr1") == [1, 0, 1]
    assert values(path, "easyr1_batch", kwargs={"weight": 2}) == [6, 8, 10]
    assert values(path, "ours") == [1, 0, 1]
    assert values(path, "decorated") == [2, 2, 2]
    assert values(path, "trl_text", call="trl") == [1, 0, 1]


def test_signatures_are_recognised_without_running_the_file(path: Path, tmp_path: Path) -> None:
    for name, call in (
        ("trl_text", "trl"),
        ("verl", "verl"),
        ("verl_batch", "verl_batch"),
        ("easyr1", "easyr1"),
        ("easyr1_batch", "easyr1_batch"),
        ("ours", "item"),
        ("decorated", "trl"),
    ):
        assert recognised(written_parameters(str(path), name) or ()) == call
    assert written_parameters(str(path), "absent") is None
    assert written_parameters("mmcredit.rewards.signatures", "recognised") == ["parameters"]
    assert written_parameters("no.such.module", "f") is None
    loud = tmp_path / "loud.py"
    loud.write_text("raise RuntimeError('was run')\ndef f(completions): pass\n")
    reward = build("reward", {"function": {"path": f"{loud}:f"}})
    assert reward.whole_batch()  # type: ignore[attr-defined]


def test_a_trl_function_sees_the_whole_batch_in_the_workers(path: Path) -> None:
    batch = [RewardItem(r, "5") for r in ("a", "ccc", "bb")]
    rewards = [build("reward", {"function": {"path": f"{path}:{n}", "label": n}}) for n in ("trl_group", "verl_number")]
    with RewardPool(rewards, workers=1) as pool:  # type: ignore[arg-type]
        result = pool.score(batch)
    assert result.parts["trl_group"] == [0, 1, 0]
    assert result.parts["verl_number"] == [0, 0, 0]


def test_a_verl_function_without_a_reference_does_not_apply(path: Path) -> None:
    reward = build("reward", {"function": {"path": f"{path}:verl_number"}})
    assert reward([RewardItem("5", None)]) == [None]  # type: ignore[operator]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("trl_async", "trl_async is an async function.*asyncio.run"),
        ("gives_coroutine", "returned something to be awaited"),
        ("trl_scalar", r"must return a list of 3 numbers, one per response; it returned float '1\.0'"),
        ("trl_needs", r"wants 'difficulty', which is no column of this data set \(columns: level, data_source, extra"),
        ("odd_mapping", "returned a mapping without 'score' or 'overall': keys accuracy"),
    ],
)
def test_what_cannot_work_says_why(path: Path, name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        values(path, name)


def test_a_result_of_another_length_is_counted_and_named(path: Path) -> None:
    reward = build("reward", {"function": {"path": f"{path}:trl_short"}})
    with RewardPool([reward], workers=1, max_error_share=1.0) as pool:  # type: ignore[list-item]
        result = pool.score(items())
    assert result.counts["function/error/wrong_length"] == 3
    assert "1 values for 3 items; return one each, in their order" in result.first_errors[0]


def test_an_async_function_stops_the_run_at_its_start(path: Path) -> None:
    reward = build("reward", {"function": {"path": f"{path}:trl_async"}})
    with RewardPool([reward], workers=1) as pool, pytest.raises(RuntimeError, match="is an async function"):  # type: ignore[list-item]
        pool.start()
