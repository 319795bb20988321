"""Voting, best-of-N and refinement side by side; the command, its resume and its refusals."""

from __future__ import annotations

import json

import pytest
import yaml
from runs import settings
from test_prm_refine import Characters

from mmcredit import cli, usage
from prm.answers import answer_key, fewest_flags, majority
from prm.commands import EXAMPLES
from prm.parse import Verification, failed
from prm.refine import RefineSettings, Written
from prm.refine_command import summarise
from prm.refine_page import plot
from prm.rows import read_rows
from prm.strategies import STRATEGIES, Plan, run_plan
from prm.verifier import Query, ScriptedVerifier


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("<answer>B</answer>", "b"),
        ("<answer>(B) a red cup</answer>", "b"),
        ("<answer>B. a red cup</answer>", "b"),
        ("<answer>A red cup</answer>", "a red cup"),
        ("<answer> Red </answer>", "red"),
        (r"so \boxed{12}", "12"),
        ("<answer></answer>", None),
        ("no answer", None),
    ],
)
def test_answer_keys(text, key):
    assert answer_key(text) == key


def test_majority_and_best_of():
    def texts(*answers):
        return [f"<answer>{a}</answer>" for a in answers]

    assert majority(texts("a", "b", "b")) == 1
    assert majority(texts("red", "blue", "Blue.", "RED")) == 0  # a tie goes to the answer that came first
    assert majority(["nothing", *texts("b")]) == 1
    assert majority(["nothing", "at all"]) == 0
    assert fewest_flags([2, 0, 0]) == 1
    assert fewest_flags([float("inf"), 3]) == 1


class Numbered:
    """A policy whose responses say which seed they come from."""

    tokenizer = Characters()

    def write(self, asks):
        return [
            Written(tuple(map(ord, f"<think>bad {a.seed % 7}</think><answer>{a.seed % 3}</answer>")), 10) for a in asks
        ]


def flags_bad(query):
    return Verification(("bad",), "flagged", usage={"new_tokens": 4.0}) if "bad 1" in query.response else Verification()


def test_strategies_share_questions_and_count_every_token():
    queries = [Query("q", "", sample_id=str(i)) for i in range(5)]
    plan = Plan(ks=(1, 2, 4), chains=2, refine=RefineSettings(max_tokens=200))
    found = run_plan(queries, Numbered(), ScriptedVerifier(flags_bad), plan)
    for results, traces in found:
        table = {(r.strategy, r.k): r for r in results}
        assert {name for name, _ in table} == set(STRATEGIES)
        assert table["vote", 4].spent.policy_calls == 4
        assert table["vote", 4].spent.prm_calls == 0
        best = table["best_of", 4]
        assert best.spent.prm_calls == 4
        assert best.spent.generated == table["vote", 4].spent.generated + best.spent.prm_new_tokens
        assert table["vote", 2].spent.policy_calls == 2
        assert table["greedy", 0].spent.prm_calls == 0
        assert table["regenerate_vote", 4].spent.policy_calls >= 2
        assert {trace["mode"] for trace in traces} == {"regenerate", "reflect"}
    again = run_plan(queries, Numbered(), ScriptedVerifier(flags_bad), plan)
    assert again == found


def test_best_of_does_not_take_an_unknown_one_for_clean():
    queries = [Query("q", "", sample_id="s")]
    plan = Plan(("best_of",), (4,), refine=RefineSettings(max_tokens=200))
    said = iter([failed("x"), Verification(("bad",), "flagged"), failed("x"), failed("x")])
    prm = ScriptedVerifier(lambda query: next(said))
    ((results, _),) = run_plan(queries, Numbered(), prm, plan)
    assert results[0].text == prm.asked[1].response


def test_plans_that_are_refused():
    with pytest.raises(ValueError, match="unknown strategy"):
        Plan(("wish",))
    with pytest.raises(ValueError, match="k must be"):
        Plan(ks=(0,))
    with pytest.raises(ValueError, match="--prm"):
        run_plan([Query("q", "")], Numbered(), None, Plan(("regenerate",)))


