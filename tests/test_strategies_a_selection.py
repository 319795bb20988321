"""Strategies that choose what is trained on: dynamic sampling, overlong filtering, D3S selection."""

from __future__ import annotations

import itertools

import pytest
import torch
from runs import metrics, settings
from stages import ScriptedStage
from strategy_runs import make

from mmcredit import config
from mmcredit.answers.item import RewardItem
from mmcredit.credit import Pipeline
from mmcredit.objective import Objective
from mmcredit.rewards.length import Length
from mmcredit.rollout.strategies.d3s_selection import D3SSelection
from mmcredit.rollout.strategies.dynamic_sampling import DynamicSampling
from mmcredit.rollout.strategies.outcomes import advantages
from mmcredit.rollout.strategies.overlong_filter import OverlongFilter

# Rewards whose total differs within every group, while the first part (rounded) is right or wrong.
ORDER = {
    "p0": [1.0, 0.9, 0.9, 1.0],  # all right
    "p1": [0.0, 1.0, 0.1, 0.9],
    "p2": [0.1, 0.0, 0.1, 0.0],  # all wrong
    "p3": [0.0, 0.0, 0.1, 1.0],
    "p4": [1.0, 0.0, 0.0, 0.0],
    "p5": [0.0, 0.0, 0.0, 0.0],
}


def test_groups_without_signal_are_replaced_in_order():
    stage = ScriptedStage(ORDER, group=4)
    batch = stage.run(DynamicSampling(), 2)
    assert [s.id for s in batch.samples] == ["p1", "p3"]
    assert batch.rollouts.group.tolist() == [0] * 4 + [1] * 4
    assert batch.rollouts.rewards.tolist() == pytest.approx([*ORDER["p1"], *ORDER["p3"]])
    assert stage.rounds == [2, 2]
    noted = {name.removeprefix("dynamic_sampling/"): value for name, value in stage.notes.items()}
    assert noted == {
        "rounds": 2,
        "groups_all_right": 1,
        "groups_all_wrong": 1,
        "groups_surplus": 0,
        "groups_missing": 0,
    }


def test_surplus_groups_are_cut_off_and_counted():
    stage = ScriptedStage(ORDER, group=4)
    batch = stage.run(DynamicSampling(batch=5), 2)  # DAPO samples more prompts than it trains on
    assert stage.rounds == [5]
    assert [s.id for s in batch.samples] == ["p1", "p3"]
    assert stage.notes["dynamic_sampling/groups_surplus"] == 1


def test_the_total_reward_decides_if_asked():
    stage = ScriptedStage(ORDER, group=4)
    batch = stage.run(DynamicSampling(part="total"), 2)
    assert [s.id for s in batch.samples] == ["p0", "p1"]
    assert stage.rounds == [2]


def test_used_up_rounds_have_a_stated_outcome():
    stage = ScriptedStage(ORDER, group=4)
    batch = stage.run(DynamicSampling(max_rounds=2), 3)
    assert [s.id for s in batch.samples] == ["p1", "p3", "p4"]
    stage = ScriptedStage(ORDER, group=4)
    batch = stage.run(DynamicSampling(max_rounds=1), 3)
    assert [s.id for s in batch.samples] == ["p1"]
    assert stage.notes["dynamic_sampling/groups_missing"] == 2
    message = (
        r"1 rounds of 3 prompts gave 1 of 3 groups whose reward 'accuracy' differs "
        r"\(1 groups all right, 1 all wrong\)"
    )
    with pytest.raises(RuntimeError, match=message):
        ScriptedStage(ORDER, group=4).run(DynamicSampling(max_rounds=1, then="stop"), 3)


def test_without_any_signal_the_first_round_is_trained_on():
    stage = ScriptedStage({f"p{i}": [0.0, 0.0] for i in range(9)}, group=2)
    batch = stage.run(DynamicSampling(max_rounds=3), 3)
    assert [s.id for s in batch.samples] == ["p0", "p1", "p2"]
    assert stage.rounds == [3, 3, 3]
    assert stage.notes["dynamic_sampling/groups_all_wrong"] == 9


