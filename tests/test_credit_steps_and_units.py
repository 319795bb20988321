"""`step_wise` with its judge, `pooled` with its units: worked numbers, identities, runs."""

import copy
import json
import math
from pathlib import Path

import pytest
import torch
from runs import settings
from tiny import save, tiny_text, tiny_tokenizer

from mmcredit import Rollouts, assign_credit, config
from mmcredit.components import build
from mmcredit.credit.pooled import pool
from mmcredit.credit.step_wise import majority, standardise, step_rewards
from mmcredit.policy.offsets import TokenOffsets
from mmcredit.policy.units import units_of
from mmcredit.rollout.strategies.step_judge import read_vote
from mmcredit.train.loop import Trainer
from mmcredit.views.hints import best_hint, read_hint


@pytest.mark.parametrize(
    ("votes", "result"),
    [([1, 1, -1], 1), ([1, -1], 0), ([0, 0, 1], 0), ([1, -1, 0], 0), ([None, 1], 1), ([None], 0), ([], 0), ([-1], -1)],
)
def test_votes(votes, result):
    assert majority(votes) == result


def test_boxed_votes_are_read():
    assert read_vote("well \\boxed{1} no, \\boxed{-1}") == -1
    assert read_vote("\\boxed{ +1 }") == 1
    assert read_vote("\\boxed{0}") == 0
    assert read_vote("\\boxed{2}") is None
    assert read_vote("1") is None


def test_the_longest_useful_hint_is_kept():
    good = "well [HINT_START] name the colour first [HINT_END] \\boxed{1}"
    longer = "[HINT_START]name the colour first, then the shape[HINT_END] \\boxed{+1}"
    assert read_hint(good) == "name the colour first"
    assert best_hint([good, longer]) == "name the colour first, then the shape"
    useless = (
        "[HINT_START]name the colour[HINT_END] \\boxed{-1}",
        "\\boxed{1}",
        "[HINT_START] [HINT_END]\\boxed{1}",
    )
    for none in useless:
        assert read_hint(none) is None
    assert best_hint(["[HINT_START]0123456789[HINT_END] \\boxed{1}"]) is None  # 10 characters are too few
    assert best_hint([]) is None


OUTCOMES = [1.0, 0.0, 0.0]
STEP_VOTES = [[[1], [-1], [1]], [[1], [1]], [[-1], [-1], [-1]]]


def test_step_rewards_and_their_standardisation():
    rewards = [step_rewards(o, v) for o, v in zip(OUTCOMES, STEP_VOTES, strict=True)]
    assert rewards == [[2, 0, 2], [1, 1], [-1, -1, -1]]
    assert step_rewards(1.0, [[], [None, 1]]) == [1.0, 2.0]
    padded = torch.tensor([row + [math.nan] * (3 - len(row)) for row in rewards])
    found = standardise(padded, torch.zeros(3, dtype=torch.int64))
    expected = [[1.069044, 0.0, 0.999999], [0.267261, 1.224743, math.nan], [-1.336305, -1.224743, -0.999999]]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), atol=1e-6, rtol=0, equal_nan=True)
    alone = standardise(torch.tensor([[3.0], [1.0], [1.0]]), torch.tensor([0, 1, 1]))
    assert alone[:, 0].tolist() == [3.0, 0.0, 0.0]  # a bucket of one keeps its reward, a constant one is dropped
    assert standardise(torch.tensor([[1.0], [1.0]]), torch.tensor([1, 1]), constant="keep")[:, 0].tolist() == [1, 1]


def steps_batch():
    mask = torch.ones(3, 6, dtype=torch.bool)
    mask[1, 4:] = False
    step_id = torch.tensor([[0, 0, 1, 1, 2, 2], [0, 0, 1, 1, -1, -1], [0, 1, 1, 2, 2, 2]])
    votes = torch.tensor([[1.0, -1, 1], [1, 1, math.nan], [-1, -1, -1]])
    return Rollouts(
        torch.zeros(3, 6, dtype=torch.int64), mask, torch.zeros(3, dtype=torch.int64), torch.tensor(OUTCOMES),
        signals={"step_id": step_id, "step_votes": votes},
    )  # fmt: skip


