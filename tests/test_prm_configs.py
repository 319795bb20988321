"""The shipped configs of Perceval: their form asks for statements, and the verifier sees what the reward does not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmcredit import config
from mmcredit.answers.item import RewardItem
from mmcredit.components import build
from mmcredit.data.media import MediaLimits
from mmcredit.policy.load import resolve_path
from mmcredit.supervised.config import SFTConfig
from mmcredit.supervised.config import load as load_fit
from prm.oracles import SceneOracle
from prm.verifier import query_of


def form(name):
    (fields,) = [entry["format"] for entry in config.load(name, None, []).rewards if "format" in entry]
    reward = build("reward", {"format": fields})
    return lambda text: reward([RewardItem(text, None)]) == [1.0]


def test_easy_vqa_asks_for_a_description_true_or_not():
    holds = form("easy_vqa_perceval")
    assert holds("<think>The image shows a red circle.</think><answer>red</answer>")
    assert not holds("<think>The image shows a.</think><answer>red</answer>")
    assert not holds("<think>The image shows a red circle.</think><answer>red</answer> and more")
    assert not holds("<think>The image shows a red circle.</think><answer>red</answer><answer>blue</answer>")


def test_scenes_ask_for_the_claims_that_the_cold_start_teaches():
    (fields,) = [entry["claims"] for entry in config.load("scenes_describe", None, []).rewards if "claims" in entry]
    reward = build("reward", {"claims": fields})
    taught = load_fit(SFTConfig, "sft_scenes_describe", []).data.train
    samples = build("source", {"scenes": {**taught["scenes"], "size": 60}}).load(MediaLimits())
    assert set(reward([RewardItem(sample.meta["response"], None) for sample in samples])) == {1.0}
    truths = SceneOracle().verify([query_of(sample, sample.meta["response"]) for sample in samples])
    assert {said.status for said in truths} == {"clean"}


@pytest.mark.parametrize(
    ("thought", "value"),
    [
        ("There is a red star at the top left. there are 2 stars. the red star is a circle.", 1.0),  # true or not
        ("There is a red star at the top left, a red circle at the center. there are 2 stars.", 1.0),
        ("There is a red star. there are 2 stars.", 2 / 3),
        ("There are 2 stars. There are 2  stars. there are 2 stars.", 1 / 3),  # said again is not said
        ("There is a star at the purple square. the top of it. there are 2 stars.", 1 / 3 * 1 / 3),
        ("Nothing", 0.0),
        ("", 0.0),
    ],
)
def test_what_the_reward_claims_pays_for(thought, value):
    reward = build("reward", {"claims": {"least": 3}})
    blocks = f"<think>{thought}</think><answer>2</answer>"
    for text in (blocks, blocks.replace("</think>", "</think>\n")):
        assert reward([RewardItem(text, None)]) == [pytest.approx(value)]
    for text in (thought, blocks + " and more", blocks.replace("</answer>", ""), blocks + blocks):
        assert reward([RewardItem(text, None)]) == [0.0]


@pytest.mark.parametrize("name", ["easy_vqa_perceval", "scenes_perceval"])
def test_false_claims_cost_something_in_every_group(name):
    run = config.load(name, None, [])
    (fields,) = [entry["perceval"] for entry in run.credit if isinstance(entry, dict)]
    assert fields["a_min"] > 0
    assert next(iter(run.verifiers[0].values()))["groups"] == "all"


@pytest.mark.parametrize(("plain", "perceval"), [("scenes_describe", "scenes_perceval")])
def test_the_pair_differs_by_verifier_and_credit_alone(plain, perceval):
    one, other = (config.load(name, None, []).model_dump() for name in (plain, perceval))
    assert other.pop("verifiers")
    assert not one.pop("verifiers")
    for each in (one, other):
        each.pop("run")
        each.pop("credit")
    assert one == other


def test_rl_on_the_verifier_is_a_config_of_the_normal_trainer():
    run = config.load("configs/prm/easy_vqa_rl.yaml", None, [])
    assert list(run.rewards) == ["span_iou"]
    assert run.evaluate.reward == "span_iou"
    assert Path(resolve_path(run.model.path)).name == "tiny-prm-easy-vqa"


def test_the_models_of_the_package_are_small_and_say_where_they_come_from():
    home = Path(resolve_path("builtin:tiny-prm-easy-vqa")).parent
    assert sum(path.stat().st_size for path in home.rglob("*") if path.is_file()) < 6 * 2**20
    policy = Path(resolve_path(config.load("scenes_describe", None, []).model.path))
    assert policy.parent == home
    record = json.loads((policy / "provenance.json").read_text())
    assert record["command"] == "mmcredit sft sft_scenes_describe"
    for mode in ("greedy", "sampled"):
        found = record[mode]
        assert found["questions"] >= 500
        assert found["claims"] >= 3
        assert 0.2 < found["false_share"] < 0.6  # natural mistakes, and truths
    assert record["greedy"]["accuracy"] > 0.3  # without looking 0.24
