"""Tasks of reasoning-gym as samples, splits that cannot overlap, and the task's own scorer as a reward."""

from __future__ import annotations

import ast
import inspect
import json
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from mmcredit.answers.item import RewardItem
from mmcredit.components import build, load_plugin
from mmcredit.data.media import MediaLimits
from mmcredit.data.sample import Sample
from mmcredit.data.splits import in_test
from mmcredit.rewards.pool import RewardPool
from mmcredit.rewards.reasoning_gym import EVALUATES_FORMULAS, EVALUATES_LISTS, is_harmless

reasoning_gym = pytest.importorskip("reasoning_gym")
SMALL = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}


def load(task: str, **fields: Any) -> Sequence[Sample]:
    source = build("source", {"reasoning_gym": {"task": task, **fields}})
    return source.load(MediaLimits())  # type: ignore[attr-defined, no-any-return]


def texts(samples: Sequence[Sample]) -> list[str]:
    return [str(s.messages[0]["content"]) for s in samples]


def judge(samples: Sequence[Sample], answers: Sequence[str], **fields: Any) -> list[float | None]:
    """Scores after the samples' data went through JSON, as on the way to a worker."""
    reward = build("reward", {"reasoning_gym": fields})
    items = [
        RewardItem(f"<think>hm</think><answer>{a}</answer>", s.answer, prompt=texts([s])[0], meta=dict(s.meta))
        for s, a in zip(samples, answers, strict=True)
    ]
    carried = [RewardItem(**json.loads(json.dumps(vars(item)))) for item in items]
    return reward(carried)  # type: ignore[operator, no-any-return]


# --- the source


def test_samples_of_chain_sum() -> None:
    samples = load("chain_sum", settings=SMALL, size=40)
    assert len(samples) == 40
    for sample in samples:
        expression = re.search(r": (\d [+-] \d) =$", texts([sample])[0])
        assert expression is not None
        left, sign, right = expression[1].split()
        assert sample.answer == str(int(left) + int(right) if sign == "+" else int(left) - int(right))
        assert sample.meta["metadata"]["num_terms"] == 2
    assert samples[0].id.startswith("reasoning_gym/chain_sum/0/")
    assert len({s.id for s in samples}) == 40
    assert list(load("chain_sum", settings=SMALL, size=40)) == list(samples)
    assert texts(load("chain_sum", settings=SMALL, size=20))[:20] == texts(samples)[:20]
    assert texts(load("chain_sum", settings=SMALL, size=40, seed=1)) != texts(samples)
    filtered = load("chain_sum", size=60, where={"metadata.num_terms": 3}, template="{{ content }} ?", limit=5)
    assert [s.meta["metadata"]["num_terms"] for s in filtered] == [3] * len(filtered)
    assert texts(filtered)[0].endswith("= ?")


def test_the_package_overlaps_for_neighbouring_seeds_and_the_splits_do_not() -> None:
    """Item i under seed s is item i-1 under seed s+1: splitting by seed would share all questions but one."""
    zero, one = (reasoning_gym.create_dataset("chain_sum", seed=seed, size=9) for seed in (0, 1))
    assert [item["question"] for item in zero][1:] == [item["question"] for item in one][:-1]

    train = {q for seed in (0, 1, 2) for q in texts(load("chain_sum", settings=SMALL, seed=seed, size=100))}
    test = {q for seed in (0, 1, 7) for q in texts(load("chain_sum", settings=SMALL, seed=seed, size=25, split="test"))}
    assert len(train) > 100
    assert len(test) > 25
    assert not train & test
    assert all(in_test(q) for q in test)
    both = texts(load("chain_sum", settings=SMALL, size=150, split="all"))
    assert {in_test(q) for q in both} == {True, False}


def test_test_share_is_a_fifth() -> None:
    share = sum(in_test(q) for q in texts(load("chain_sum", size=2000, split="all"))) / 2000
    assert 0.17 < share < 0.23