def test_step_wise_puts_a_steps_credit_on_its_tokens():
    credit = assign_credit(steps_batch(), ["step_wise"])
    expected = [1.069044, 1.069044, 0.0, 0.0, 0.999999, 0.999999]
    assert credit.advantages[0].tolist() == pytest.approx(expected, abs=1e-6)
    assert credit.advantages[1].tolist() == pytest.approx([0.267261] * 2 + [1.224743] * 2 + [0, 0], abs=1e-6)
    order = torch.tensor([2, 0, 1])
    again = assign_credit(steps_batch().select(order), ["step_wise"])
    torch.testing.assert_close(again.advantages, credit.advantages[order])
    plain = assign_credit(steps_batch(), [{"step_wise": {"weight": 0.0}}]).advantages
    assert plain[0, 0] == plain[0, 2]  # the outcome alone is the same in steps that all responses reach
    batch = steps_batch()
    with pytest.raises(ValueError, match="step_votes"):
        assign_credit(batch.replace(signals={**batch.signals, "step_votes": torch.zeros(2, 3)}), ["step_wise"])
    with pytest.raises(ValueError, match="step_id"):
        assign_credit(batch.replace(signals={**batch.signals, "step_id": batch.signals["step_id"] + 3}), ["step_wise"])


def test_units_of_a_text():
    text = "the red_box has 1,200.5 parts, isn't it"
    spans = [(i, i + 1) for i in range(len(text))]

    def pieces(by):
        ids = units_of(text, spans, by)
        return ["".join(c for c, n in zip(text, ids, strict=True) if n == k) for k in range(max(ids) + 1)]

    assert pieces("number") == [" 1,200.5"]
    assert pieces("word")[:3] == ["the", " red", "box"]
    assert " isn't" in pieces("word")
    assert pieces("identifier")[1] == " red_box"
    assert units_of(text, spans, "token") == list(range(len(text)))
    assert units_of("ab", [(0, 1), (1, 1), (1, 2)], "word") == [0, -1, 0]
    tokenizer = tiny_tokenizer()
    ids = tokenizer("how many squares 12")["input_ids"]
    found = TokenOffsets(tokenizer).sampled(ids)
    units = units_of(found.text, found.spans, "word")
    assert len(ids) == len(units)
    assert len(set(units)) == 4


def unit_batch(unit):
    generator = torch.Generator().manual_seed(0)
    mask = torch.ones(4, 5, dtype=torch.bool)
    mask[2, 3:] = False
    return Rollouts(
        torch.zeros(4, 5, dtype=torch.int64), mask, torch.tensor([0, 0, 1, 1]), torch.tensor([1.0, 0, 0, 1]),
        signals={"unit_id": unit, "entropy": torch.rand(4, 5, generator=generator)},
    )  # fmt: skip


def test_pooling_averages_units_and_keeps_sums():
    unit = torch.tensor([[0, 0, 1, 1, 1], [0, 1, 2, 3, 4], [0, 0, 0, 0, 0], [-1, 0, 0, -1, -1]])
    batch = unit_batch(unit)
    inner = {"attention_entropy": {"scope": "group", "form": "value"}}
    batch = batch.with_signals({"attention_entropy": batch.signals["entropy"]})
    plain = assign_credit(batch, ["grpo", inner]).advantages
    found = assign_credit(batch, ["grpo", {"pooled": {"method": inner}}]).advantages
    assert found[0, 0] == found[0, 1] == pytest.approx(float(plain[0, :2].mean()))
    assert found[0, 2] == found[0, 4] == pytest.approx(float(plain[0, 2:].mean()))
    assert torch.equal(found[1], plain[1])  # units of one token keep their bits
    assert torch.equal(found[3, [0, 3, 4]], plain[3, [0, 3, 4]])
    torch.testing.assert_close(found.sum(1), plain.sum(1))
    assert not found[2, 3:].any()
    single = torch.arange(5).expand(4, 5).contiguous()
    one = assign_credit(batch.with_signals({"unit_id": single}), ["grpo", {"pooled": {"method": inner}}])
    assert torch.equal(one.advantages, plain)
    values = torch.tensor([[1.0, 3.0, 5.0]])
    keep = torch.tensor([[True, False, True]])
    assert pool(values, torch.zeros(1, 3, dtype=torch.int64), keep).tolist() == [[3.0, 0.0, 3.0]]


CANNOT = [
    ({"method": "grpo"}, "cannot be pooled"),
    ({"method": "hapo"}, "pooled"),
    ({"method": "nothing"}, "unknown credit"),
    ({"method": {"pooled": {}}}, "cannot be pooled"),
    ({"by": "line"}, "by"),
]


@pytest.mark.parametrize(("fields", "told"), CANNOT)
def test_what_cannot_be_pooled(fields, told):
    with pytest.raises(ValueError, match=told):
        build("credit", {"pooled": fields})