# The worked example of D3S: three groups of six.
D3S_REWARDS = [[1, 0, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0], [1] * 6]
A1, A2 = [2.236068] + [-0.447214] * 5, [1.0] * 3 + [-1.0] * 3


def d3s_values():
    rewards = torch.tensor(D3S_REWARDS, dtype=torch.float32).flatten()
    group = torch.arange(3).repeat_interleave(6)
    return advantages(rewards, group, 3), group


def test_d3s_advantages_and_variances_of_the_paper():
    values, group = d3s_values()
    assert values.tolist() == pytest.approx([*A1, *A2, *[0.0] * 6], abs=1e-6)
    everything = torch.ones(18, dtype=torch.bool)
    expected = {2: 2.618034, 4: 1.963525, 6: 1.624226, 8: 1.35, 9: 1.244444, 12: 1.0, 18: 0.666667}
    for count, variance in expected.items():
        keep = D3SSelection().choose(values, everything, group, 100 * count / 18, seed=3)
        assert int(keep.sum()) == count
        assert float(values[keep].var(correction=0)) == pytest.approx(variance, abs=1e-5)
    for count in (2, 4):  # no subset does better
        best = max(float(torch.tensor(c).var(correction=0)) for c in itertools.combinations(values.tolist(), count))
        assert best == pytest.approx(expected[count], abs=1e-5)


def test_d3s_intra_keeps_a_share_of_every_group():
    values, group = d3s_values()
    keep = D3SSelection(scope="intra").choose(values, torch.ones(18, dtype=torch.bool), group, 100 / 3, seed=3)
    kept = [values[keep & (group == g)] for g in range(3)]
    assert [len(k) for k in kept] == [2, 2, 2]
    assert [float(k.var(correction=0)) for k in kept] == pytest.approx([1.8, 1.0, 0.0], abs=1e-5)


def test_d3s_ties_are_drawn_and_do_not_favour_a_place():
    values, group = d3s_values()
    everything = torch.ones(18, dtype=torch.bool)
    # N = 2 is the single right answer of the first group and any of the three wrong ones of the second.
    chosen = {int((D3SSelection().choose(values, everything, group, 100 * 2 / 18, s)).nonzero()[-1]) for s in range(40)}
    assert chosen == {9, 10, 11}
    first = D3SSelection().choose(values, everything, group, 100 * 2 / 18, seed=5)
    assert torch.equal(first, D3SSelection().choose(values, everything, group, 100 * 2 / 18, seed=5))


def test_d3s_schedule_and_what_is_left_out_of_the_loss():
    script = {f"p{i}": rewards for i, rewards in enumerate(D3S_REWARDS)}
    for step, count in ((0, 4), (5, 11), (10, 18)):  # 25 % of 18 = 4.5, rounded half to even; 62.5 % = 11.25
        stage = ScriptedStage(script, group=6, step=step)
        batch = stage.run(D3SSelection(), 3)
        assert int(batch.rollouts.mask.any(1).sum()) == count == stage.notes["d3s_selection/kept"]
        assert bool(batch.rollouts.valid.all())
    stage = ScriptedStage(script, group=6)
    rollouts = stage.run(D3SSelection(), 3).rollouts
    credit = Pipeline([{"grpo": {"ddof": 0, "eps": 0.0}}])(rollouts)
    # Advantages are those of the complete groups, and sum to something else on what is kept.
    kept = rollouts.mask.any(1)
    whole = advantages(rollouts.rewards, rollouts.group, 3)
    assert credit.advantages[kept][:, 0].tolist() == pytest.approx(whole[kept].tolist(), abs=1e-6)
    assert not bool(credit.advantages[~kept].any())
    weights = Objective(aggregate="token_mean").weights(rollouts, credit)
    assert float(weights[kept].sum()) == pytest.approx(1.0)


