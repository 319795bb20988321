"""What is said of a folder that was written with other settings, and what is not other."""

import json
from typing import Any

import pytest
import yaml
from pydantic import BaseModel, Field

from mmcredit.cli import main
from mmcredit.config import RunConfig
from mmcredit.settings import below, changes, defaults_of, told
from mmcredit.train.begin import where_to_begin
from mmcredit.train.checkpoint import Checkpoints


class Inner(BaseModel):
    rate: float = 0.1
    kinds: list[str] = Field(default_factory=lambda: ["a"])


class Outer(BaseModel):
    path: str
    inner: Inner = Field(default_factory=Inner)
    more: Inner | None = None


def test_differences_are_named_with_their_dots_and_at_most_three_of_them() -> None:
    found = changes({"a": {"b": 1, "x": 0}, "c": 2, "e": [1], "f": "y"}, {"a": {"b": 3, "x": 0}, "c": 2.5, "e": []})
    assert found == {"a.b": "1 -> 3", "c": "2 -> 2.5", "e": "[1] -> []", "f": '"y" -> (not set)'}
    assert told(found) == "a.b 1 -> 3; c 2 -> 2.5; e [1] -> []; and 1 more"
    assert below(found, ["a", "e"]) == {"a.b": "1 -> 3", "e": "[1] -> []"}
    assert len(told(changes("x" * 500, "y"))) < 80


def test_a_setting_that_did_not_exist_yet_counts_as_its_default() -> None:
    defaults = defaults_of(Outer)
    assert defaults == {"inner": {"rate": 0.1, "kinds": ["a"]}, "more": None}
    old: dict[str, Any] = {"path": "x", "inner": {"kinds": ["a"]}}
    now = Outer(path="x").model_dump(mode="json")
    assert changes(old, now, defaults) == {}
    assert changes({"path": "x"}, now, defaults) == {}
    assert changes(old, now | {"inner": {"rate": 0.2, "kinds": ["a"]}}, defaults) == {"inner.rate": "0.1 -> 0.2"}


def test_a_folder_of_an_older_version_goes_on(tmp_path, run_config) -> None:
    plain = run_config.model_dump(mode="json")
    for block, name in (("rollout", "ahead"), ("model", "freeze_vision"), ("log", "signals")):
        del plain[block][name]
    del plain["check"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(plain))
    checkpoint = tmp_path / "checkpoints" / "step-000003"
    checkpoint.mkdir(parents=True)
    (checkpoint / "manifest.json").write_text(json.dumps({"step": 3, "sizes": {}}))
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    begin = where_to_begin(tmp_path, checkpoints, True, run_config)
    assert (begin.checkpoint, begin.notes) == ("step-000003", ())
    run_config.train.learning_rate = 0.5
    begin = where_to_begin(tmp_path, checkpoints, True, run_config)
    assert begin.notes[0].startswith("goes on with other settings: train.learning_rate ")
    assert begin.notes[0].endswith(" -> 0.5")
    run_config.model.path = "elsewhere"
    with pytest.raises(ValueError, match=r"holds another run: model.path .* -> \"elsewhere\"; give its settings"):
        where_to_begin(tmp_path, checkpoints, True, run_config)
    (tmp_path / "metrics.jsonl").touch()
    with pytest.raises(ValueError, match=r"holds a run already with other settings \(model.path .*; go on with"):
        where_to_begin(tmp_path, checkpoints, False, run_config)
    begin = where_to_begin(tmp_path / "typo", Checkpoints(tmp_path / "no"), True, run_config)
    assert "begins at step 0" in begin.notes[0]


@pytest.fixture
def run_config() -> RunConfig:
    from mmcredit.config import load

    return load("easy_vqa")


def test_the_command_line_says_it_in_one_line(tmp_path, capsys) -> None:
    (tmp_path / "metrics.jsonl").touch()
    assert main(["train", "easy_vqa", f"run.dir={tmp_path}"]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
