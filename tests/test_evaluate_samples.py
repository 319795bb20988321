"""Several answers per question: votes, the config, `evaluate` with real workers, the command."""

from __future__ import annotations

import json

import pytest
from policy_cases import make_policy, samples
from runs import metrics as run_metrics
from runs import parse, settings

from mmcredit.cli import main
from mmcredit.evaluate.accuracy import evaluate
from mmcredit.evaluate.held_out import evaluation_seeds
from mmcredit.evaluate.pass_at_k import Attempts, majority_at_k
from mmcredit.evaluate.votes import RIGHT, vote
from mmcredit.rewards.exact_answer import ExactAnswer
from mmcredit.rewards.format import Format
from mmcredit.rewards.function import Function
from mmcredit.rewards.pool import RewardPool
from mmcredit.rollout.engine import Sampling
from mmcredit.rollout.engines.hf import HF
from mmcredit.train.loop import train


def test_what_an_answer_votes_for():
    tag, boxed, none = ExactAnswer(), ExactAnswer(extract="boxed"), Format()
    assert vote("<answer>1/2</answer>", True, tag) == vote("<answer>0.5</answer>", True, tag) == RIGHT
    assert vote("<answer> Red. </answer>", False, tag) == vote("<answer>red</answer>", False, tag)
    assert vote("<answer>7.0</answer>", False, tag) == vote("<answer>007</answer>", False, tag)
    assert vote("<answer>1,000</answer>", False, tag) == vote("<answer>1000</answer>", False, tag)
    assert vote("<answer>7</answer>", False, tag) != vote("<answer>-7</answer>", False, tag)
    assert vote("no tag", False, tag) is None
    assert vote("<answer> </answer>", False, tag) is None
    both = r"<answer>a</answer> \boxed{b}"
    assert vote(both, False, boxed) == vote(r"\boxed{b}", False, none) != vote(both, False, tag)
    assert vote("<answer>a</answer>", False, none) == vote("<answer>A</answer> and more", False, none)
    assert vote(r"so \boxed{a}", False, none) == vote("a", False, none)
    # A wrong answer spelt like the word for right ones is not a right one; long digits are not computed with.
    assert vote("<answer>right</answer>", False, tag) != RIGHT
    assert vote("<answer>" + "9" * 10**5 + "</answer>", False, tag) is not None


def test_differently_written_right_answers_vote_together():
    texts = [("<answer>1/2</answer>", True), ("<answer>0.5</answer>", True), ("<answer>2</answer>", False)]
    attempts = Attempts(tuple(vote(t, r, ExactAnswer()) for t, r in texts), tuple(r for _, r in texts))
    assert majority_at_k(attempts, 3) == 1.0


def test_config(tmp_path):
    assert parse(tmp_path).evaluate.chosen_k == []
    run = parse(tmp_path, evaluate={"samples": 6, "temperature": 1.0})
    assert run.evaluate.chosen_k == [2, 4]
    assert parse(tmp_path, evaluate={"samples": 6, "temperature": 1.0, "k": [1, 3, 6]}).evaluate.chosen_k == [3, 6]
    seeds = evaluation_seeds(run, "a")
    assert len(set(seeds)) == 6
    assert seeds[:1] == evaluation_seeds(parse(tmp_path), "a")
    with pytest.raises(ValueError, match="temperature 0 is greedy"):
        parse(tmp_path, evaluate={"samples": 2})
    with pytest.raises(ValueError, match=r"evaluate.k holds 7; every k must lie in 1..6"):
        parse(tmp_path, evaluate={"samples": 6, "temperature": 1.0, "k": [7]})


@pytest.fixture
def judged(tmp_path):
    """A policy, its prompts, and a reward that finds a letter in most responses of a random model."""
    path = tmp_path / "letters.py"
    path.write_text("def has_e(item):\n    return float('e' in item.response)\n")
    policy = make_policy("qwen3")
    questions = samples("qwen3")
    with RewardPool([Function(path=f"{path}:has_e", label="has_e")]) as pool:
        yield policy, questions, [policy.encode(s) for s in questions], pool