def test_d3s_has_nothing_to_choose_in_constant_groups_and_skips_filtered_rows():
    stage = ScriptedStage({"p0": [1, 1], "p1": [0, 0]}, group=2)
    assert bool(stage.run(D3SSelection(), 2).rollouts.mask.all())
    values, group = d3s_values()
    pool = torch.ones(18, dtype=torch.bool)
    pool[0] = False  # the largest advantage was cut off by the length limit
    keep = D3SSelection().choose(values, pool, group, 100 * 2 / 17, seed=0)
    assert int(keep.sum()) == 2
    assert not bool(keep[0])
    assert float(values[keep].var(correction=0)) == pytest.approx(1.0)


def test_d3s_refuses_a_second_selection(tmp_path):
    with pytest.raises(ValueError, match=r"credit 'd3s' with scope 'cross' would select a second time"):
        config.parse(settings(tmp_path, rollout__strategies=["d3s_selection"], credit=["grpo", "d3s"]))
    config.parse(settings(tmp_path, rollout__strategies=["d3s_selection"], credit=["grpo", {"d3s": {"scope": "none"}}]))


def test_contract_of_dynamic_sampling(tmp_path):
    with pytest.raises(ValueError, match="a single response always equals itself"):
        config.parse(settings(tmp_path, rollout__strategies=["dynamic_sampling"], rollout__group=1))
    with pytest.raises(ValueError, match="reward part 'acuracy'; this run has"):
        config.parse(settings(tmp_path, rollout__strategies=[{"dynamic_sampling": {"part": "acuracy"}}]))
    for part in (None, "total", "function"):
        config.parse(settings(tmp_path, rollout__strategies=[{"dynamic_sampling": {"part": part}}]))


def test_soft_overlong_penalty_is_daposs():
    reward = Length(l_max=20480)
    lengths = [0, 16384, 17408, 18432, 20480, 30000]
    items = [RewardItem(response="", answer=None, num_tokens=n) for n in lengths]
    assert reward(items) == [0.0, 0.0, -0.25, -0.5, -1.0, -1.0]


def test_filtered_responses_stay_in_the_statistics_but_not_in_the_loss():
    stage = ScriptedStage({"p0": [1, 0, 0, 1]}, group=4)

    def rest(asks):
        batch = stage.sample(asks)
        truncated = torch.tensor([False, True, False, False])
        return batch.replace_rollouts(batch.rollouts.replace(truncated=truncated))

    batch = OverlongFilter()(stage.asks(stage.take(1)), rest, stage)
    rollouts = batch.rollouts
    assert stage.notes["overlong_filter/responses"] == 1
    assert bool(rollouts.valid.all())
    credit = Pipeline(["grpo"])(rollouts)
    assert credit.advantages[:, 0].tolist() == pytest.approx([0.866024, 0.0, -0.866024, 0.866024], abs=1e-5)
    for aggregate, weight in (("token_mean", 1 / 6), ("seq_mean_token_mean", 1 / 6), ("dapo_group", 1 / 6)):
        weights = Objective(aggregate=aggregate).weights(rollouts, credit)
        assert weights[[0, 2, 3]].flatten().tolist() == pytest.approx([weight] * 6)
        assert not bool(weights[1].any())


HALF = """
def e(item):
    return float("e" in item.response)
"""


@pytest.mark.parametrize("kind", ["text", "vlm"])
def test_dynamic_sampling_in_a_run(tmp_path, kind):
    (tmp_path / "half.py").write_text(HALF)
    trainer = make(
        tmp_path, kind, rollout__strategies=["dynamic_sampling"], rollout__group=3,
        rewards=[{"function": {"path": f"{tmp_path / 'half.py'}:e"}}],
    )  # fmt: skip
    trainer.run()
    rows = metrics(tmp_path / "run")
    assert all(row["group/zero_signal"] == 0 and row["policy/grad_norm"] > 0 for row in rows)
    assert max(row["rollout/dynamic_sampling/rounds"] for row in rows) > 1
    assert all(row["response/count"] == 12 for row in rows)
    dropped = sum(row[f"rollout/dynamic_sampling/groups_{n}"] for row in rows for n in ("all_right", "all_wrong"))
    surplus = sum(row["rollout/dynamic_sampling/groups_surplus"] for row in rows)
    assert trainer.stream.order.epochs * len(trainer.parts.samples) == pytest.approx(12 + dropped + surplus)