def test_a_small_task_runs_out_and_says_so() -> None:
    with pytest.raises(ValueError, match=r"only \d+ different questions .*set size to at most \d+"):
        load("chain_sum", settings=SMALL, size=1000)
    repeated = texts(load("chain_sum", settings=SMALL, size=1000, unique=False))
    assert len(repeated) == 1000
    assert len(set(repeated)) < 200


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"task": "chain_sun"}, "no task 'chain_sun'; did you mean 'chain_sum'"),
        ({"task": "chain_sum", "settings": {"min_term": 2}}, "no setting 'min_term'; did you mean 'min_terms'"),
        ({"task": "chain_sum", "settings": {"min_terms": 5, "max_terms": 2}}, "refuses task 'chain_sum'"),
        ({"task": "chain_sum", "settings": {"min_terms": "two"}}, "refuses task 'chain_sum'"),
        ({"task": "chain_sum", "settings": {"seed": 3}}, "give seed beside task"),
        ({"task": "composite", "settings": {"datasets": [{"nam": "gcd"}]}}, "list of {name, weight, config}"),
        ({"task": "composite"}, "refuses task 'composite'"),
        ({"task": "chain_sum", "size": 0}, "size"),
        ({}, "task is missing"),
    ],
)
def test_wrong_settings(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        build("source", {"reasoning_gym": fields})


def test_without_the_package_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    source = build("source", {"reasoning_gym": {"task": "chain_sum"}})  # a config can be read without it
    with pytest.raises(ModuleNotFoundError, match=r"mmcredit\[tasks\]"):
        source.load(MediaLimits())  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=r"mmcredit\[tasks\]"):
        build("reward", "reasoning_gym").prepare()  # type: ignore[attr-defined]


def test_importing_source_and_reward_loads_neither_torch_nor_the_package() -> None:
    code = (
        "import sys; import mmcredit.rewards.reasoning_gym, mmcredit.data.sources.reasoning_gym; "
        "print('reasoning_gym' in sys.modules, 'torch' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["False", "False"]


# --- the reward

TASKS = [
    *("chain_sum", "basic_arithmetic", "gcd", "lcm", "gsm_symbolic", "simple_equations", "letter_counting"),
    *("spell_backward", "countdown", "arc_agi", "rearc", "sudoku", "number_sorting", "simple_integration", "acre"),
    *("n_queens", "spiral_matrix", "binary_matrix", "string_insertion", "fraction_simplification", "leg_counting"),
]


@pytest.mark.parametrize("task", TASKS)
def test_own_answers_score_one_and_others_do_not(task: str) -> None:
    samples = load(task, size=3)
    own = judge(samples, [str(s.answer) for s in samples])
    assert own == pytest.approx([1.0] * 3)
    assert judge(samples, [str(s.answer) for s in samples], full_only=True) == [1.0] * 3
    wrong = judge(samples, ["certainly not this one"] * 3, full_only=True)
    assert wrong == [0.0] * 3


def test_composite_mixes_tasks_and_scores_each_its_way() -> None:
    parts = [{"name": "chain_sum"}, {"name": "gcd", "weight": 2.0, "config": {"max_numbers": 2}}]
    samples = load("composite", settings={"datasets": parts}, size=30)
    assert {s.meta["metadata"]["source_dataset"] for s in samples} == {"chain_sum", "gcd"}
    assert judge(samples, [str(s.answer) for s in samples]) == [1.0] * 30


def test_partial_credit_and_extraction() -> None:
    (sample,) = load("countdown", size=1)
    target = sample.meta["metadata"]["target"]
    numbers = sample.meta["metadata"]["numbers"]
    assert judge([sample], [str(target)]) == [0.05]  # the target without the numbers
    assert judge([sample], [" + ".join(str(n) for n in numbers)], full_only=True) == [0.0]
    reward = build("reward", "reasoning_gym")
    boxed = build("reward", {"reasoning_gym": {"extract": "boxed"}})
    own = str(sample.answer)
    items = [RewardItem(text, own, meta=dict(sample.meta)) for text in (own, "<answer> </answer>", f"\\boxed{{{own}}}")]
    assert reward(items) == [0.0, 0.0, 0.0]  # type: ignore[operator]
    assert boxed(items) == [0.0, 0.0, 1.0]  # type: ignore[operator]
    assert reward([RewardItem("<answer>3</answer>", "3")]) == [None]  # type: ignore[operator]


def test_another_item_than_the_samples_is_an_error() -> None:
    (sample,) = load("chain_sum", size=1)
    record = sample.meta["reasoning_gym"]
    for broken, message in (
        ({**record, "seed": record["seed"] + 3}, "makes another item"),
        ({**record, "index": "0"}, "not a record"),
        ({"task": "chain_sum"}, "not a record"),
        ("chain_sum", "not a record"),
    ):
        with pytest.raises(ValueError, match=message):
            build("reward", "reasoning_gym")([RewardItem("<answer>1</answer>", "1", meta={"reasoning_gym": broken})])  # type: ignore[operator]


# --- answers that a scorer would run


def test_the_scorers_that_run_answers_are_known() -> None:
    """Every scorer of the installed package whose code evaluates a name other than a stored reference is listed."""
    from reasoning_gym.factory import DATASETS

    lists, formulas = set(), set()
    for name, (dataset, _) in DATASETS.items():
        tree = ast.parse(textwrap.dedent(inspect.getsource(dataset.score_answer)))
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Name | ast.Call):
                called = ast.unparse(node.func).split(".")[-1]
                lists |= {name} if called in ("eval", "exec") else set()
                formulas |= {name} if called in ("parse_expr", "sympify", "S") else set()
    assert lists == EVALUATES_LISTS
    assert formulas == EVALUATES_FORMULAS