def test_summary_over_questions_and_seeds():
    def row(question, seed, right):
        result = dict.fromkeys(
            ("policy_calls", "prm_calls", "policy_new_tokens", "policy_prefill_tokens", "prm_new_tokens"), 1
        )
        result |= {"prm_prefill_tokens": 0, "generated_tokens": 2, "cycles": 0, "answer": "x", "stop": "clean"}
        return {"id": question, "seed": seed, "results": [{"strategy": "greedy", "k": 0, "right": right, **result}]}

    (one,) = summarise([row("a", 0, True), row("b", 0, False)])
    assert (one["accuracy"], one["questions"], one["answers"]) == (0.5, 2, 2)
    (both,) = summarise([row("a", 0, True), row("a", 1, True), row("b", 0, True), row("b", 1, False)])
    assert both["accuracy"] == 0.75
    assert both["low"] < 0.75 < both["high"]
    assert "<svg" in plot([one])


def test_the_command_and_its_resume(tmp_path, capsys):
    path = tmp_path / "run.yaml"
    made = settings(tmp_path, data__evaluate={"easy_vqa": {"split": "test", "limit": 6}}, verifiers=["easy_vqa_oracle"])
    path.write_text(yaml.safe_dump(made))
    out = tmp_path / "out"
    words = ["refine", str(path), "--k", "1,2", "--chains", "2", "--batch", "4", "--seeds", "0,1", "-o", str(out)]
    assert cli.main([*words, "--limit", "3"]) == 0
    rows = read_rows(out / "refine.jsonl")
    assert sorted((row["id"], row["seed"]) for row in rows) == sorted({(row["id"], row["seed"]) for row in rows})
    assert len(rows) == 6
    assert {r["strategy"] for r in rows[0]["results"]} == set(STRATEGIES)
    text = (out / "refine.jsonl").read_text()
    # A kill in the middle of a line: that question is answered again, with the same outcome.
    (out / "refine.jsonl").write_text(text[: len(text) - 50])
    assert cli.main([*words, "--limit", "3"]) == 0
    assert (out / "refine.jsonl").read_text() == text
    page = (out / "refine.html").read_text()
    assert "data:image/png" in page
    assert json.loads((out / "summary.json").read_text())["about"]["questions"] == 3
    assert cli.main([*words[:-2], "--limit", "3", "--temperature", "0.5", "-o", str(out)]) == 2
    assert "temperature" in capsys.readouterr().err
    assert cli.main(["refine", str(path), "--prm", "no such", "-o", str(tmp_path / "x")]) == 2
    assert cli.main(["refine", str(path), "--k", "x", "-o", str(tmp_path / "x")]) == 2


def test_commands_of_packages_are_listed(capsys):
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    assert "refine" in capsys.readouterr().out
    assert cli.main(["refin"]) == 2
    assert "did you mean 'refine'" in capsys.readouterr().err


def test_every_command_has_an_example_and_help_for_each_option():
    own = {words: command for words, command in usage.commands(cli.parser()) if words in EXAMPLES}
    assert set(own) == set(EXAMPLES) == {"refine", "prm-evaluate", "prm-train", "prm-serve"}
    for words, command in own.items():
        assert EXAMPLES[words] in command.format_help().splitlines()[-1]
        assert not [action.dest for action in command._actions if action.help is None]


def test_words_after_two_dashes_reach_the_server(tmp_path, monkeypatch, capsys):
    package = tmp_path / "vllm" / "entrypoints" / "openai"
    package.mkdir(parents=True)
    (package / "api_server.py").write_text("import json, sys; json.dump(sys.argv[1:], open('asked', 'w'))")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    words = ["prm-serve", "models/prm", "--port", "8001", "--", "--dtype", "float32", "--enforce-eager", "a=b"]
    assert cli.main(words) == 0
    asked = json.loads((tmp_path / "asked").read_text())
    assert asked[:2] == ["--model", "models/prm"]
    assert asked[-4:] == words[-4:]
    assert "8001" in asked
    for wrong in (["prm-serve", "models/prm", "--port", "1", "--dtype", "x"], ["methods", "grpo", "--", "more"]):
        with pytest.raises(SystemExit):
            cli.main(wrong)
        assert "unrecognized arguments" in capsys.readouterr().err


def test_overrides_after_two_dashes(monkeypatch):
    seen = []
    monkeypatch.setattr("mmcredit.commands.train", lambda options: seen.append(options.overrides) or 0)
    assert cli.main(["train", "easy_vqa", "run.seed=1", "--dry-run", "run.steps=2", "--", "run.name=x"]) == 0
    assert seen == [["run.seed=1", "run.steps=2", "run.name=x"]]
