"""The recipes of the papers whose part is in the rollout stage, and all these strategies in one run."""

from __future__ import annotations

import pytest
from runs import metrics, settings
from strategy_runs import run_config
from test_strategies_a_replay import run_settings

from mmcredit import config, config_files
from mmcredit.train.loop import Trainer

# recipe -> what must have happened in its run
RECIPES = {
    "dapo": lambda rows: all(row["group/zero_signal"] == 0 for row in rows),
    "d3s": lambda rows: [row["rollout/d3s_selection/kept"] for row in rows] == [3, 4, 6, 8, 9, 11],
    "hapo": lambda rows: len({row["rollout/adaptive_temperature/q"] for row in rows}) == 6,
    "r3": lambda rows: sum(row["credit/r3/ranked_responses"] + row["credit/r3/replayed_responses"] for row in rows) > 0,
    "noisy_rollout": lambda rows: [row["rollout/noisy_rollout/k"] for row in rows] == [499, 499, 496, 250, 3, 0],
    "dcpo": lambda rows: rows[-1]["credit/dcpo/prompts_with_history"] > 0,
}


@pytest.mark.parametrize("kind", ["text", "vlm"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_trains(tmp_path, kind, recipe):
    changes = run_settings(tmp_path, kind, run__steps=6, train__mini_batches=2)
    base = run_config(tmp_path, kind, **changes).model_dump(mode="json")
    content = config_files.read_yaml(config_files.find(recipe, "configs/methods"))
    run = config.parse(config_files.lay_over(base, content))
    Trainer(run).run()
    rows = metrics(tmp_path / "run")
    assert len(rows) == 6
    assert RECIPES[recipe](rows), rows[-1]
    assert sum(row["policy/grad_norm"] > 0 for row in rows) >= 5
    assert all(row["mismatch/kl"] < 1e-6 for row in rows)


def test_all_strategies_in_one_run(tmp_path):
    """Outside in: choose, refill, filter, repair, noise, temperature."""
    strategies = [
        {"d3s_selection": {"n_init": 50, "n_final": 50}},
        "dynamic_sampling",
        "overlong_filter",
        {"replay": {"tau": 0.5}},
        "noisy_rollout",
        "adaptive_temperature",
    ]
    changes = run_settings(tmp_path, "vlm", rollout__strategies=strategies, rollout__sampling__stop=["a"])
    Trainer(run_config(tmp_path, "vlm", **changes)).run()
    rows = metrics(tmp_path / "run")
    assert len(rows) == 8
    assert all(row["group/zero_signal"] == 0 and row["policy/active_responses"] <= 0.5 for row in rows)
    assert sum(row["rollout/replay/replayed"] for row in rows) > 0
    assert sum(row["policy/grad_norm"] > 0 for row in rows) >= 7
    assert all(value == value for row in rows for value in row.values())


def test_unknown_strategies_and_fields_get_the_nearest_name(tmp_path):
    with pytest.raises(ValueError, match=r"unknown strategy 'dynamic_sample'; did you mean 'dynamic_sampling'\?"):
        config.parse(settings(tmp_path, rollout__strategies=["dynamic_sample"]))
    with pytest.raises(ValueError, match=r"strategy 'replay': unknown key 'per_promt'; did you mean 'per_prompt'\?"):
        config.parse(settings(tmp_path, rollout__strategies=[{"replay": {"per_promt": 3}}]))
