"""The shipped configs of Perceval: their form asks for statements, and the verifier sees what the reward does not."""

from __future__ import annotations

import pytest

from mmcredit import config
from mmcredit.answers.item import RewardItem
from mmcredit.components import build
from mmcredit.data.media import MediaLimits
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


def test_scenes_ask_for_the_descriptions_that_the_cold_start_teaches():
    holds = form("scenes_perceval")
    taught = load_fit(SFTConfig, "sft_scenes_describe", []).data.train
    samples = build("source", {"scenes": {**taught["scenes"], "size": 60}}).load(MediaLimits())
    assert all(holds(sample.meta["response"]) for sample in samples)
    assert not holds("<think>There is one.</think><answer>2</answer>")
    assert not holds("<think></think><answer>2</answer>")
    truths = SceneOracle().verify([query_of(sample, sample.meta["response"]) for sample in samples])
    assert {said.status for said in truths} == {"clean"}


@pytest.mark.parametrize("name", ["easy_vqa_perceval", "scenes_perceval"])
def test_false_claims_cost_something_in_every_group(name):
    run = config.load(name, None, [])
    (fields,) = [entry["perceval"] for entry in run.credit if isinstance(entry, dict)]
    assert fields["a_min"] > 0
    assert next(iter(run.verifiers[0].values()))["groups"] == "all"