def test_d3s_in_a_run_scores_and_trains_only_what_it_keeps(tmp_path):
    trainer = make(
        tmp_path, "vlm", rollout__strategies=[{"d3s_selection": {"n_init": 25, "n_final": 25}}],
        credit=[{"grpo": {"ddof": 0}}, {"d3s": {"scope": "none", "k_init": 50, "k_final": 50}}],
    )  # fmt: skip
    trainer.run()
    rows = metrics(tmp_path / "run")
    assert [row["rollout/d3s_selection/kept"] for row in rows] == [4, 4, 4]
    assert all(row["response/count"] == 16 and row["policy/grad_norm"] > 0 for row in rows)
    assert all(row["policy/active_responses"] <= 4 / 16 for row in rows)
    assert all(row["response/length_mean"] > 4 for row in rows)  # of all that was sampled
    positions = trainer.parts.policy.costs.read()["clean"]["positions"]
    everything = sum(row["response/tokens"] for row in rows)
    assert positions < 2 * 0.4 * everything  # scored once and trained once, a quarter of the responses


@pytest.mark.parametrize("kind", ["text", "vlm"])
@pytest.mark.parametrize(
    ("credit", "changes"),
    [
        (["grpo"], {"objective__aggregate": "seq_mean_token_mean"}),
        (["hapo"], {"objective__ratio": "sequence", "objective__regularizers": [{"kl": {"coef": 0.1}}]}),
        (["reinforce_pp_baseline", "forking_tokens"], {"objective__aggregate": "balanced"}),
        (["tempo"], {"train__mini_batches": 2, "objective__aggregate": "dapo_group"}),
    ],
    ids=lambda value: str(value[0]) if isinstance(value, list) else "",
)
def test_a_batch_that_is_truncated_as_a_whole_is_survived(tmp_path, kind, credit, changes):
    changes = {"rollout__sampling": {"max_new_tokens": 1}, **changes}  # no untrained model ends at once
    trainer = make(tmp_path, kind, rollout__strategies=["overlong_filter"], credit=credit, run__steps=2, **changes)
    before = {n: p.clone() for n, p in trainer.parts.policy.trainable_parameters().items()}
    trainer.run()
    assert all(torch.equal(p, before[n]) for n, p in trainer.parts.policy.trainable_parameters().items())
    rows = metrics(tmp_path / "run")
    assert [row["rollout/overlong_filter/responses"] for row in rows] == [16, 16]
    for row in rows:
        assert all(value == value for value in row.values()), row  # no NaN
        assert row["policy/loss"] == row["credit/nonzero_fraction"] == 0
        assert row["response/truncated"] == row["response/length_mean"] == 1
    events = (tmp_path / "run" / "events.jsonl").read_text()
    assert "100% of the responses hit rollout.sampling.max_new_tokens" in events
    assert "no token of this batch has any credit" in events
    assert "sampler and trainer were not compared" in events


def test_a_run_with_some_truncated_responses_learns_from_the_others(tmp_path):
    trainer = make(tmp_path, "text", rollout__strategies=["overlong_filter"], rollout__sampling__stop=["e"])
    trainer.run()
    rows = metrics(tmp_path / "run")
    filtered = [row["rollout/overlong_filter/responses"] for row in rows]
    assert 0 < min(filtered) <= max(filtered) < 16
    assert all(row["response/truncated"] == f / 16 for row, f in zip(rows, filtered, strict=True))
    assert all(row["policy/grad_norm"] > 0 and row["mismatch/kl"] < 1e-6 for row in rows)
