"""How much a step samples: bounds from the config, against what strategies really ask for."""

from __future__ import annotations

import json

import pytest
from canned_stage import CannedStage, prompt, sample
from runs import parse
from strategy_runs import make

from mmcredit import config
from mmcredit.rollout.batch import Ask
from mmcredit.rollout.strategies.spo_tree.strategy import SPOTreeSampling
from mmcredit.rollout.volume import chain_tokens, sampled, tree_size


def volume(tmp_path, *strategies, **changes):
    return sampled(parse(tmp_path, rollout__strategies=list(strategies), **changes))  # 4 prompts x 4, 8 tokens


def test_a_plain_step(tmp_path):
    found = volume(tmp_path)
    assert (found.prompts, found.most_prompts, found.responses, found.most_responses) == (4, 4, 16, 16)
    assert (found.most_tokens, found.rows, found.row_prompts, found.row_tokens) == (128, 16, 4, 8)
    assert found.lines == ()


def test_dynamic_sampling_samples_up_to_its_rounds_and_trains_on_no_more(tmp_path):
    found = volume(tmp_path, {"dynamic_sampling": {"max_rounds": 3}})
    assert (found.responses, found.most_responses, found.most_tokens, found.rows) == (16, 48, 384, 16)
    wide = volume(tmp_path, {"dynamic_sampling": {"max_rounds": 3, "batch": 8}})
    assert (wide.prompts, wide.most_prompts, wide.responses, wide.most_responses) == (8, 24, 32, 96)
    assert "1 to 3 rounds of 8 prompts" in wide.lines[0]


def test_continuations_and_probes_of_a_response(tmp_path):
    # 8 tokens, a boundary before every third: 0, 3, 6, with 8, 5 and 2 tokens left.
    assert chain_tokens(8, 3, None) == (3, 15)
    assert chain_tokens(8, 3, 2) == (2, 12)  # widened to every fourth
    found = volume(tmp_path, {"spo_chain": {"interval": 3, "samples": 2}}, credit=["spo_chain"])
    assert found.most_responses == 16 + 16 * 3 * 2
    assert found.most_tokens == 128 + 16 * 15 * 2
    assert (found.responses, found.rows) == (16, 16)
    probes = volume(tmp_path, {"spae_probes": {"samples": 2, "probe_tokens": 3, "max_steps": 5}}, credit=["spae"])
    assert (probes.most_responses, probes.most_tokens) == (16 + 16 * 5 * 2, 128 + 16 * 5 * 2 * 3)


def test_layers_multiply(tmp_path):
    """Continuations inside of dynamic sampling are sampled in every round; outside, of what is kept."""
    chain = {"spo_chain": {"interval": 3, "samples": 2}}
    dynamic = {"dynamic_sampling": {"max_rounds": 3}}
    inside = volume(tmp_path, dynamic, chain, credit=["spo_chain"])
    outside = volume(tmp_path, chain, dynamic, credit=["spo_chain"])
    assert inside.most_responses == 3 * (16 + 96)
    assert outside.most_responses == 3 * 16 + 96


@pytest.mark.parametrize(("branching", "leaves"), [((3, 2), 8192), ((6, 6), 30), ((4, 2, 2), 8192), ((6, 6, 6), 40)])
def test_a_tree_is_as_large_as_it_grows(branching, leaves):
    """No response ends by itself: the bound is what is sampled."""

    def say(request, member):
        return list(range(request.limit)), "length"

    stage = CannedStage(lambda ids: 0.0, say, limit=9)
    strategy = SPOTreeSampling(branching=branching, max_leaves=leaves)
    asks = [Ask(sample(n), prompt(n), (i + 1,)) for i, n in enumerate("ab")]
    strategy(asks, lambda asks: None, stage)
    segments, found_leaves, tokens = tree_size(branching, 9, strategy.segment(9), 2, leaves)
    assert stage.spent["segments"] == segments
    assert stage.spent["leaves"] == found_leaves
    assert stage.spent["tokens"] == tokens


def test_the_default_tree_costs_about_nine_responses_and_no_step_grows():
    """A first try of 4 x 4: an eighth of the 6-6-6 tree's tokens, and edges that wait do not pile into a step."""
    limit = 48
    small = tree_size((4, 2, 2), limit, 16, 4, 8192)
    paper = tree_size((6, 6, 6), limit, 16, 4, 8192)
    assert small[0] == 4 * 28
    assert paper[0] == 4 * 258
    assert small[2] * 9 < paper[2]
    spread = iter(range(10**9))

    def worth(ids):
        return float(next(spread) % 7)  # nearly every edge has a signal

    strategy = SPOTreeSampling(branching=(6, 6, 6))
    rows = []
    for step in range(4):
        stage = CannedStage(worth, lambda request, member: ([5] * request.limit, "length"), limit=9)
        stage.step = step
        asks = [Ask(sample(f"{step}{n}"), prompt(f"{step}{n}"), (step * 10 + i + 1,)) for i, n in enumerate("ab")]
        rows.append(len(strategy(asks, lambda asks: None, stage)))
    assert rows == [32, 32, 32, 32]  # 16 edges for each of the two prompts of a step
    assert SPOTreeSampling().branching == (4, 2, 2)


def test_recipes_stay_within_their_bounds(tmp_path):
    """A real run samples no more than `check` says."""
    for strategy, credit in (
        ({"spo_tree": {}}, "spo_tree"),
        ({"spo_chain": {"interval": 2, "samples": 3}}, "spo_chain"),
        ({"dynamic_sampling": {"max_rounds": 2}}, "grpo"),
        ({"replay": {}}, "r3"),
    ):
        folder = tmp_path / credit
        folder.mkdir()
        trainer = make(folder, "text", rollout__strategies=[strategy], credit=[credit], run__steps=2)
        bound = sampled(trainer.config)
        trainer.run()
        spent = json.loads((folder / "run" / "cost.json").read_text())["stages"]["rollout"]
        assert 2 * bound.responses <= spent["responses"] <= 2 * bound.most_responses
        assert spent["tokens"] <= 2 * bound.most_tokens


def test_a_strategy_of_another_package_is_taken_as_plain(tmp_path):
    run = config.load("easy_vqa")
    assert sampled(run).most_responses == 256
    reflecting = volume(tmp_path, {"replay": {"k": 1}}, credit=["r3"])
    assert (reflecting.responses, reflecting.most_responses, reflecting.rows) == (16, 32, 36)
    noisy = volume(tmp_path, "noisy_rollout", {"d3s_selection": {}})
    assert noisy.most_responses == 16
    assert len(noisy.lines) == 2