def test_both_in_runs(tmp_path):
    model = save(*tiny_text(), tmp_path / "text")
    changes = {
        "model": {"path": str(model)},
        "data": {"train": {"sums": {}}},
    }
    plain = settings(tmp_path) | changes
    plain["run"] |= {"steps": 2, "dir": str(tmp_path / "pooled")}
    plain["credit"] = ["grpo", {"pooled": {"method": "forking_tokens", "by": "word"}}]
    plain["check"] = {"parity": False, "image_probe": False}
    Trainer(config.parse(plain)).run()
    rows = [json.loads(line) for line in (tmp_path / "pooled/metrics.jsonl").read_text().splitlines()]
    assert all(row["credit/pooled/units"] > 0 for row in rows)
    plain["run"] |= {"dir": str(tmp_path / "steps")}
    plain["credit"] = ["step_wise"]
    judge = {"step_judge": {"judge": str(model), "max_new_tokens": 2, "mark": " "}}
    plain["rollout"] |= {"strategies": [judge]}
    Trainer(config.parse(plain)).run()
    rows = [json.loads(line) for line in (tmp_path / "steps/metrics.jsonl").read_text().splitlines()]
    assert all(row["credit/step_wise/steps"] >= 16 for row in rows)
    assert all(row["rollout/step_judge/unread_votes"] > 0 for row in rows)
    assert all(row["credit/step_wise/steps_without_vote"] > 0 for row in rows)
    del plain["rollout"]["strategies"]
    with pytest.raises(ValueError, match="step_judge"):
        config.parse(plain)


def test_votes_of_a_judge_behind_an_address(tmp_path):
    """Real HTTP: m votes a step with seeds of their own, an error of the server, a reply without a vote."""
    from test_benchmarks_judge import server

    def reply(body):
        words = body["messages"][0]["content"]
        assert body["max_tokens"] == 9
        assert body["temperature"] == 0.7
        if "What is 1" in words:
            return 401, "no"
        if "What is 2" in words:
            return 200, "cannot say"
        return 200, f"fine \\boxed{{{1 if body['seed'] % 3 else -1}}}"

    model = save(*tiny_text(), tmp_path / "text")
    plain = settings(tmp_path) | {"model": {"path": str(model)}, "data": {"train": {"sums": {}}}}
    plain["run"] |= {"steps": 1, "dir": str(tmp_path / "run")}
    plain["check"] = {"parity": False, "image_probe": False}
    plain["credit"] = ["step_wise"]
    with server(reply) as (url, seen):
        judge = {"base_url": url, "model": "judge-1", "retries": 0, "backoff": 0}
        fields = {"judge": judge, "votes": 3, "max_new_tokens": 9, "temperature": 0.7, "mark": " "}
        plain["rollout"] |= {"strategies": [{"step_judge": fields}]}
        trainer = Trainer(config.parse(plain))
        trainer.run()
    row = json.loads((tmp_path / "run/metrics.jsonl").read_text().splitlines()[0])
    questions = {call["messages"][0]["content"] for call in seen}
    asked = {(call["messages"][0]["content"], call["seed"]) for call in seen}
    assert len(asked) == 3 * len(questions)
    assert row["rollout/step_judge/votes"] >= len(seen)
    assert (
        row["rollout/step_judge/unanswered"] <= row["rollout/step_judge/unread_votes"] < row["rollout/step_judge/votes"]
    )
    bad = copy.deepcopy(plain)
    bad["rollout"]["strategies"][0]["step_judge"]["judge"]["base_url"] = "ftp://x"
    with pytest.raises(ValueError, match="http or https"):
        config.parse(bad)


def test_hints_from_an_address(tmp_path, monkeypatch):
    import runpy
    import sys

    from test_benchmarks_judge import server

    rows = [
        {"prompt": "2+2?", "response": "5", "next_turn": "no, it is 4"},
        {"prompt": "a", "response": "b", "next_turn": "c"},
    ]
    (tmp_path / "turns.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    script = Path(__file__).resolve().parent.parent / "scripts/read_hints.py"

    def reply(body):
        said = body["messages"][0]["content"]
        hint = "\\boxed{1}\n[HINT_START] add the numbers one by one [HINT_END]" if "it is 4" in said else "\\boxed{-1}"
        return 200, hint

    with server(reply) as (url, seen):
        out = tmp_path / "hinted.jsonl"
        words = [
            str(script),
            str(tmp_path / "turns.jsonl"),
            "--judge",
            "j",
            "--url",
            url,
            "--output",
            str(out),
            "--votes",
            "2",
        ]
        monkeypatch.setattr(sys, "argv", words)
        runpy.run_path(str(script), run_name="__main__")
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert found[0]["hint"] == "add the numbers one by one"
    assert "hint" not in found[1]
    assert len({call["seed"] for call in seen}) == 4