def test_evaluate_with_several_answers(judged):
    policy, questions, prompts, pool = judged

    class Counted:
        """The engine, and the requests that it got."""

        def __init__(self):
            self.engine, self.requests = HF().open(policy), []

        def generate(self, requests, sampling, progress=None):
            self.requests += requests
            return self.engine.generate(requests, sampling, progress)

    engine = Counted()
    seeds = [[10 * i + j for j in range(8)] for i in range(len(questions))]

    def run(seeds, ks=()):
        decode = policy.tokenizer.decode
        return evaluate(engine, pool, questions, prompts, Sampling(max_new_tokens=3), seeds, decode, "has_e", ks=ks)

    found = run(seeds, (1, 2, 8))
    assert [len(r.seeds) for r in engine.requests] == [8, 8, 8]  # a prompt is read once for its answers
    assert list(found.scores) == ["avg@8", "pass@2", "majority@2", "pass@8", "majority@8"]
    right = [["e" in text for text in found.responses[8 * i : 8 * i + 8]] for i in range(3)]
    assert [list(a.right) for a in found.attempts] == right
    assert found.correct == [sum(r) / 8 for r in right]
    assert 0 < found.accuracy.value < 1
    assert found.accuracy == found.scores["avg@8"]
    assert found.scores["pass@8"].value == pytest.approx(sum(any(r) for r in right) / 3)
    pairs = [sum(r[i] or r[j] for i in range(8) for j in range(i)) / 28 for r in right]
    assert found.scores["pass@2"].value == pytest.approx(sum(pairs) / 3)
    single = run([s[:1] for s in seeds])
    assert single.responses == found.responses[::8]
    assert single.scores == {}
    assert single.accuracy.n == 3


def test_evaluate_refuses_uneven_seeds_and_a_k_too_large(judged):
    policy, questions, prompts, pool = judged
    engine, sampling = HF().open(policy), Sampling(max_new_tokens=2)
    with pytest.raises(ValueError, match="equally many seeds"):
        evaluate(engine, pool, questions, prompts, sampling, [[1], [2, 3], [4]], str, "has_e")
    with pytest.raises(ValueError, match="between 1 and the 2 answers"):
        evaluate(engine, pool, questions, prompts, sampling, [[1, 2]] * 3, str, "has_e", ks=(4,))


def test_command(tmp_path, capsys):
    path, rows = tmp_path / "config.json", tmp_path / "rows.jsonl"
    path.write_text(json.dumps(settings(tmp_path, data__evaluate={"easy_vqa": {"split": "test", "limit": 3}})))
    assert main(["evaluate", str(path), "--samples", "4", "--k", "1,4", "--output", str(rows)]) == 0
    printed = capsys.readouterr().out
    assert "4 answers at T=1" in printed
    for name in ("avg@4", "majority@4", "pass@4"):
        assert name in printed
    assert "@1" not in printed  # with one answer both repeat avg@4
    found = [json.loads(line) for line in rows.read_text().splitlines()]
    assert len(found) == 3
    assert all(len(r["responses"]) == len(r["right"]) == 4 for r in found)
    assert all(r["pass@4"] == float(any(r["right"])) and r["correct"] == sum(r["right"]) / 4 for r in found)
    assert all(len(set(r["responses"])) > 1 for r in found)
    assert main(["evaluate", str(path), "--output", str(rows)]) == 0
    assert "response" in json.loads(rows.read_text().splitlines()[0])
    for arguments, message in (
        (["--samples", "4", "--temperature", "0"], "greedy"),
        (["--samples", "4", "--k", "5"], "evaluate.k holds 5"),
        (["--samples", "0"], "samples"),
        (["--samples", "4", "--k", "1;2"], "--k must be whole numbers"),
    ):
        capsys.readouterr()
        assert main(["evaluate", str(path), *arguments]) == 2
        assert message in capsys.readouterr().err


def test_a_run_evaluates_with_several_answers(tmp_path):
    run = parse(
        tmp_path,
        run__steps=1,
        data__evaluate={"easy_vqa": {"split": "test", "limit": 3}},
        evaluate={"samples": 2, "temperature": 1.0},
    )
    outcome = train(run)
    assert outcome.before is not None
    assert outcome.gain is not None
    assert len(outcome.before.responses) == 6
    assert len(run_metrics(tmp_path / "run")) == 1
    rows = [json.loads(line) for line in (tmp_path / "run" / "evaluations.jsonl").read_text().splitlines()]
    assert all({"pass@2", "pass@2_low", "majority@2", "avg@2"} <= row.keys() and row["n"] == 3 for row in rows)
