"""`mmcredit compare`: published formulas against independent ones, runs in their places, and what is refused."""

from __future__ import annotations

import itertools
import math
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from test_report_browser import check
from test_report_page import Page

from mmcredit.cli import main
from mmcredit.report.aggregate import interquartile_mean, probability_of_improvement, stratified_bootstrap
from mmcredit.report.arms import differences, sort_runs
from mmcredit.report.comparison import compare
from mmcredit.report.records import Records

ROOT = Path(__file__).parent.parent


def write_run(folder, credit="grpo", seed=0, right=None, limit=40, ids="q", answers=True, steps=4, **settings):
    """A run with two evaluations of `limit` questions, right with probability `right`."""
    config = {
        "run": {"name": folder.name, "dir": str(folder), "seed": seed, "steps": 4},
        "model": {"path": "builtin:tiny", **settings},
        "data": {"train": "x", "evaluate": {"jsonl": {"path": ids}}},
        "evaluate": {"limit": limit},
        "rewards": ["exact"],
        "credit": [credit],
    }
    rng = np.random.default_rng([seed, len(credit)])
    with Records(folder) as records:
        records.write_config(yaml.safe_dump(config))
        stages = {"rollout": {"seconds": 2.0 + seed, "tokens": 100.0}}
        passes = {"clean": {"seconds": 1.0, "flops": 1e9}}
        records.write_cost({"stages": stages, "passes": passes, "methods": {}, "steps": 4})
        for step in range(steps):
            records.metrics.write(step, {"reward/mean": 0.1 * step + 0.01 * seed})
        for step, share in ((0, 0.5), (steps, right if right is not None else 0.6)):
            found = (rng.random(limit) < share).astype(float)
            mean = float(found.mean())
            records.evaluations.write(step, "held-out", n=limit, accuracy=mean, low=mean - 0.1, high=mean + 0.1)
            if answers:
                named = {f"{ids}{i}": float(v) for i, v in enumerate(found)}
                records.evaluations.answers(step, "held-out", "greedy", named)
    return folder


# -- formulas -------------------------------------------------------------------------------------------------------

DATA = [
    [0.10, 0.92, 0.35, 0.41, 0.77],
    [0.61, 0.22, 0.48, 0.53, 0.90],
    [0.05, 0.33, 0.39, 0.84, 0.61],
]
OTHER = [[0.20, 0.30, 0.35, 0.40, 0.50], [0.61, 0.70, 0.10, 0.20, 0.30], [0.55, 0.45, 0.39, 0.01, 0.02]]


def arrays(table):
    return [np.array(row) for row in table]


def test_the_interquartile_mean_is_the_trimmed_mean_of_all_scores():
    """Written anew from the definition: sort, drop floor(n/4) at either end, average. By hand for four numbers."""
    flat = sorted(itertools.chain(*DATA))
    drop = math.floor(0.25 * len(flat))
    kept = flat[drop : len(flat) - drop]
    assert interquartile_mean(arrays(DATA)) == pytest.approx(sum(kept) / len(kept))
    assert interquartile_mean(arrays([[0.0, 1.0], [3.0, 100.0]])) == 2.0
    assert interquartile_mean(arrays([[7.0]])) == 7.0


def test_probability_of_improvement_counts_pairs():
    shares = []
    for one, other in zip(DATA, OTHER, strict=True):
        won = sum(1.0 if a > b else 0.5 if a == b else 0.0 for a in one for b in other)
        shares.append(won / (len(one) * len(other)))
    expected = sum(shares) / len(shares)
    assert probability_of_improvement(arrays(DATA), arrays(OTHER)) == pytest.approx(expected)
    assert probability_of_improvement(arrays(OTHER), arrays(DATA)) == pytest.approx(1 - expected)


def test_the_bootstrap_draws_runs_within_their_task():
    """An independent bootstrap with another generator gives the same interval, up to Monte-Carlo error."""
    rng = random.Random(0)
    found = []
    for _ in range(4000):
        drawn = sorted(itertools.chain(*([rng.choice(row) for _ in row] for row in DATA)))
        cut = len(drawn) // 4
        found.append(sum(drawn[cut : len(drawn) - cut]) / (len(drawn) - 2 * cut))
    found.sort()
    low, high = stratified_bootstrap(interquartile_mean, arrays(DATA), draws=4000)
    assert low == pytest.approx(found[int(0.025 * len(found))], abs=0.012)
    assert high == pytest.approx(found[int(0.975 * len(found))], abs=0.012)
    # Strata: tasks far apart do not widen it, as a bootstrap over all scores would.
    apart = [[0.0, 0.01], [0.5, 0.51], [1.0, 0.99]]
    low, high = stratified_bootstrap(lambda s: float(np.concatenate(s).mean()), arrays(apart))
    assert high - low < 0.02
    assert stratified_bootstrap(interquartile_mean, arrays([[0.5], [0.7]])) is None


# -- runs -----------------------------------------------------------------------------------------------------------