ATTACKS = [
    '__import__("os").system("touch {path}")',
    "open(chr(47))",
    "exec(chr(49))",
    "().__class__.__base__.__subclasses__()",
    "x.__class__",
    "eval('1')",
    "[open('{path}', 'w')]",
    "lambda: open(1)",
    "breakpoint()",
]


@pytest.mark.parametrize("task", sorted(EVALUATES_LISTS | EVALUATES_FORMULAS))
def test_no_answer_is_run(task: str, tmp_path: Path) -> None:
    if task == "polynomial_multiplication":
        entry = {"answer": "x**2", "metadata": {}}
        assert not any(is_harmless(a, entry, task) for a in ATTACKS)
        return
    samples = load(task, size=1)
    target = tmp_path / "pwned"
    answers = [a.replace("{path}", str(target)) for a in ATTACKS]
    assert judge([*samples] * len(answers), answers) == [0.0] * len(answers)
    assert not target.exists()


def test_formulas_and_lists_still_reach_their_scorers() -> None:
    entry = {"answer": "x**2/2 + C", "metadata": {}}
    for text in ("3*x**2 + sin(x)*exp(-x) + C", "(100 - 6) * 3", "sqrt(2)*log(x)", "1.5*x", "x^2"):
        assert is_harmless(text, entry, "simple_integration"), text
    for text in ("[[0, 1], [1, 0]]", "_ Q _ _\n_ _ _ Q", "[(0, 1), (1, 0)]", "['A', 'B']"):
        assert is_harmless(text, entry, "n_queens"), text
    samples = load("spiral_matrix", size=1)
    as_list = "[" + ", ".join(str(samples[0].answer).split()) + "]"
    assert judge(samples, [as_list]) == [0.1]  # the scorer's own partial credit for a Python list


# --- in worker processes


def test_scores_in_the_worker_pool(tmp_path: Path) -> None:
    samples = load("chain_sum", size=6)
    items = [
        RewardItem(f"<answer>{s.answer if i % 2 == 0 else 10**7}</answer>", s.answer, meta=dict(s.meta))
        for i, s in enumerate(samples)
    ]
    plugin = tmp_path / "spy.py"
    plugin.write_text(
        textwrap.dedent(
            """
            import sys
            from mmcredit.components import register
            from mmcredit.rewards.base import Reward

            @register("reward", "torch_is_loaded")
            class TorchIsLoaded(Reward):
                "1 if torch is in memory."
                def __call__(self, items):
                    return [float("torch" in sys.modules) for _ in items]
            """
        )
    )
    load_plugin(plugin)
    rewards = [build("reward", {"reasoning_gym": {"full_only": True}}), build("reward", "torch_is_loaded")]
    with RewardPool(rewards, workers=1, seed=11) as pool:  # type: ignore[arg-type]
        result = pool.score(items)
    assert list(result.parts["reasoning_gym"]) == [1.0, 0.0] * 3
    assert list(result.parts["torch_is_loaded"]) == [0.0] * 6


def test_tasks_that_depend_on_string_hashing() -> None:
    """Refused where every process would see other items; with hashing fixed, workers that hash differently judge."""
    code = textwrap.dedent(
        """
        from mmcredit.components import build
        from mmcredit.data.media import MediaLimits
        from mmcredit.rewards.base import RewardItem
        from mmcredit.rewards.pool import RewardPool
        samples = build("source", {"reasoning_gym": {"task": "ransom_note", "size": 4}}).load(MediaLimits())
        items = [RewardItem(f"<answer>{s.answer}</answer>", s.answer, meta=dict(s.meta)) for s in samples]
        if __name__ == "__main__":
            with RewardPool([build("reward", "reasoning_gym")], workers=1, seed=11) as pool:
                print([s.messages[0]["content"] for s in samples], list(pool.score(items).parts["reasoning_gym"]))
        """
    )
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONHASHSEED"}
    fixed = [
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env=environment | {"PYTHONHASHSEED": "5"}
        )
        for _ in range(2)
    ]
    assert fixed[0].returncode == 0, fixed[0].stderr
    assert fixed[0].stdout == fixed[1].stdout
    assert fixed[0].stdout.strip().endswith("[1.0, 1.0, 1.0, 1.0]")
    free = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert free.returncode != 0
    assert "start with PYTHONHASHSEED=0" in free.stderr
