"""Everything wrong with a config is said at once, by name, before a model is loaded."""

import subprocess
import sys

import pytest
import yaml
from runs import settings

from mmcredit import config, config_files


def test_resolved_config_reads_back_the_same(tmp_path):
    first = config.parse(settings(tmp_path, run__seed=7))
    again = config.parse(yaml.safe_load(config.dump(first)))
    assert again == first


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train__learning_rat": 1}, r"unknown key 'train.learning_rat'; did you mean 'learning_rate'\?"),
        ({"trian": {}}, r"unknown key 'trian'; did you mean 'train'\?"),
        ({"train__learning_rate": "fast"}, r"train.learning_rate: .* got 'fast'"),
        ({"train__learning_rate": -1.0}, r"train.learning_rate: .*greater than 0, got -1.0"),
        ({"credit": ["grop"]}, r"unknown credit 'grop'; did you mean 'grpo'\?"),
        ({"credit": [{"grpo": {"ddof": 3}}]}, r"credit 'grpo': ddof: .*got 3"),
        ({"rewards": [{"exact_answr": {}}]}, r"unknown reward 'exact_answr'; did you mean 'exact_answer'\?"),
        ({"rewards": []}, r"rewards: .*at least 1"),
        ({"objective__aggregate": "token_men"}, r"unknown aggregate 'token_men'; did you mean 'token_mean'\?"),
        ({"objective__clip": {"low": 0.2, "hgih": 0.3}}, r"clip 'fixed': unknown key 'hgih'; did you mean 'high'\?"),
        ({"data__train": {"easy_vqaa": {}}}, r"unknown source 'easy_vqaa'; did you mean 'easy_vqa'\?"),
        (
            {"log__signals": ["entropie"]},
            r"signal 'entropie' is needed, but nothing computes it; did you mean 'entropy'\?",
        ),
        ({"train__mini_batches": 3}, "train.mini_batches 3 must divide rollout.prompts 4"),
        ({"evaluate__reward": "format"}, "evaluate.reward 'format'"),
        ({"credit": ["grpo", "tree_grpo"]}, "unknown credit 'tree_grpo'"),
        ({"credit": ["pgpo"]}, "'pgpo' reshapes advantages and cannot stand first"),
    ],
)
def test_mistakes_are_named(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        config.parse(settings(tmp_path, **changes))


def test_overrides_reach_every_level(tmp_path):
    content = settings(tmp_path)
    content["rollout"]["engine"] = "hf"
    config_files.override(
        content,
        [
            "train.learning_rate=3e-4",
            "rewards.0.function.weight=0.5",
            "rollout.engine.hf.max_concurrent=7",
            "credit=[dr_grpo]",
            "objective.aggregate=dr_grpo",
            "objective.aggregate.dr_grpo.max_length=9",
        ],
    )
    parsed = config.parse(content)
    assert parsed.train.learning_rate == 3e-4
    assert parsed.rewards[0]["function"]["weight"] == 0.5
    assert parsed.rollout.engine == {"hf": {"max_concurrent": 7}}
    assert parsed.credit == ["dr_grpo"]
    assert parsed.objective.aggregate == {"dr_grpo": {"max_length": 9}}
    assert config_files.override({"credit": ["grpo"]}, ["credit.0.grpo.ddof=0"]) == {"credit": [{"grpo": {"ddof": 0}}]}
    with pytest.raises(ValueError, match="must look like key.sub=value"):
        config_files.override({}, ["train"])
    with pytest.raises(ValueError, match="'5' must be a position 0..0"):
        config_files.override(content, ["rewards.5=exact_answer"])


def test_a_recipe_is_laid_over_the_config(tmp_path):
    base = {"credit": ["grpo"], "objective": {"clip": {"low": 0.2, "high": 0.2}}, "run": {"seed": 3}}
    recipe = {"credit": ["dr_grpo"], "objective": {"clip": {"high": 0.28}, "aggregate": "dr_grpo"}}
    merged = config_files.merge(base, recipe)
    assert merged == {
        "credit": ["dr_grpo"],
        "objective": {"clip": {"low": 0.2, "high": 0.28}, "aggregate": "dr_grpo"},
        "run": {"seed": 3},
    }
    other = config_files.merge({"data": {"train": {"jsonl": {"path": "a"}}}}, {"data": {"train": {"easy_vqa": {}}}})
    assert other == {"data": {"train": {"easy_vqa": {}}}}


def test_a_recipes_loss_does_not_depend_on_the_config_below_it():
    base = {"objective": {"clip": {"low": 0.2, "high": 0.2}, "regularizers": [{"kl": {}}]}, "train": {"epochs": 2}}
    recipe = {
        "objective": {"clip": {"dcpo": {}}},
        "train": {"mini_batches": 4},
        "published": {"train": {"learning_rate": 1e-6}, "rollout": {"group": 16}},
    }
    assert config_files.lay_over(base, recipe) == {
        "objective": {"clip": {"dcpo": {}}},
        "train": {"epochs": 2, "mini_batches": 4},
    }
    assert config_files.lay_over(base, recipe, published=True) == {
        "objective": {"clip": {"dcpo": {}}},
        "train": {"epochs": 2, "mini_batches": 4, "learning_rate": 1e-6},
        "rollout": {"group": 16},
    }


@pytest.mark.parametrize("base", ["easy_vqa", "text_math"])
@pytest.mark.parametrize("published", [False, True])
@pytest.mark.parametrize("recipe", sorted(config_files.recipes()))
def test_every_recipe_fits_every_shipped_config(recipe, base, published):
    parsed = config.load(base, recipe, published=published)
    content = config_files.read_yaml(config_files.find(recipe, "configs/methods"))
    assert parsed.credit == content["credit"]
    if published and "learning_rate" in content.get("published", {}).get("train", {}):
        assert parsed.train.learning_rate == float(content["published"]["train"]["learning_rate"])


def test_published_needs_a_recipe():
    with pytest.raises(ValueError, match="name one with --method"):
        config.load("easy_vqa", published=True)


def test_dr_grpo_divides_by_the_runs_response_limit(tmp_path):
    parsed = config.parse(settings(tmp_path, objective__aggregate="dr_grpo", rollout__sampling={"max_new_tokens": 33}))
    assert parsed.build_objective().aggregate.max_length == 33


def test_dry_run_does_not_load_torch(tmp_path):
    """Every shipped config is checked in a process that ends without torch in memory."""
    program = """
import sys
from pathlib import Path
from mmcredit import cli
from mmcredit.deferred import loaded
for path in sorted(Path(sys.argv[1]).glob("*.yaml")):
    command = path.stem.partition("_")[0]
    if command not in ("sft", "dpo"):
        assert cli.main(["train", str(path), "--dry-run"]) == 0, path
assert cli.main(["methods"]) == 0
assert not loaded("torch"), "torch was loaded"
assert "transformers" not in sys.modules
"""
    configs = config.Path(config.__file__).resolve().parent.parent / "configs"
    result = subprocess.run([sys.executable, "-c", program, str(configs)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_a_group_of_one_is_refused_where_nothing_could_be_learnt() -> None:
    with pytest.raises(ValueError, match="rollout.group is 1, but 'grpo' compares"):
        config.load("easy_vqa", overrides=["rollout.group=1"])
    config.load("easy_vqa", overrides=["rollout.group=1", "credit=[reinforce_pp]"])


def test_a_message_of_ours_stands_without_the_validators_prefix() -> None:
    with pytest.raises(ValueError, match="^config: unknown engine 'vlm'; did you mean 'vllm'"):
        config.load("easy_vqa", overrides=["rollout.engine=vlm"])