def test_seeds_of_a_method_are_one_arm_and_the_first_is_compared_with(tmp_path):
    runs = [write_run(tmp_path / f"{m}{s}", m, s, r) for m, r in (("grpo", 0.5), ("tempo", 0.9)) for s in (0, 1, 2)]
    compared, rows, paths = compare(runs, tmp_path / "out")
    assert [(a.label, len(a.runs)) for a in compared.arms] == [("grpo", 3), ("tempo", 3)]
    (pair,) = compared.pairs
    assert (pair.arm, pair.gain.n, pair.seeds) == ("tempo", 40, (3, 3))
    means = [compared.scores(arm)[0].mean() for arm in compared.arms]
    assert pair.gain.value == pytest.approx(means[1] - means[0])
    assert 0 < pair.gain.low < pair.gain.value < pair.gain.high
    assert rows[0]["better"] is None
    assert rows[1]["better"] == 1.0
    assert rows[1]["seconds"] == pytest.approx(3.0)
    assert rows[1]["tokens"] == 100
    page = Page(paths[0].read_text(encoding="utf-8"))
    grpo = page.data["shown"][0]
    assert grpo["series"]["reward/mean"] == pytest.approx([0.01, 0.11, 0.21, 0.31])
    assert grpo["bands"]["reward/mean"][1] == [1, pytest.approx(0.1), pytest.approx(0.12)]
    assert "beats grpo" in page.text
    table = pq.read_table(paths[1]).to_pydict()
    assert table["arm"] == ["grpo"] * 3 + ["tempo"] * 3
    assert sorted(table["seed"]) == [0, 0, 1, 1, 2, 2]


def test_models_on_the_same_questions_are_compared_and_not_taken_for_seeds(tmp_path):
    runs = [write_run(tmp_path / "a"), write_run(tmp_path / "b", path="builtin:other")]
    assert [a.label for a in sort_runs(runs).arms] == ["grpo (path=builtin:tiny)", "grpo (path=builtin:other)"]


def test_several_tasks_are_strata(tmp_path):
    runs = [
        write_run(tmp_path / f"{m}{t}{s}", m, s, 0.7, ids=t) for m in ("grpo", "rloo") for t in "qz" for s in (0, 1)
    ]
    compared, _, _ = compare(runs, tmp_path / "out")
    assert compared.tasks == ["jsonl", "jsonl #2"]
    assert [len(task) for task in compared.scores(compared.arms[0])] == [2, 2]
    assert len(compared.pairs) == 2


def test_refused(tmp_path, capsys):
    good = write_run(tmp_path / "good")
    other = write_run(tmp_path / "other", "tempo", ids="z")
    with pytest.raises(ValueError, match=r"different questions: 'grpo' .*has no run on .*other"):
        sort_runs([good, other])
    with pytest.raises(ValueError, match="given twice"):
        sort_runs([good, tmp_path / "good" / ".." / "good"])
    with pytest.raises(ValueError, match="at least 2 runs"):
        sort_runs([good])
    half = write_run(tmp_path / "half", "tempo")
    (half / "evaluations.jsonl").write_text("")
    with pytest.raises(ValueError, match="no held-out evaluation"):
        sort_runs([good, half])
    (tmp_path / "none").mkdir()
    assert main(["compare", str(good), str(tmp_path / "none")]) == 2
    assert "is not a run directory" in capsys.readouterr().err


def test_half_written_and_older_runs_are_named(tmp_path, capsys):
    good = write_run(tmp_path / "good")
    old = write_run(tmp_path / "old", "tempo", answers=False)
    (old / "answers.jsonl").unlink()
    short = write_run(tmp_path / "short", "rloo", steps=2)
    with (short / "answers.jsonl").open("a") as file:
        file.write('{"step": 3, "name": "held-o')
    assert main(["compare", str(good), str(old), str(short), "-o", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "old does not keep its answers question by question" in said
    assert "short: 2 of 4 steps are written" in said
    assert "rloo against grpo" in said
    assert "tempo against grpo" not in said


def test_differences_of_configs_are_by_dotted_setting():
    configs = [
        {"run": {"name": "a", "seed": 0}, "x": {"y": 1}},
        {"run": {"name": "b", "seed": 1}, "x": {"y": 1, "z": None}},
    ]
    assert differences(configs) == [("run.seed", ["0", "1"]), ("x.z", ["–", "null"])]


def test_the_page_opens_in_a_browser(tmp_path):
    sys.path.insert(0, str(ROOT / "scripts"))
    from check_report import find_browser

    if find_browser() is None:
        pytest.skip("no Chromium on PATH")
    runs = [write_run(tmp_path / f"{m}{s}", m, s) for m in ("grpo", "tempo") for s in (0, 1)]
    _, _, (page, _) = compare(runs, tmp_path / "out")
    result = check(page)
    assert isinstance(result, subprocess.CompletedProcess)
    assert result.returncode == 0, result.stderr
    assert "curves" in result.stdout
