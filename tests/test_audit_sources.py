"""What an audit can take in besides plain responses: insertions, edges of trees, a verifier's flags."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from video_cases import inserted_batch

from mmcredit import config
from mmcredit.audit import board as boards
from mmcredit.audit import command, work
from mmcredit.audit.collect import GOES_ON, TREES, strategies
from mmcredit.audit.command import Options, audit
from mmcredit.audit.estimate import TERMINAL, Plan
from mmcredit.audit.reacting import Behind
from mmcredit.audit.states import find_points
from mmcredit.cli import main
from mmcredit.policy.joined import joined
from mmcredit.policy.passes import CLEAN, Pass
from mmcredit.rollout.reaction import Reply, Said
from mmcredit.rollouts import Inserted, Rollouts

ONLY = [Pass(CLEAN, frozenset({"logprobs"}))]


@pytest.mark.parametrize("family", ["qwen3_vl", "qwen2_5_vl"])
def test_a_prompt_with_the_beginning_of_a_response_reads_the_rest_as_the_response_does(family):
    policy, prompts, rollouts = inserted_batch(family)
    whole = policy.score(prompts, rollouts, ONLY, temperature=1.0)[CLEAN]["logprobs"]
    checked = 0
    for row, own in enumerate(rollouts.inserted):
        length = int(rollouts.valid[row].sum())
        if not own or length == own[-1].end:
            continue
        ids, end = rollouts.tokens[row, :length].tolist(), own[-1].end
        made = joined(prompts[int(rollouts.group[row])], ids[:end], own)
        assert len(made.media_keys) == len(prompts[int(rollouts.group[row])].media_keys) + sum(
            len(one.piece.media_keys) for one in own
        )
        rest = torch.tensor([ids[end:]])
        tail = Rollouts(
            rest, torch.ones_like(rest, dtype=torch.bool), torch.zeros(1, dtype=torch.int64), torch.zeros(1)
        )
        found = policy.score([made], tail, ONLY, temperature=1.0)[CLEAN]["logprobs"]
        torch.testing.assert_close(found[0], whole[row, end:length], atol=1e-5, rtol=0)
        checked += 1
    assert checked >= 6
    # A joined prompt that stood elsewhere would read otherwise.
    own = rollouts.inserted[0]
    ids = rollouts.tokens[0].tolist()
    off = replace(joined(prompts[0], ids[: own[-1].end], own), next_position=3)
    rest = torch.tensor([ids[own[-1].end : own[-1].end + 2]])
    tail = Rollouts(rest, torch.ones_like(rest, dtype=torch.bool), torch.zeros(1, dtype=torch.int64), torch.zeros(1))
    moved = policy.score([off], tail, ONLY, temperature=1.0)[CLEAN]["logprobs"]
    assert float((moved[0] - whole[0, own[-1].end : own[-1].end + 2]).abs().max()) > 1e-4


def test_points_of_a_response_with_an_insertion():
    _, _, rollouts = inserted_batch("qwen3_vl")
    row = 2  # two tokens, a window, one token
    one = rollouts.inserted[row][0]
    points = find_points(rollouts.select(torch.tensor([row])), 8)
    assert len(points.before) == 3  # the window's own tokens have no advantage
    assert points.column.tolist() == [0, 1, one.end]
    before_last = points.states[points.before[2]]
    assert (len(before_last.prefix), before_last.left, before_last.sampled) == (one.end, 6, 2)
    assert before_last.inserted == (one,)
    assert points.after[1] == points.before[2]  # what is inserted belongs to the token that asked for it
    assert points.after[2] == TERMINAL
    broken = rollouts.select(torch.tensor([row])).replace(inserted=None)
    with pytest.raises(ValueError, match="no reaction inserted"):
        find_points(broken, 8)


def test_points_of_edges_begin_behind_their_path():
    tokens = torch.tensor([[5, 6, 7, 8], [5, 6, 9, 0]])
    valid = torch.tensor([[True] * 4, [True, True, True, False]])
    mask = valid & torch.tensor([False, False, True, True])
    edges = Rollouts(tokens, mask, torch.zeros(2, dtype=torch.int64), torch.tensor([0.5, 1.0]), valid=valid)
    points = find_points(edges, 6, [True, False])
    assert [(s.prefix, s.left) for s in points.states] == [((5, 6), 4), ((5, 6, 7), 3), ((5, 6, 7, 8), 2)]
    assert points.before.tolist() == [0, 1, 0]
    assert points.after.tolist() == [1, 2, TERMINAL]
    assert points.column.tolist() == [2, 3, 2]


def test_a_reaction_behind_a_prefix_is_told_the_whole_response():
    heard = []

    class Inner:
        stops, room = (9,), 20

        def __call__(self, said):
            heard.append(said)
            return Reply()

    piece = torch.arange(3)
    first = Inserted(2, type("P", (), {"tokens": piece})())
    reaction = Behind(Inner(), (1, 9, 0, 1, 2, 4), (first,))
    assert reaction.stops == (9,)
    assert reaction.room == 17  # three of twenty are taken
    later = Inserted(1, type("P", (), {"tokens": piece[:2]})())
    reaction(Said(None, 0, 0, (5, 9, 9), (later,), 10, 4))
    assert heard[0].tokens == (1, 9, 0, 1, 2, 4, 5, 9, 9)
    assert [one.at for one in heard[0].inserted] == [2, 7]


def test_trees_and_verifiers_are_audited(tmp_path):
    verifiers = "verifiers=[{easy_vqa_oracle: {groups: all}}]"
    small = ["rollout.group=3", "run.threads=1", "data.train.easy_vqa.limit=20"]
    run = config.load("easy_vqa", None, [verifiers, *small])
    options = Options("grpo, perceval, spo_tree, step_wise", 2, 2, 2, 0, Plan(2, 4))
    found = audit(run, tmp_path / "out", options, lambda name, total: lambda count: None)
    rows = {r.label: r for r in boards.board(found, draws=30).rows}
    tree = rows[f"spo_tree {boards.OWN}"]
    assert "perceval" in rows
    assert "step_judge" in found.refused["step_wise"]
    (grown,) = found.trees
    signals = grown.frozen.rollouts.signals
    assert bool(signals[GOES_ON].any())
    assert set(grown.group.tolist()) == {0, 1}
    # All tokens of an edge share its credit, which is the change of value along it before whitening.
    credit = grown.credit["spo_tree"]
    for edge in range(len(grown.frozen.rollouts)):
        own = credit[grown.truth.row == edge]
        assert len(np.unique(own[own != 0])) <= 1
    assert tree.gradient_over_grpo is None
    assert tree.noise is None or tree.noise > 0
    # The same audit without the verifier is another one; its rollouts are the same.
    (tmp_path / "out" / command.SETTINGS).unlink()
    plain = config.load("easy_vqa", None, small)
    again = audit(plain, tmp_path / "out", replace(options, gradient=False), lambda name, total: lambda count: None)
    assert "verifiers: easy_vqa_oracle" in again.refused["perceval"]
    assert (again.batches[0].credit["grpo"] == found.batches[0].credit["grpo"]).all()
    assert (tmp_path / "out" / TREES / work.TRUTHS).is_dir()


def test_what_inserts_stays_and_what_cannot_stand_around_it_is_refused(capsys):
    run = config.load("video_events", None, ["model.path=builtin:tiny-qwen3-vl"])
    found = strategies(run)
    assert all(isinstance(found[name], str) for name in ("spo_chain", "spae_probes", "spo_tree"))
    assert "without the frames" in found["spo_chain"]
    from mmcredit.audit.collect import plain_config

    assert [next(iter(s)) for s in plain_config(run).rollout.strategies] == ["retrieval"]
    assert main(["audit", "video_events", "--exact", "--prompts", "1", "model.path=builtin:no-such"]) == 2
    capsys.readouterr()
