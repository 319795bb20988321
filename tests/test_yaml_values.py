"""What stands in YAML without quotes is a name or a number as its field says, whatever it looks like."""

from __future__ import annotations

import copy
import json

import pytest
import yaml
from pydantic import BaseModel
from runs import settings

from mmcredit import config, config_files, yaml_values
from mmcredit.cli import main
from mmcredit.components import build
from mmcredit.evaluate.ask.questions import listed
from mmcredit.replay.methods import parse as parse_methods

NAMES = ["1e-4", "1e5", "123", "0x10", "010", "1_000", "1:30", "no", "true", "on", "2024-01-01", ".5", "1.", "+7", "-0"]


def parsed(tmp_path, *overrides):
    return config.parse(config_files.override(settings(tmp_path), overrides))


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_looks_like_something_else_is_a_name(tmp_path, name):
    run = parsed(tmp_path, f"run.name={name}", f"run.dir={name}", f"rollout.sampling.stop=[{name}, '{name}', \"x\"]")
    assert run.run.name == name
    assert str(run.run.dir) == str(config.Path(name))
    assert run.rollout.sampling.stop == (name, name, "x")
    for quoted in (f"'{name}'", f'"{name}"'):
        assert parsed(tmp_path, f"run.name={quoted}").run.name == name
    again = config.parse(yaml_values.read(config.dump(run)))
    assert again == run
    assert config.parse(yaml.safe_load(config.dump(run))) == run  # any other YAML reader sees the names as text, too


def test_a_file_means_the_same_as_overrides(tmp_path):
    content = settings(tmp_path)
    path = tmp_path / "config.yaml"
    path.write_text(
        yaml.safe_dump(content).replace("run:\n", "run:\n  name: 1e-4\n").replace(f"'{tmp_path}/run'", "1e-5")
        + "evaluate: {limit: 1e3}\nmodel:\n  path: 1e9\n  template_variables: {depth: 1e1, mode: '1e1', think: no}\n"
    )
    run = config.load(path)
    assert (run.run.name, run.model.path, run.evaluate.limit) == ("1e-4", "1e9", 1000)
    # A mapping of anything has no type to go by: there quotes decide.
    assert run.model.template_variables == {"depth": 10.0, "mode": "1e1", "think": False}
    assert type(run.model.template_variables["think"]) is bool
    assert config.parse(yaml_values.read(config.dump(run))) == run


def test_numbers_are_numbers_and_switches_switches(tmp_path):
    run = parsed(
        tmp_path, "train.learning_rate=3e-4", "train.betas=[9e-1, '0.99']", "run.steps=1e2", "run.seed=7",
        "log.tensorboard=no", "train.max_grad_norm=null", "checkpoint.final=off", "train.weight_decay='1e-2'",
    )  # fmt: skip
    assert (run.train.learning_rate, run.train.betas, run.run.steps) == (3e-4, (0.9, 0.99), 100)
    assert (run.log.tensorboard, run.train.max_grad_norm, run.checkpoint.final) == (False, None, False)
    assert run.train.weight_decay == 0.01
    for value in (run.train.learning_rate, run.run.seed, run.log.tensorboard, *run.train.betas):
        assert type(value) in (int, float, bool)
    with pytest.raises(ValueError, match=r"run.steps: .* got 1.5"):
        parsed(tmp_path, "run.steps=1.5")
    with pytest.raises(ValueError, match=r"train.learning_rate: .* got 'fast'"):
        parsed(tmp_path, "train.learning_rate=fast")
    with pytest.raises(ValueError, match=r"override 'run.name=\[1' *: not valid YAML|not valid YAML"):
        parsed(tmp_path, "run.name=[1")


def test_fields_of_components_go_by_their_types(tmp_path):
    run = parsed(
        tmp_path,
        "rewards.0.function.label=1e3",
        "rewards.0.function.weight=5e-1",
        "rewards.0.function.timeout=2",
        "data.train={jsonl: {path: 1e5, system: 007}}",
        "credit=[{grpo: {eps: 1e-6}}]",
        "objective.clip={low: 1e-1, high: 2e-1}",
        "objective.regularizers=[{kl: {coef: 1e-3}}]",
        "rollout.engine={hf: {max_concurrent: 1e2}}",
    )
    function = run.rewards[0]["function"]
    assert (function["label"], function["weight"], function["timeout"]) == ("1e3", 0.5, 2)
    assert run.data.train == {"jsonl": {"path": "1e5", "system": "007"}}
    assert run.credit == [{"grpo": {"eps": 1e-6}}]
    assert run.objective.clip == {"low": 0.1, "high": 0.2}
    assert run.objective.regularizers == [{"kl": {"coef": 1e-3}}]
    assert run.rollout.engine == {"hf": {"max_concurrent": 100.0}}
    json.dumps(run.model_dump(mode="json"))
    assert config.parse(yaml_values.read(config.dump(run))) == run


def test_options_that_hold_components_go_by_type_too():
    assert build("reward", listed("{exact_answer: {label: 1e3, tag: no}}")[0]).label == "1e3"
    assert build("reward", listed("{exact_answer: {label: 1e3, tag: no}}")[0]).tag == "no"
    assert build("credit", parse_methods("{grpo: {eps: 1e-6}}")[0]).eps == 1e-6


class Sample(BaseModel):
    either: str | int = ""
    paths: list[config.Path] = []
    pairs: dict[str, str] = {}
    fixed: tuple[str, float] = ("", 0.0)


def test_unions_lists_and_mappings():
    found = yaml_values.typed_fields(
        yaml_values.read("{either: 12, paths: [1e1, 2], pairs: {a: 1e1, 7: no}, fixed: [1e1, 1e1], other: 1e1}"), Sample
    )
    assert found == {
        "either": 12, "paths": ["1e1", "2"], "pairs": {"a": "1e1", 7: "no"}, "fixed": ["1e1", 10.0], "other": 10.0,
    }  # fmt: skip
    assert yaml_values.typed_fields(yaml_values.read("either: 2024-01-01"), Sample) == {"either": "2024-01-01"}


def test_read_is_plain_data_that_remembers():
    content = yaml_values.read("{a: 1e-4, b: [1, no, 'no', null, 2024-01-01], c: &x {d: 5}, e: *x, yes: 1}")
    assert content == {"a": 1e-4, "b": [1, False, "no", None, "2024-01-01"], "c": {"d": 5}, "e": {"d": 5}, True: 1}
    assert copy.deepcopy(content)["a"].text == "1e-4"
    assert yaml_values.plain(content) == content
    assert type(yaml_values.plain(content)["b"][1]) is bool
    with pytest.raises(yaml.YAMLError):
        yaml_values.read("!!python/object/apply:os.getcwd []")


def test_the_command_line(tmp_path, capsys):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(settings(tmp_path)))
    assert (
        main(["train", str(path), "--dry-run", "run.name=1e-4", "run.dir=1e-5", "rollout.sampling.stop=['1e3']"]) == 0
    )
    resolved = yaml_values.read(capsys.readouterr().out)
    run = config.parse(resolved)
    assert (run.run.name, str(run.run.dir), run.rollout.sampling.stop) == ("1e-4", "1e-5", ("1e3",))
